"""Alembic's environment: one migration at a time, one transaction for all revisions, never waiting long for a lock.

Revisions expand first and contract later, because workers of two builds run side by side during an upgrade:

- *expand* (before the new build starts): add tables, nullable columns, columns with a constant default, indexes, views,
  wider checks. The build that runs now must not notice.
- *contract* (one release later, when no old build runs): drop what nobody reads, tighten checks.

A revision that would break the build of the release before it is refused in review. `lock_timeout` makes a migration
that cannot get its lock fail within seconds instead of queueing every worker behind it; run it again.
"""

from __future__ import annotations

import re

from alembic import context
from sqlalchemy import Connection, text

from migrations.roles import become_owner, prepare
from migrations.tables import SCHEMA, metadata

LOCK_TIMEOUT = "10s"
ADVISORY_LOCK = 0x617373617901  # "assay", 1
PARTITION = re.compile(r"_(p\d{6}|default)$")


def ours(name: str | None, kind: str, _parents: object) -> bool:
    """Leave partitions out of comparisons: `assay migrate partitions` makes them, no revision does."""
    if kind == "schema":
        return name == SCHEMA
    return not (kind == "table" and name is not None and PARTITION.search(name))


def migrate(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table_schema=SCHEMA,
        include_schemas=True,
        include_name=ours,
        compare_type=True,
        compare_server_default=True,
    )
    with context.begin_transaction():
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
        connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
        prepare(connection)
        become_owner(connection)
        context.run_migrations()


migrate(context.config.attributes["connection"])
