"""Which engines answer a job, and how two answers to one job compare. Pure values.

A job is answered by one set of engines from its first view to its last, whatever is swapped meanwhile: probes of two
sets are never in one evidence. Where a release compares a candidate, a second set looks at the job as well.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

from schemas.codes import Verdict

Whose = Literal["candidate", "current"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answering:
    """A set of engines. `keys` maps an encoder's name to what a view's `encoder` must say for this set to answer it;
    a name that is not there is its own key. `degraded`: a fallback answers."""

    keys: Mapping[str, str] = field(default_factory=dict)
    degraded: bool = False

    def key(self, encoder: str) -> str:
        return self.keys.get(encoder, encoder)


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """A candidate for `encoder`, which looks at the job as well; its set shares the other encoders. `publishes`: its
    verdict is the job's, where it reaches one."""

    release: UUID
    encoder: str
    answering: Answering
    publishes: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEngines:
    """The engines of one job, for as long as it is here."""

    serving: Answering = Answering()
    beside: Beside | None = None

    def keys(self, encoder: str) -> tuple[str, ...]:
        """Whom a view of this encoder goes to: one key, or two."""
        sets = (self.serving, self.beside.answering) if self.beside else (self.serving,)
        return tuple(dict.fromkeys(answering.key(encoder) for answering in sets))


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What both sets led to in one job. `candidate_error` says why the candidate has no verdict; its other fields are
    None then. Milliseconds are those of the job's views on the engine."""

    release: UUID
    published: Whose
    current_verdict: Verdict
    current_p_genuine: float | None
    current_ms: float
    candidate_verdict: Verdict | None = None
    candidate_p_genuine: float | None = None
    candidate_ms: float | None = None
    candidate_error: str | None = None


def concerns(beside: Beside, encoders: Collection[str]) -> bool:
    """Whether a candidate sees anything of a job whose views go to these encoders."""
    return beside.encoder in encoders
