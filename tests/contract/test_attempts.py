"""One suite for every Attempts: PostgreSQL's and the memory twin. A process is one instance of the port."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from uuid import uuid4

import pytest
from outcome_builders import NOON, a_job, a_record
from sqlalchemy import make_url, text

from migrations.session import transaction
from schemas.message import Source
from worker.adapters.attempts import PostgresAttempts
from worker.adapters.database import connect
from worker.adapters.memory_attempts import MemoryAttempts
from worker.core.poison import Course, Deaths
from worker.errors import ServiceUnavailable
from worker.ports import Attempts
from worker.work import Received

Process = Callable[[], Attempts]


@pytest.fixture(params=["postgres", "memory"])
def process(request: pytest.FixtureRequest) -> Iterator[Process]:
    """Each call makes another process of the same deployment. The one before it did not end: it is dead."""
    if request.param == "memory":
        starts: dict[tuple[Source, str], bool] = {}
        yield lambda: MemoryAttempts(process=str(uuid4()), starts=starts)
        return
    database = connect(as_worker(request.getfixturevalue("database_url")))
    yield lambda: PostgresAttempts(database, instance="w1", process=uuid4())
    database.dispose()


def as_worker(url: str) -> str:
    """The role's rights are part of the contract."""
    with transaction(url) as connection:
        connection.execute(text("GRANT assay_worker TO CURRENT_USER"))
    return make_url(url).update_query_dict({"options": "-c role=assay_worker"}).render_as_string(hide_password=False)


def a_start(offset: int, *, topic: str = "assay.jobs", partition: int = 0) -> Received:
    record = a_record(offset)
    source = replace(record.source, topic=topic, partition=partition)
    return Received(
        record=replace(record, source=source), job=a_job(f"job-{offset}"), attempt=1, first_seen=NOON,
        received_s=0.0, held_bytes=0,
    )  # fmt: skip


ONE, TWO, THREE = a_start(1), a_start(2), a_start(3)
NEVER = Deaths()


def test_a_process_does_not_count_its_own_starts(process: Process) -> None:
    attempts = process()
    assert attempts.begin([ONE, TWO]) == [NEVER, NEVER]
    assert attempts.begin([ONE]) == [NEVER]


def test_each_dead_process_counts_once_until_the_job_may_no_longer_run_beside_others(process: Process) -> None:
    assert process().begin([ONE]) == [NEVER]
    second = process()
    assert second.begin([TWO, ONE]) == [NEVER, Deaths(together=1)]
    second.begin([ONE])  # delivered again to the same process
    for deaths in (Deaths(together=1), Deaths(together=2)):  # of the second job: the first one's start waits
        assert process().begin([ONE, TWO]) == [Deaths(together=2), deaths]
    assert Deaths(together=2).course is Course.ALONE


def test_a_solo_start_is_written_and_counted_as_one(process: Process) -> None:
    for deaths in (NEVER, Deaths(together=1)):
        assert process().begin([ONE]) == [deaths]
    for deaths in (Deaths(together=2), Deaths(together=2, alone=1)):
        runs = process()
        assert runs.begin([ONE]) == [deaths]
        assert runs.begin([ONE], alone=True) == [deaths]
    (deaths,) = process().begin([ONE])
    assert (deaths, deaths.course) == (Deaths(together=2, alone=2), Course.POISON)


def test_a_solo_start_takes_the_place_of_the_same_processs_other_one(process: Process) -> None:
    runs = process()
    runs.begin([ONE])
    runs.begin([ONE], alone=True)
    assert process().begin([ONE]) == [Deaths(alone=1)]


def test_an_end_forgets_every_start_of_the_record(process: Process) -> None:
    process().begin([ONE, TWO])
    survivor = process()
    assert survivor.begin([ONE, TWO]) == [Deaths(together=1)] * 2
    survivor.end([ONE.record.source])
    assert process().begin([ONE, TWO]) == [NEVER, Deaths(together=2)]


def test_what_ended_is_forgotten_with_the_next_start(process: Process) -> None:
    first = process()
    first.begin([ONE, TWO])
    first.begin([THREE], ended=[ONE.record.source, TWO.record.source])
    assert process().begin([ONE, TWO, THREE]) == [NEVER, NEVER, Deaths(together=1)]


def test_a_record_that_ended_and_begins_again_has_begun(process: Process) -> None:
    first = process()
    first.begin([ONE])
    first.begin([ONE, ONE], ended=[ONE.record.source])
    assert process().begin([ONE]) == [Deaths(together=1)]


def test_released_partitions_are_others_and_only_own_starts_are_forgotten(process: Process) -> None:
    here, there = a_start(1, partition=0), a_start(1, partition=1)
    process().begin([here])
    second = process()
    second.begin([here, there])
    second.release([("assay.jobs", 0)])
    assert process().begin([here, there]) == [Deaths(together=1), Deaths(together=1)]


def test_sources_of_other_topics_and_partitions_are_others(process: Process) -> None:
    process().begin([ONE])
    others = [a_start(1, topic="assay.jobs.retry.1"), a_start(1, partition=1)]
    assert process().begin(others) == [NEVER, NEVER]


def test_a_process_that_closes_in_order_leaves_nothing(process: Process) -> None:
    orderly, dead = process(), process()
    orderly.begin([ONE])
    dead.begin([ONE])
    orderly.close()
    assert process().begin([ONE]) == [Deaths(together=1)]


def test_nothing_is_a_valid_group(process: Process) -> None:
    attempts = process()
    assert attempts.begin([]) == []
    attempts.end([])
    attempts.release([])


def test_a_database_that_is_away_is_told_as_such() -> None:
    away = connect("postgresql+psycopg://assay_worker@127.0.0.1:9/assay", connect_timeout_s=1)
    attempts = PostgresAttempts(away, instance="w1", process=uuid4(), tries=1)
    with pytest.raises(ServiceUnavailable, match="postgres"):
        attempts.begin([ONE])
    away.dispose()


def test_rows_that_nobody_will_end_go_after_a_week(database_url: str) -> None:
    database = connect(database_url)
    PostgresAttempts(database, instance="w1", process=uuid4()).begin([ONE, TWO])
    with database.begin() as connection:
        connection.execute(
            text("UPDATE assay.attempts SET started_at = now() - interval '8 days' WHERE \"offset\" = 1")
        )
    PostgresAttempts(database, instance="w2", process=uuid4()).close()
    with database.begin() as connection:
        assert connection.scalars(text('SELECT "offset" FROM assay.attempts')).all() == [2]
    database.dispose()
