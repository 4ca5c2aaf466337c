"""Every end of a job is a value: Judged, Rejected or Retry; only settle acts on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from schemas.codes import ErrorCode
from schemas.job import AuthenticationJob
from schemas.message import InputRecord
from schemas.verdict import VerdictEvent
from worker.core.courses import Comparison
from worker.core.evidence import JobEvidence


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A verdict was reached. `evidence` rides along for the rows that the event does not hold (probe embeddings),
    `comparison` where a candidate engine looked at the job as well."""

    record: InputRecord
    job: AuthenticationJob
    event: VerdictEvent
    evidence: JobEvidence
    attempt: int
    comparison: Comparison | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """The job becomes a dead letter. `job` is None where no job could be read from the record."""

    record: InputRecord
    job: AuthenticationJob | None
    code: ErrorCode
    stage: str
    detail: str
    attempt: int
    first_seen: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Try again later: the original record goes to a retry topic with its next attempt and due time.

    `straggler`: nothing failed, but its images are slow to come; it goes to the slow lane with the attempt it is on.
    """

    record: InputRecord
    job: AuthenticationJob
    stage: str
    detail: str
    attempt: int  # the attempt that just failed, from 1
    due: datetime = field()
    first_seen: datetime = field()
    straggler: bool = False


Outcome = Judged | Rejected | Retry
