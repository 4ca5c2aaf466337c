"""What the starts that a dead process left behind say of the engines that it served with. Pure.

Nobody saw such a process end: a crash in native code, or a kill from outside, leaves no more than the rows of what it
was doing. So its engines are suspected, not convicted; core.fallback counts crashes that no job can explain.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from uuid import UUID

from worker.core.fallback import Failure, FailureKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What a process was doing. `engines`: keys of the steps that served then, a candidate's last. `job` is None where
    it was not at a job but opened the engines."""

    process: UUID
    engines: tuple[str, ...]
    solo: bool
    at: datetime
    job: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Crash:
    """How one process ended."""

    process: UUID
    failure: Failure
    detail: str


def crashes(starts: Iterable[Start]) -> list[Crash]:
    """One a process, oldest first."""
    ordered = sorted(starts, key=lambda start: (start.process, start.at))
    found = [_crash(list(own)) for _, own in groupby(ordered, key=lambda start: start.process)]
    return sorted(found, key=lambda crash: crash.failure.at)


def _crash(starts: Sequence[Start]) -> Crash:
    """Opening engines comes before any job: it names them. A job that runs alone is alone on the machine as well."""
    last = starts[-1]
    opening = [start for start in starts if start.job is None]
    if opening:
        failure = Failure(step=opening[-1].engines[-1], kind=FailureKind.DIED, at=opening[-1].at)
        return Crash(process=last.process, failure=failure, detail="the process ended while they were opened")
    among = [start for start in starts if start.solo] or starts
    jobs = frozenset(start.job for start in among if start.job is not None)
    failure = Failure(step=_suspect(among[-1]), kind=FailureKind.CRASHED, at=last.at, jobs=jobs)
    told = f"the process ended without a word while {len(jobs)} jobs were on them"
    return Crash(process=last.process, failure=failure, detail=told)


def _suspect(start: Start) -> str:
    """A candidate before what has served for longer; but no candidate looks at a job that runs alone."""
    return start.engines[0] if start.solo else start.engines[-1]
