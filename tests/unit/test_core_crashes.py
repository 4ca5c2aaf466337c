"""What the starts of dead processes say: whose engines are suspected, and with which jobs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from worker.core.crashes import Start, crashes
from worker.core.fallback import Failure, FailureKind

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)
CURRENT, CANDIDATE = "a=1 on cpu", "a=2 on cpu"


def start(job: str | None, process: int = 1, *engines: str, solo: bool = False, second: int = 0) -> Start:
    at = NOON + timedelta(seconds=second)
    return Start(process=UUID(int=process), engines=engines or (CURRENT,), solo=solo, at=at, job=job)


def failures(*starts: Start) -> list[Failure]:
    return [crash.failure for crash in crashes(starts)]


def crash(step: str, *jobs: str, second: int = 0) -> Failure:
    at = NOON + timedelta(seconds=second)
    return Failure(step=step, kind=FailureKind.CRASHED, at=at, jobs=frozenset(jobs))


def test_each_process_crashed_once_with_all_that_it_had() -> None:
    assert failures(start("x", 2, second=9), start("x"), start("y", second=3)) == [
        crash(CURRENT, "x", "y", second=3),
        crash(CURRENT, "x", second=9),
    ]
    assert failures() == []


def test_a_candidate_is_suspected_before_what_served_without_it() -> None:
    assert failures(start("x", 1, CURRENT, CANDIDATE)) == [crash(CANDIDATE, "x")]
    swapped = start("x", 1, CURRENT), start("y", 1, CURRENT, CANDIDATE, second=1)
    assert failures(*swapped) == [crash(CANDIDATE, "x", "y", second=1)]


def test_a_job_that_ran_alone_was_alone_and_no_candidate_looked_at_it() -> None:
    beside = start("y", 1, CURRENT, CANDIDATE)
    assert failures(beside, start("x", 1, CURRENT, CANDIDATE, solo=True, second=1)) == [crash(CURRENT, "x", second=1)]


def test_engines_that_were_being_opened_are_named_whatever_else_went_on() -> None:
    (found,) = failures(start(None, 1, CANDIDATE), start("x", second=5))
    assert (found.step, found.kind, found.at, found.jobs) == (CANDIDATE, FailureKind.DIED, NOON, frozenset())
