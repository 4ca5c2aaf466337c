"""One short-lived connection to the database, for commands that run and end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, create_engine
from sqlalchemy.pool import NullPool


@contextmanager
def transaction(url: str) -> Iterator[Connection]:
    """A connection of its own with one transaction, committed at the end."""
    database = create_engine(url, poolclass=NullPool)
    with database.begin() as connection:
        yield connection
