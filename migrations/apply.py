"""Migrates a database from Python: no alembic.ini, no working directory, no global state."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from threading import Lock

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from migrations.partitions import make_partitions
from migrations.session import transaction

# Alembic keeps what it runs in module globals: two threads of one process would mix their migrations up.
_ALEMBIC = Lock()

__all__ = ["check", "current", "downgrade", "make_partitions", "newest", "upgrade"]


def upgrade(url: str, revision: str = "head", *, months: int = 3) -> None:
    """Bring the database to `revision` and make its partitions. Safe to run by many at once."""
    with _ALEMBIC, transaction(url) as connection:
        command.upgrade(_config(connection), revision)
    if revision == "head":
        make_partitions(url, months=months)


def downgrade(url: str, revision: str) -> None:
    """Take the database back to `revision` (`base`: no tables). Drops what the later revisions brought."""
    with _ALEMBIC, transaction(url) as connection:
        command.downgrade(_config(connection), revision)


def check(url: str) -> None:
    """Raise alembic.util.exc.CommandError where the database differs from migrations.tables."""
    with _ALEMBIC, transaction(url) as connection:
        command.check(_config(connection))


def current(url: str) -> str | None:
    """The revision that the database is at, None before the first."""
    with transaction(url) as connection:
        context = MigrationContext.configure(connection, opts={"version_table_schema": "assay"})
        return context.get_current_revision()


def newest() -> str:
    """The revision that this build wants."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None  # noqa: S101
    return head


def _config(connection: Connection | None = None) -> Config:
    config = Config(stdout=StringIO())  # commands say things; callers of this module decide what is printed
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config
