"""What the next process of a slot learns of the one that died without a word, on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from outcome_builders import NOON, a_job, a_record
from sqlalchemy import Engine, make_url, text

from migrations.session import transaction
from worker.adapters.alarm_outbox import Outbox
from worker.adapters.attempts import PostgresAttempts
from worker.adapters.database import connect
from worker.adapters.engine_failures import EngineFailures
from worker.core.fallback import Failure, FailureKind
from worker.work import Received

OUTBOX = Outbox(topic="alerts", source="assay")
CURRENT, CANDIDATE = "a=1 on cpu", "a=2 on cpu"


@pytest.fixture
def database(database_url: str) -> Iterator[Engine]:
    """The role's rights are part of the contract."""
    with transaction(database_url) as connection:
        connection.execute(text("GRANT assay_worker TO CURRENT_USER"))
    url = make_url(database_url).update_query_dict({"options": "-c role=assay_worker"})
    made = connect(url.render_as_string(hide_password=False))
    yield made
    made.dispose()


class Worker:
    """One process of the slot w1."""

    def __init__(self, database: Engine, *engines: str) -> None:
        process = uuid4()
        self.attempts = PostgresAttempts(database, instance="w1", process=process, engines=lambda: engines)
        self.failures = failures_of(database, process)

    def known(self) -> list[tuple[str, FailureKind, int]]:
        return [(one.step, one.kind, len(one.jobs)) for one in self.failures.known(datetime.now(UTC))]


def failures_of(database: Engine, process: UUID, instance: str = "w1") -> EngineFailures:
    return EngineFailures(database=database, instance=instance, process=process, outbox=OUTBOX)


def start(offset: int) -> Received:
    record = replace(a_record(offset), source=replace(a_record(offset).source, topic="assay.jobs"))
    return Received(record=record, job=a_job(f"job-{offset}"), attempt=1, first_seen=NOON, received_s=0.0, held_bytes=0)


def test_a_crash_is_known_to_every_process_after_it_and_told_once(database: Engine) -> None:
    Worker(database, CURRENT, CANDIDATE).attempts.begin([start(1), start(2)])
    second = Worker(database, CURRENT)
    assert second.known() == [(CANDIDATE, FailureKind.CRASHED, 2)]
    second.attempts.begin([start(1)], alone=True)
    third = Worker(database, CURRENT)
    told = [(CANDIDATE, FailureKind.CRASHED, 2), (CURRENT, FailureKind.CRASHED, 1)]
    assert (third.known(), third.known()) == (told, told)
    third.attempts.begin([start(3)], ended=[start(1).record.source, start(2).record.source])
    first, alone, _ = Worker(database, CURRENT).failures.known(datetime.now(UTC))
    assert alone.jobs < first.jobs, "whether one photograph explains both is known after the job has ended"
    assert failures_of(database, uuid4(), "w2").known(datetime.now(UTC)) == []


def test_a_process_that_ended_by_itself_or_said_why_did_not_crash(database: Engine) -> None:
    ordered = Worker(database, CURRENT)
    ordered.attempts.begin([start(1)])
    ordered.attempts.close()
    fixed = Worker(database)
    fixed.attempts.begin([start(2)])
    hung = Worker(database, CURRENT)
    hung.attempts.begin([start(3)])
    hung.failures.add(Failure(step=CURRENT, kind=FailureKind.DIED, at=datetime.now(UTC)), "it hangs")
    assert Worker(database, CURRENT).known() == [(CURRENT, FailureKind.DIED, 0)]


def test_a_process_that_left_an_engine_and_then_crashed_did_both(database: Engine) -> None:
    worker = Worker(database, CURRENT)
    worker.failures.add(Failure(step=CANDIDATE, kind=FailureKind.REFUSED, at=datetime.now(UTC)), "tampered with")
    worker.attempts.begin([start(1)])
    assert Worker(database, CURRENT).known() == [
        (CANDIDATE, FailureKind.REFUSED, 0),
        (CURRENT, FailureKind.CRASHED, 1),
    ]


def test_engines_that_end_the_process_while_they_are_opened_have_failed(database: Engine) -> None:
    died = Worker(database, CURRENT)
    died.attempts.begin([start(1)])
    opening = died.failures.opening(CANDIDATE)
    opening.__enter__()
    next_one = Worker(database, CURRENT)
    assert next_one.known() == [(CANDIDATE, FailureKind.DIED, 0)]
    with next_one.failures.opening(CANDIDATE):
        pass
    with pytest.raises(RuntimeError), next_one.failures.opening(CANDIDATE):
        raise RuntimeError
    assert Worker(database, CURRENT).known() == [(CANDIDATE, FailureKind.DIED, 0)]


def test_what_was_long_ago_is_no_crash_of_today(database: Engine, database_url: str) -> None:
    Worker(database, CURRENT).attempts.begin([start(1)])
    with transaction(database_url) as connection:
        ago = datetime.now(UTC) - timedelta(days=2)
        connection.execute(text("UPDATE assay.attempts SET started_at = :ago"), {"ago": ago})
    assert Worker(database, CURRENT).known() == []


def test_an_alarm_names_no_job(database: Engine) -> None:
    Worker(database, CURRENT).attempts.begin([start(1)])
    assert Worker(database, CURRENT).known() == [(CURRENT, FailureKind.CRASHED, 1)]
    with database.connect() as connection:
        ((told,),) = connection.execute(text("SELECT labels::text || detail FROM assay.alarms"))
    assert "job-1" not in told
