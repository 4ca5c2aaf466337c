"""F18: the clock of a real worker jumps an hour forward and back.

Only what the worker's Python reads is moved: time.time and datetime.now, not its monotonic clock, which no jump moves.
libfaketime moves more, but librdkafka hangs under it. So what the Kafka client does is not seen here: it waits by the
machine's clock (https://github.com/confluentinc/librdkafka/issues/2145), and docs/operations.md says what follows.

What the worker judges by its clock is expected to follow it: a job's deadline, and when a retry is due.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic, sleep

import psycopg
import pytest
from sqlalchemy import make_url

from demo.stand import WorkerProcess, query
from devstack import Addresses
from schemas import headers as names
from schemas.codec import encode_job, header
from schemas.job import AuthenticationJob
from schemas.message import OutputRecord
from tests.acceptance.conftest import Deployment, assert_each_once, jobs
from tests.acceptance.small import small_deployment

HOUR = timedelta(hours=1)
NO_TIME = timedelta()
PATIENCE_S = 300.0
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# `assay worker` whose clock is the machine's and the seconds that stand in the file AHEAD.
ENTRY = """
import datetime, os, sys, time
from pathlib import Path
import worker.app
from worker.cli.main import main

real, real_s = datetime.datetime, time.time

def ahead_s():
    return float(Path(os.environ["AHEAD"]).read_text())

class Kind(type):
    def __instancecheck__(cls, thing):
        return isinstance(thing, real)

class Moved(real, metaclass=Kind):
    @classmethod
    def now(cls, tz=None):
        return real.now(tz) + datetime.timedelta(seconds=ahead_s())

time.time = lambda: real_s() + ahead_s()
time.time_ns = lambda: round(time.time() * 1e9)
for name, module in list(sys.modules.items()):
    if name.partition(".")[0] in ("worker", "schemas", "engines") and getattr(module, "datetime", None) is real:
        module.datetime = Moved
