"""PostgreSQL that dies, stalls, restarts or ends sessions under a running worker (F10); ties, locks, timeouts and too
few connections (F11). Bounded tries, then intake waits; nothing is a dead letter, and each job is answered once."""

from __future__ import annotations

import errno
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NoReturn

import psycopg
import pytest
from delivery_parts import TOPICS, Body, Member, eventually, send
from fault_parts import running
from outcome_builders import Topics, a_job, judged
from service_parts import OwnService
from sqlalchemy import Engine, event, make_url, text
from sqlalchemy.exc import DBAPIError, OperationalError

from devstack.postgres import Postgres
from migrations.apply import upgrade
from schemas.message import OutputRecord
from worker.adapters.claims import Claim, take
from worker.adapters.database import connect, is_transient, retrying
from worker.adapters.memory import MemoryBroker
from worker.adapters.results import PostgresResults
from worker.errors import ServiceUnavailable
from worker.outcomes import Judged

pytestmark = pytest.mark.services
PASSWORD = "only-for-this-test"  # noqa: S105
STALL_S = 8.0
PARTITION = (TOPICS.jobs, 0)


class Server(OwnService):
    @property
    def url(self) -> str:
        return f"postgresql+psycopg://postgres:{PASSWORD}@127.0.0.1:{self.port}/postgres"

    def stall(self, _noticed: Callable[[], None]) -> None:
        self.suspend()
        threading.Event().wait(STALL_S)
        self.resume()

    def kill_and_start(self, noticed: Callable[[], None]) -> None:
        self.kill()
        noticed()
        self.start()

    def stop_and_start(self, noticed: Callable[[], None]) -> None:
        self.stop()
        noticed()
        self.start()

    def end_sessions(self, _noticed: Callable[[], None]) -> None:
        with plain(self.url) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'assay'"
            )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("postgres")
    server = Server(Postgres(folder / "data", PASSWORD), folder)
    server.start()
    upgrade(server.url)
    yield server
    server.stop()
    server.service.delete()


@pytest.fixture
def database(server: Server) -> Iterator[Engine]:
    """As a worker has it, only less patient: an answer is given up after 3 s."""
    with plain(server.url) as connection:
        connection.execute("TRUNCATE assay.jobs, assay.verdicts CASCADE")
    database = connect(server.url, statement_timeout_ms=1_000, lock_timeout_ms=300, connect_timeout_s=2)
    yield database
    database.dispose()


