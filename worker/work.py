"""A job on its way through the stages: each stage makes the next value, which carries all that came before."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from schemas.job import AuthenticationJob, JobView
from schemas.message import InputRecord
from worker.core.courses import Whose
from worker.core.evidence import JobEvidence, StoredView, UnusableView
from worker.core.policy import Policy
from worker.outcomes import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """Intake's hand-off: a parsed job, the attempt it is on, and the bytes it holds of the global budget."""

    record: InputRecord
    job: AuthenticationJob
    attempt: int  # from 1
    first_seen: datetime
    received_s: float  # time.monotonic()
    held_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """Fetch's hand-off: verified bytes a usable view, or what a verdict stored of it."""

    received: Received
    images: tuple[tuple[JobView, bytes], ...] = field(repr=False)
    unusable: tuple[UnusableView, ...]
    queue_ms: float
    fetch_ms: float
    stored: tuple[StoredView, ...] = ()  # views that are decided again without their photographs


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """The other answer to a job that a release compares. `evidence` is of the engines whose verdict is not published,
    None where the candidate failed; then `error` says at what, and `candidate_ms` is None."""

    release: UUID
    published: Whose
    evidence: JobEvidence | None
    error: str | None
    current_ms: float
    candidate_ms: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """Embed's hand-off: the evidence, and the policy of the gallery snapshot that it was matched with."""

    received: Received
    evidence: JobEvidence
    policy: Policy
    images: tuple[tuple[JobView, bytes], ...] = field(repr=False, default=())  # for the evidence store
    rival: Rival | None = None


Settleable = Embedded | Outcome