sys.argv = ["assay", "worker"]
main()
"""


class World:
    """A deployment, whose workers have the moved clock, and all jobs that were sent to it and want a verdict."""

    def __init__(self, deployment: Deployment, folder: Path) -> None:
        self.deployment = deployment
        self.sent: list[AuthenticationJob] = []
        self._ahead = folder / "ahead"
        self.clock(NO_TIME)

    def clock(self, ahead: timedelta) -> None:
        """From one reading of the clock to the next."""
        new = self._ahead.with_suffix(".new")
        new.write_text(str(ahead.total_seconds()))
        new.replace(self._ahead)

    def worker(self) -> WorkerProcess:
        given = {**self.deployment.stand.environment, "ASSAY_KAFKA__INSTANCE": "w1", "AHEAD": str(self._ahead)}
        started = WorkerProcess.start(given, self.deployment.stand.folder / "w1.log", ("-c", ENTRY))
        self.deployment.workers.append(started)
        started.wait_ready(PATIENCE_S)
        return started

    def send(self, made: Sequence[AuthenticationJob]) -> None:
        self.deployment.send(made)
        self.sent += made

    def send_retry(self, job: AuthenticationJob, *, due: datetime) -> None:
        record = encode_job(job, encoding="avro", source="test")
        given = (*record.headers, (names.DUE_MS, str(round(due.timestamp() * 1e3)).encode()), (names.ATTEMPT, b"2"))
        topic = self.deployment.topic("jobs.retry.1")
        self.deployment.send_raw([OutputRecord(topic=topic, key=record.key, value=record.value, headers=given)])
        self.sent.append(job)

    def answered(self) -> None:
        """Every job has one verdict."""
        found = self.deployment.read("results", len(self.sent), more_s=0.5, within_s=PATIENCE_S)
        assert_each_once(found, self.sent)

    def judged_at(self, sent: Sequence[AuthenticationJob]) -> list[datetime]:
        ask, ids = "SELECT judged_at FROM assay.verdicts WHERE job_id = ANY(%s)", [job.job_id for job in sent]
        return [row[0] for row in query(self.deployment.stand.owner_url, ask, [ids]) if isinstance(row[0], datetime)]

    @contextmanager
    def jobs_locked(self) -> Iterator[None]:
        """No verdict can be written."""
        url = make_url(self.deployment.stand.owner_url).set(drivername="postgresql")
        with psycopg.connect(url.render_as_string(hide_password=False)) as connection:
            connection.execute("LOCK TABLE assay.jobs IN ACCESS EXCLUSIVE MODE")
            yield
            connection.rollback()


@pytest.fixture(scope="module")
def world(stack: Addresses, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("clock")
    settings = {"ASSAY_DRAIN_DEADLINE_S": "120", "ASSAY_DATABASE__LOCK_TIMEOUT_MS": "500"}
    with small_deployment(stack, folder, **settings) as made:
        yield World(made, folder)


def test_an_hour_forward_and_back_loses_nothing_and_rejects_nothing_that_is_in_time(world: World) -> None:
    worker = world.worker()
    for ahead in (NO_TIME, HOUR, -HOUR, NO_TIME):
        world.clock(ahead)
        made = jobs(3) + due_in(2 * HOUR, 3)
        world.send(made)
        world.answered()
        moved = [judged_at - datetime.now(UTC) for judged_at in world.judged_at(made)]
        assert [abs(by - ahead) < HOUR / 2 for by in moved] == [True] * 6
    assert worker.stop(PATIENCE_S) == 0
    assert world.deployment.rows("SELECT count(*) FROM assay.dead_letters") == [(0,)]


def test_a_retry_s_time_shifts_with_the_clock_and_comes(world: World) -> None:
    worker = world.worker()
    early, late = jobs(2)
    world.clock(HOUR)
    world.send_retry(early, due=datetime.now(UTC) + HOUR / 2)
    world.answered()
    world.clock(-HOUR)
    world.send_retry(late, due=datetime.now(UTC))
    world.send(jobs(6))  # of other topics, whose records do not wait
    until(lambda: len(world.judged_at(world.sent)) == len(world.sent) - 1, "a verdict of all but one")
    world.clock(NO_TIME)
    world.answered()
    assert worker.stop(PATIENCE_S) == 0


def test_waits_inside_the_worker_do_not_follow_the_clock(world: World) -> None:
    """It waits for a table that is locked, and then, with two minutes for it, for the end of what is in flight."""
    worker = world.worker()
    with world.jobs_locked():
        world.send(jobs(6))
        fails_again(worker)
        world.clock(HOUR)
        fails_again(worker)
        world.clock(-HOUR)
        fails_again(worker)
        worker.process.terminate()
        until(lambda: logged(worker, "intake_stopping") == 1, "the drain")
        world.clock(HOUR)
        fails_again(worker)
        assert worker.process.poll() is None, "the drain was given up"
        world.clock(-HOUR)
    assert worker.process.wait(PATIENCE_S) == 0
    world.answered()
    world.clock(NO_TIME)


def test_a_deadline_is_judged_by_the_worker_s_clock(world: World) -> None:
    """No worker could tell: half an hour of time is left, and by a clock that is an hour ahead there is none."""
    worker = world.worker()
    world.clock(HOUR)
    (early,) = due_in(HOUR / 2, 1)
    world.deployment.send([early])
    (letter,) = world.deployment.read("jobs.dlq", 1, more_s=0.0, within_s=PATIENCE_S)
    assert (letter.key, header(letter.headers, names.ERROR_CODE)) == (early.key, "deadline_exceeded")
    world.clock(-HOUR)
    world.send(due_in(-HOUR / 2, 1))
    world.answered()
    world.clock(NO_TIME)
    assert worker.stop(PATIENCE_S) == 0


def due_in(left: timedelta, count: int) -> list[AuthenticationJob]:
    now = datetime.now(UTC)
    return [replace(job, submitted_at=now - HOUR, deadline=now + left) for job in jobs(count)]


def logged(worker: WorkerProcess, event: str) -> int:
    return worker.log.read_bytes()[worker.skip :].count(f'"event": "{event}"'.encode())


def fails_again(worker: WorkerProcess) -> None:
    """It goes on trying to write."""
    before = logged(worker, "settle_failed")
    until(lambda: logged(worker, "settle_failed") > before, "another attempt to write")


def until(true: Callable[[], bool], what: str) -> None:
    deadline_s = monotonic() + PATIENCE_S
    while not true():
        assert monotonic() < deadline_s, f"{what} did not come in {PATIENCE_S:g} s"
        sleep(0.1)