@contextmanager
def plain(url: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    target = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(target, autocommit=True) as connection:
        yield connection


class Watched:
    """A worker on a broker in memory and a real database; `pauses` are the services that intake waited for."""

    def __init__(self, database: Engine) -> None:
        self.broker = MemoryBroker({TOPICS.jobs: 1})
        self.member = Member(self.broker, results=PostgresResults(database, group="test", topics=TOPICS))
        self.pauses: Counter[str] = Counter()
        self._pause = self.member.intake.pause_all
        self.member.intake.pause_all = self._paused  # type: ignore[method-assign]
        self.sent = 0

    def send(self, count: int) -> None:
        for number in range(self.sent, self.sent + count):
            send(self.broker, f"j{number}")
        self.sent += count

    def assert_each_once(self, database: Engine) -> None:
        eventually(lambda: self.broker.offsets.get(PARTITION, 0) >= self.sent, "the last offset")
        keys = Counter(output.key for output in self.broker.published)
        assert {output.topic for output in self.broker.published} == {TOPICS.results}, "a dead letter"
        assert (len(keys), set(keys.values())) == (self.sent, {1})
        assert (rows(database, "jobs"), rows(database, "verdicts")) == (self.sent, self.sent)

    def wait_for_a_pause(self) -> None:
        eventually(lambda: self.pauses["postgres"] > 0, "a pause of intake")

    def _paused(self, reason: str) -> None:
        self.pauses[reason] += 1
        self._pause(reason)


def rows(database: Engine, table: str) -> int:
    def count() -> int:
        with database.connect() as connection:
            return int(connection.execute(text(f"SELECT count(*) FROM assay.{table}")).scalar_one())  # noqa: S608

    return retrying(count)


@pytest.mark.parametrize(
    ("fault", "pauses"),
    [(Server.kill_and_start, True), (Server.stall, True), (Server.stop_and_start, True), (Server.end_sessions, False)],
    ids=["kill", "stop_8_s", "restart", "terminate_backend"],
)
def test_a_database_that_goes_and_comes_back_loses_and_repeats_nothing(
    server: Server,
    database: Engine,
    fault: Callable[[Server, Callable[[], None]], None],
    pauses: bool,
    request: pytest.FixtureRequest,
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    watched = Watched(database)
    with running(watched.member):
        watched.send(20)
        eventually(lambda: len(watched.broker.published) == 20, "the first answers")
        harm = Body(run=lambda: fault(server, watched.wait_for_a_pause)).start()
        while harm.thread.is_alive():
            watched.send(1)
            harm.thread.join(0.05)
        harm.join()
        back_s, before = time.monotonic(), len(watched.broker.published)
        watched.send(20)
        eventually(lambda: len(watched.broker.published) > before, "the first commit")
        record_testsuite_property(
            f"{request.node.name}: first commit after return, s", round(time.monotonic() - back_s, 2)
        )
        watched.assert_each_once(database)
    assert not pauses or set(watched.pauses) == {"postgres"}


@contextmanager
def lock_on_jobs(server: Server) -> Iterator[None]:
    with plain(server.url) as connection, connection.transaction():
        connection.execute("LOCK TABLE assay.jobs IN ACCESS EXCLUSIVE MODE")
        yield


@contextmanager
def trigger(server: Server, body: str) -> Iterator[None]:
    """`body` runs before each row of assay.jobs is written."""
    with plain(server.url) as connection:
        connection.execute(
            "CREATE FUNCTION assay.hurt() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"{body} RETURN new; END $$".encode()
        )
        connection.execute("CREATE TRIGGER hurt BEFORE INSERT ON assay.jobs FOR EACH ROW EXECUTE FUNCTION assay.hurt()")
        try:
            yield
        finally:
            connection.execute("DROP FUNCTION assay.hurt CASCADE")


@contextmanager
def serialization_failures(server: Server) -> Iterator[None]:
    with trigger(server, "RAISE EXCEPTION 'could not serialize access' USING ERRCODE = '40001';"):
        yield


@contextmanager
def slow_statements(server: Server) -> Iterator[None]:
    with trigger(server, "PERFORM pg_sleep(2);"):
        yield


@pytest.mark.parametrize("harm", [lock_on_jobs, serialization_failures, slow_statements])
def test_a_transaction_that_cannot_be_made_now_waits_with_intake_paused_and_is_made_later(
    server: Server, database: Engine, harm: Callable[[Server], AbstractContextManager[None]]
) -> None:
    watched = Watched(database)
    with running(watched.member):
        watched.send(5)
        eventually(lambda: len(watched.broker.published) == 5, "the first answers")
        with harm(server):
            watched.send(20)
            watched.wait_for_a_pause()
            assert len(watched.broker.published) == 5
        watched.assert_each_once(database)


def test_too_many_connections_pause_intake_until_one_is_free(server: Server, database: Engine) -> None:
    with plain(server.url) as connection:
        connection.execute("CREATE ROLE few LOGIN PASSWORD 'few' IN ROLE assay_worker CONNECTION LIMIT 1")
    url = make_url(server.url).set(username="few", password="few")  # noqa: S106
    theirs = connect(url.render_as_string(hide_password=False), pool_size=2)
    watched = Watched(theirs)
    with running(watched.member):
        with plain(theirs.url.render_as_string(hide_password=False)):
            watched.send(5)
            watched.wait_for_a_pause()
            assert watched.broker.published == []
        watched.assert_each_once(database)
    theirs.dispose()


def test_a_connection_that_nothing_is_left_to_wait_with_is_a_server_that_is_away(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The socket took the last file descriptor; psycopg's selector wants one more, and raises what the system says."""
    database = connect(server.url)
    with monkeypatch.context() as patched:
        patched.setattr("psycopg.waiting.DefaultSelector", none_left)
        with pytest.raises(ServiceUnavailable, match="Too many open files"):
            retrying(lambda: rows_at_once(database), attempts=2)
    assert rows_at_once(database) == 1
    database.dispose()


def none_left() -> NoReturn:
    raise OSError(errno.EMFILE, "Too many open files")


def test_a_deadlock_with_another_worker_costs_one_more_try(server: Server) -> None:
    """Ours waits for their row and they for ours. They look for a deadlock later, so ours is the one that is ended."""
    database = connect(server.url)
    states: list[str | None] = []
    event.listen(database, "handle_error", lambda context: states.append(context.original_exception.sqlstate))
    ours = PostgresResults(database, group="ours", topics=Topics())
    theirs = PostgresResults(database, group="theirs", topics=Topics())
    first, last = judged(1, a_job("a")), judged(2, a_job("z"))
    with database.connect() as connection:
        connection.execute(text("SET deadlock_timeout = '1min'"))
        take(connection, claims(theirs, last))
        settling = Body(run=lambda: assert_answered(ours.settle([first, last]), 2)).start()
        eventually(lambda: waits_for_a_lock(server), "a wait for their row")
        take(connection, claims(theirs, first))  # returns when ours was ended
        connection.rollback()
    settling.join()
    assert states == ["40P01"]
    assert rows(database, "jobs WHERE job_id IN ('a', 'z')") == 2
    database.dispose()


def assert_answered(outputs: Sequence[OutputRecord], count: int) -> None:
    assert [output.topic for output in outputs] == [Topics.results] * count


def claims(results: PostgresResults, outcome: Judged) -> list[Claim]:
    return [claim for claim in [results._claim(0, outcome)] if claim is not None]  # noqa: SLF001


def waits_for_a_lock(server: Server) -> bool:
    with plain(server.url) as connection:
        return connection.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone() is not None


def test_a_server_that_says_nothing_is_given_up_and_the_next_connection_is_a_new_one(server: Server) -> None:
    """Also within a transaction; a process that is stopped acknowledges all that comes, so TCP never ends the wait."""
    database = connect(server.url, statement_timeout_ms=100, connect_timeout_s=1)
    with database.connect() as connection:
        connection.execute(text("SELECT 1"))
        server.suspend()
        try:
            with pytest.raises(OperationalError, match="did not answer") as silent:
                connection.execute(text("SELECT 2"))
            with pytest.raises(ServiceUnavailable):
                retrying(lambda: rows_at_once(database), attempts=1)
        finally:
            server.resume()
    assert is_transient(silent.value)
    assert rows_at_once(database) == 1
    database.dispose()


def rows_at_once(database: Engine) -> int:
    with database.connect() as connection:
        return int(connection.execute(text("SELECT 1")).scalar_one())


def test_an_error_shows_no_parameters(database: Engine) -> None:
    with pytest.raises(DBAPIError) as raised, database.connect() as connection:
        connection.execute(text("SELECT 1 / 0 WHERE :photograph = :photograph"), {"photograph": "canary"})
    assert "canary" not in str(raised.value)
