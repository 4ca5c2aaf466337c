"""The one place that knows how PostgreSQL is reached and how its errors are read.

`database` is SQLAlchemy's Engine; the word engine belongs to encoders. Transient faults (the server is away, restarts,
fails over, is out of connections or disk, or broke a tie between transactions) are retried a bounded number of times
and then become ServiceUnavailable; everything else is a fault of ours and is raised as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import psycopg
from pgvector.psycopg import register_vector
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from worker.errors import ConfigurationError, ServiceUnavailable

T = TypeVar("T")

# SQLSTATE prefixes: connection, shutdown, failover to a read-only server, a transaction that the server gave up while
# this process slept, resources, ties, locks, statement timeout.
TRANSIENT = ("08", "57P0", "25006", "25P03", "53", "40001", "40P01", "55P03", "57014")


def connect(
    url: str,
    *,
    pool_size: int = 4,
    statement_timeout_ms: int = 30_000,
    idle_in_transaction_ms: int = 60_000,
    connect_timeout_s: int = 5,
    application_name: str = "assay",
) -> Engine:
    """Make the pool; connections are opened when first used, and tested before each use.

    A process that is stopped in the middle of a transaction holds its locks no longer than `idle_in_transaction_ms`.
    """
    database = create_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=10,
        pool_pre_ping=True,
        connect_args={
            "connect_timeout": connect_timeout_s,
            "application_name": application_name,
            "options": f"-c statement_timeout={statement_timeout_ms} -c timezone=UTC"
            f" -c idle_in_transaction_session_timeout={idle_in_transaction_ms}",
            "keepalives": 1,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
        },
    )
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


def retrying(call: Callable[[], T], *, attempts: int = 4, longest_wait_s: float = 1.0) -> T:
    """Run `call`, a whole transaction, until it succeeds. Raises ServiceUnavailable after `attempts` in vain."""
    policy = Retrying(
        stop=stop_after_attempt(attempts),
        wait=wait_random_exponential(multiplier=0.05, max=longest_wait_s),
        retry=retry_if_exception(is_transient),
        reraise=True,
    )
    try:
        return policy(call)
    except (DBAPIError, PoolTimeout, psycopg.Error) as error:
        if is_transient(error):
            raise ServiceUnavailable("postgres", str(error).strip()) from error
        raise


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
