"""Reads a tenant's chain and what it seals, in pages, from one snapshot of the database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, RowMapping, text

from worker.adapters.audit_chain import signed_head
from worker.adapters.audit_rows import Place
from worker.core.ledger import Entry, SignedHead

PAGE = 2000

TENANTS = text("""
WITH RECURSIVE found (tenant) AS (
    (SELECT tenant FROM assay.audit_blocks ORDER BY tenant LIMIT 1)
    UNION ALL
    SELECT (SELECT b.tenant FROM assay.audit_blocks b WHERE b.tenant > found.tenant ORDER BY b.tenant LIMIT 1)
    FROM found WHERE found.tenant IS NOT NULL
)
SELECT tenant FROM found WHERE tenant IS NOT NULL
UNION SELECT tenant FROM assay.audit_pending
""")
BLOCKS = text("""
SELECT tenant, height, previous, root, digest, entries, sealed_at, key_id, signature FROM assay.audit_blocks
WHERE tenant = :tenant AND height > :height ORDER BY height LIMIT :limit
""")
ENTRIES = text("""
SELECT height, position, kind, id, digest, judged_at, src, row_digest, views_digest FROM assay.audit_entries
WHERE tenant = :tenant AND (height, position) > (:height, :position) ORDER BY height, position LIMIT :limit
""")
# A verdict that is in no block: waiting since when, where it waits at all.
UNSEALED = text("""
SELECT v.tenant, v.result_id, v.judged_at, v.job_id, p.noted_at
FROM assay.verdicts v
LEFT JOIN assay.audit_entries e ON e.tenant = v.tenant AND e.id = v.result_id AND e.judged_at = v.judged_at
LEFT JOIN assay.audit_pending p ON p.tenant = v.tenant AND p.id = v.result_id AND p.judged_at = v.judged_at
WHERE e.id IS NULL AND (CAST(:tenant AS text) IS NULL OR v.tenant = :tenant)
    AND (p.noted_at IS NULL OR abs(extract(epoch FROM now() - p.noted_at)) > :grace_s)
""")
RETENTION = text("SELECT id, facts FROM assay.audit_records WHERE tenant = :tenant AND kind = 'retention'")
UNSEALED_RECORDS = text("""
SELECT r.*, abs(extract(epoch FROM now() - r.at)) > :grace_s AS late
FROM assay.audit_records r
LEFT JOIN assay.audit_entries e ON e.tenant = r.tenant AND e.id = r.id
WHERE e.id IS NULL AND r.tenant = :tenant
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBlock:
    """A block as its row says; `digest` is what the row claims."""

    signed: SignedHead
    digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEntry:
    height: int
    position: int
    entry: Entry


@dataclass(slots=True, kw_only=True)
class DroppedMonth:
    """A month's partitions were dropped with `verdicts` of the tenant; `missing` counts entries without their row."""

    record: UUID
    first: datetime
    end: datetime  # exclusive
    verdicts: int
    missing: int = 0

    @classmethod
    def of(cls, record: UUID, facts: Mapping[str, Any]) -> DroppedMonth | None:
        """None where the facts cannot be read: what is missing then counts as removed."""
        try:
            first, end, verdicts = _instant(facts["from"]), _instant(facts["to"]), int(facts["verdicts"])
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
        return cls(record=record, first=first, end=end, verdicts=verdicts)

    def holds(self, judged_at: datetime | None) -> bool:
        return judged_at is not None and self.first <= judged_at < self.end


def tenants(connection: Connection) -> list[str]:
    """Those that have a chain, or something that waits for one."""
    return sorted(connection.scalars(TENANTS))


def blocks(connection: Connection, tenant: str) -> Iterator[StoredBlock]:
    """By height."""
    height = -1
    while page := connection.execute(BLOCKS, {"tenant": tenant, "height": height, "limit": PAGE}).all():
        yield from (StoredBlock(signed=signed_head(row), digest=row.digest) for row in page)
        height = page[-1].height


def entry_pages(connection: Connection, tenant: str) -> Iterator[list[StoredEntry]]:
    """By height and position, PAGE at a time; heights go on from page to page."""
    height, position = -1, -1
    values: dict[str, Any] = {"tenant": tenant, "limit": PAGE}
    while page := connection.execute(ENTRIES, {**values, "height": height, "position": position}).all():
        yield [_stored(row) for row in page]
        height, position = page[-1].height, page[-1].position


def unsealed(connection: Connection, tenant: str | None, grace_s: float) -> Iterator[tuple[str, UUID, datetime, str]]:
    """Tenant, result_id, judged_at and job of verdicts that no block holds and that do not just wait for one."""
    values = {"tenant": tenant, "grace_s": grace_s}
    for row in connection.execute(UNSEALED, values, execution_options={"yield_per": PAGE}):
        yield row.tenant, row.result_id, row.judged_at, row.job_id


def dropped_months(connection: Connection, tenant: str) -> list[DroppedMonth]:
    """What records of dropped months say; whether they were sealed is for the caller to find out."""
    rows = connection.execute(RETENTION, {"tenant": tenant})
    return [month for row in rows if (month := DroppedMonth.of(row.id, row.facts))]


def unsealed_records(connection: Connection, tenant: str, grace_s: float) -> Sequence[RowMapping]:
    """Audit records that no block holds; `late`: longer than the grace."""
    return connection.execute(UNSEALED_RECORDS, {"tenant": tenant, "grace_s": grace_s}).mappings().all()


def erased_verdicts(record: Mapping[Any, Any]) -> list[Place]:
    """The verdicts that a record of an erasure names; none where it cannot be read, so that they count as removed."""
    try:
        return [(UUID(result_id), _instant(judged_at)) for result_id, judged_at in record["facts"]["verdicts"]]
    except (KeyError, TypeError, ValueError, AttributeError):
        return []


def now(connection: Connection) -> datetime:
    """The database's clock at the start of the transaction (UTC)."""
    at: datetime = connection.execute(text("SELECT now()")).scalar_one()
    return at


def _instant(written: str) -> datetime:
    return datetime.fromisoformat(written).astimezone(UTC)


def _stored(row: Row[Any]) -> StoredEntry:
    entry = Entry(
        kind=row.kind,
        id=row.id,
        digest=row.digest,
        judged_at=row.judged_at,
        src=row.src,
        row_digest=row.row_digest,
        views_digest=row.views_digest,
    )
    return StoredEntry(height=row.height, position=row.position, entry=entry)
