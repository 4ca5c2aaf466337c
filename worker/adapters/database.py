"""The one place that knows how PostgreSQL is reached and how its errors are read.

`database` is SQLAlchemy's Engine; the word engine belongs to encoders. Transient faults (the server is away, restarts,
fails over, is out of connections or disk, or broke a tie between transactions) are retried a bounded number of times
and then become ServiceUnavailable. A table, column or function that is missing means a database that this build's
migrations have not reached: ConfigurationError. Everything else is a fault of ours and is raised as it is. A server
that says nothing at all is given up as well: no thread waits for an answer longer than the server itself would work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import psycopg
from pgvector.psycopg import register_vector
from sqlalchemy import Connection, Dialect, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from tenacity import Retrying, retry_if_exception, stop_after_attempt, stop_after_delay, wait_random_exponential

from worker.errors import ConfigurationError, ServiceUnavailable

T = TypeVar("T")

ANSWER_GRACE_S = 2.0  # beyond the statement timeout, for the way there and back
BEHIND = (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedFunction)
# SQLSTATE prefixes: connection, shutdown, failover to a read-only server, a transaction that the server gave up while
# this process slept, resources, ties, locks, statement timeout.
TRANSIENT = ("08", "57P0", "25006", "25P03", "53", "40001", "40P01", "55P03", "57014")


class BoundedConnection(psycopg.Connection[Any]):
    """Gives up on a server that does not answer: each wait for it ends after `answer_within_s` with OperationalError.

    A process that is stopped keeps its sockets open and acknowledged by the kernel, so no option of TCP tells.
    """

    answer_within_s = float("inf")

    def wait(self, gen: Generator[Any, Any, T], *args: Any, **kwargs: Any) -> T:
        return super().wait(self._bounded(gen), *args, **kwargs)

    def _bounded(self, gen: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
        """`gen` as it is; psycopg resumes it at least every 100 ms, with nothing where nothing has come."""
        give_up_s = time.monotonic() + self.answer_within_s
        try:
            wanted = next(gen)
            while (ready := (yield wanted)) or time.monotonic() < give_up_s:
                wanted = gen.send(ready)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        self.pgconn.finish()
        raise psycopg.OperationalError(f"the server did not answer within {self.answer_within_s:.1f} s")


def connect(
    url: str,
    *,
    pool_size: int = 4,
    statement_timeout_ms: int = 30_000,
    lock_timeout_ms: int = 0,
    idle_in_transaction_ms: int = 60_000,
    connect_timeout_s: int = 5,
    application_name: str = "assay",
) -> Engine:
    """Make the pool; connections are opened when first used, and tested before each use.

    A process that is stopped in the middle of a transaction holds its locks no longer than `idle_in_transaction_ms`;
    nobody waits for a lock longer than `lock_timeout_ms`, 0: than for the statement. A server that is silent beyond
    `statement_timeout_ms` is away. Errors never show a statement's parameters.

    Every statement is planned when it runs: psycopg prepares what comes often, and PostgreSQL would then keep to a plan
    that it made when the tables were empty until it next analyses them. That costs a millisecond; a look-up of twenty
    jobs' photographs took 420 ms by such a plan, 42 ms by its own.
    """
    within_s = statement_timeout_ms / 1e3 + ANSWER_GRACE_S
    database = create_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=10,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args={
            "connect_timeout": connect_timeout_s,
            "application_name": application_name,
            "options": f"-c statement_timeout={statement_timeout_ms} -c timezone=UTC"
            f" -c plan_cache_mode=force_custom_plan"
            f" -c lock_timeout={lock_timeout_ms} -c idle_in_transaction_session_timeout={idle_in_transaction_ms}",
            "keepalives": 1,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": round(within_s * 1e3),
        },
    )

    def bounded(_dialect: Dialect, _record: object, given: list[Any], named: dict[str, Any]) -> BoundedConnection:
        try:
            connection = BoundedConnection.connect(*given, **named)
        except OSError as fault:  # nothing is left to wait with, such as a file descriptor: psycopg says so as it is
            raise psycopg.OperationalError(f"no connection could be opened: {fault}") from fault
        connection.answer_within_s = within_s
        return connection

    event.listen(database, "do_connect", bounded)
    event.listen(database, "connect", _learn_vectors)
    return database


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed a little later."""
    if isinstance(error, PoolTimeout):
        return True
    cause = error.orig if isinstance(error, DBAPIError) else error
    if not isinstance(cause, psycopg.Error):
        return False
    if cause.sqlstate is None:  # the client gave up: refused, reset, closed
        return isinstance(cause, psycopg.OperationalError)
    return cause.sqlstate.startswith(TRANSIENT)


def retrying(call: Callable[[], T], *, attempts: int = 4, longest_wait_s: float = 1.0, longest_s: float = 5.0) -> T:
    """Run `call`, a whole transaction, until it succeeds. Raises ServiceUnavailable after `attempts` in vain, or after
    the one that failed when `longest_s` had passed: what takes long to fail is to pause intake soon; ConfigurationError
    where the database is older than this build."""
    policy = Retrying(
        stop=stop_after_attempt(attempts) | stop_after_delay(longest_s),
        wait=wait_random_exponential(multiplier=0.05, max=longest_wait_s),
        retry=retry_if_exception(is_transient),
        reraise=True,
    )
    try:
        return policy(call)
    except (DBAPIError, PoolTimeout, psycopg.Error) as error:
        if is_transient(error):
            raise ServiceUnavailable("postgres", _told(error)) from error
        if isinstance(getattr(error, "orig", error), BEHIND):
            told = _told(error).splitlines()[0]
            raise ConfigurationError(
                f"the database is older than this build ({told}): run `assay migrate up`"
            ) from error
        raise


def _told(error: BaseException) -> str:
    """What PostgreSQL or its client said, without the statement."""
    return str(error.orig if isinstance(error, DBAPIError) else error).strip()


def driver(connection: Connection) -> psycopg.Connection[Any]:
    """The psycopg connection below `connection`, for COPY; it shares its transaction."""
    raw = connection.connection.driver_connection
    assert isinstance(raw, psycopg.Connection)  # noqa: S101 # the URL's dialect says so
    return raw


def _learn_vectors(connection: psycopg.Connection[Any], _record: object) -> None:
    autocommit = connection.autocommit
    connection.autocommit = True
    try:
        register_vector(connection)
    except psycopg.ProgrammingError as error:
        raise ConfigurationError(
            "the database has no type `vector`: run `assay migrate up` with ASSAY_DATABASE__URL set to it"
        ) from error
    finally:
        connection.autocommit = autocommit
