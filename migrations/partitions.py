"""Monthly partitions: made ahead by the owner, with a DEFAULT partition that catches what no month covers.

A row in a DEFAULT partition is a fault of upkeep, not of the row: making the month moves it where it belongs.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime

from sqlalchemy import Connection, text

from migrations.answers import PARTITIONED
from migrations.roles import become_owner
from migrations.schema import SCHEMA
from migrations.session import transaction

ADVISORY_LOCK = 0x617373617902  # "assay", 2
LOCK_TIMEOUT = "10s"  # a drop that cannot have its lock must not queue every worker behind it
NOT_YET = text("""
SELECT CAST(:end AS timestamptz) > now()
    OR EXISTS (SELECT FROM assay.audit_pending WHERE judged_at >= :first AND judged_at < :end)
""")
RECORD_MONTH = text("""
WITH gone AS (
    SELECT tenant, count(*) AS verdicts FROM assay.verdicts
    WHERE judged_at >= :first AND judged_at < :end GROUP BY tenant
), recorded AS (
    INSERT INTO assay.audit_records (id, tenant, kind, by, why, facts)
    SELECT gen_random_uuid(), tenant, 'retention', :by, :why,
        CAST(:facts AS jsonb) || jsonb_build_object('verdicts', verdicts) FROM gone
)
SELECT tenant, verdicts FROM gone ORDER BY tenant
""")


def make_partitions(url: str, months: int = 3, *, now: datetime | None = None) -> list[str]:
    """Make the partitions of this month and the next `months`, and the DEFAULT ones; return the names of new ones."""
    first = month_start(now or datetime.now(UTC), 0)
    with transaction(url) as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
        become_owner(connection)
        standing = _standing(connection)
        made = [_make_default(connection, table) for table in PARTITIONED if f"{table}_default" not in standing]
        for ahead in range(months + 1):
            start = month_start(first, ahead)
            missing = [table for table in PARTITIONED if partition_name(table, start) not in standing]
            made += [_make_month(connection, table, start) for table in missing]
    return made


def drop_month(url: str, start: datetime, *, by: str, why: str) -> dict[str, int]:
    """Drop the partitions of the month that begins with `start`; return the verdicts that went, by tenant.

    The audit ledger gets a record a tenant, so that these verdicts are missed by nobody. Raises ValueError where the
    month has no partition, is not over, or has verdicts that the ledger has not sealed yet.
    """
    end = month_start(start, 1)
    facts = json.dumps({"from": _iso(start), "to": _iso(end)})
    values = {"first": start, "end": end, "by": by, "why": why, "facts": facts}
    with transaction(url) as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
        become_owner(connection)
        names = [partition_name(table, start) for table in reversed(PARTITIONED)]
        months = [f"{SCHEMA}.{name}" for name in names if name in _standing(connection)]
        if not months:
            raise ValueError(f"the month {start:%Y-%m} has no partition")
        connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
        connection.execute(
            text(f"LOCK TABLE {', '.join(months)} IN ACCESS EXCLUSIVE MODE")
        )  # nothing comes in any more
        if connection.execute(NOT_YET, values).scalar_one():
            raise ValueError(f"the month {start:%Y-%m} is not over, or has verdicts that are not sealed yet")
        gone = {row.tenant: row.verdicts for row in connection.execute(RECORD_MONTH, values)}
        connection.execute(text(f"DROP TABLE {', '.join(months)}"))
    return gone


def default_rows(connection: Connection) -> dict[str, int]:
    """Rows in each DEFAULT partition: anything but zero is an alarm."""
    return {
        table: connection.scalar(text(f"SELECT count(*) FROM {SCHEMA}.{table}_default")) or 0  # noqa: S608 # our names
        for table in PARTITIONED
    }


def month_start(at: datetime, ahead: int) -> datetime:
    """The first instant (UTC) of the month `ahead` months after the one of `at`."""
    utc = at.astimezone(UTC)
    years, month = divmod(utc.month - 1 + ahead, 12)
    return datetime(utc.year + years, month + 1, 1, tzinfo=UTC)


def _iso(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


def partition_name(table: str, start: datetime) -> str:
    return f"{table}_p{start:%Y%m}"


def _standing(connection: Connection) -> set[str]:
    rows = connection.execute(
        text("SELECT relname FROM pg_class WHERE relnamespace = CAST(:schema AS regnamespace)"), {"schema": SCHEMA}
    )
    return {row.relname for row in rows}


def _make_default(connection: Connection, table: str) -> str:
    name = f"{table}_default"
    connection.execute(text(f"CREATE TABLE {SCHEMA}.{name} PARTITION OF {SCHEMA}.{table} DEFAULT"))
    return name


def _make_month(connection: Connection, table: str, start: datetime) -> str:
    """Attach a table that holds the month's rows of the DEFAULT partition already: else attaching would fail."""
    name, end = partition_name(table, start), month_start(start, 1)
    new, default = f"{SCHEMA}.{name}", f"{SCHEMA}.{table}_default"
    bounds = f"FROM ('{start:%Y-%m-%d} 00:00+00') TO ('{end:%Y-%m-%d} 00:00+00')"
    for statement in (
        f"CREATE TABLE {new} (LIKE {SCHEMA}.{table} INCLUDING ALL)",
        f"WITH moved AS (DELETE FROM {default} WHERE judged_at >= '{start}' AND judged_at < '{end}' RETURNING *)"  # noqa: S608
        f" INSERT INTO {new} SELECT * FROM moved",
        f"ALTER TABLE {SCHEMA}.{table} ATTACH PARTITION {new} FOR VALUES {bounds}",
    ):
        connection.exec_driver_sql(statement)
    return name
