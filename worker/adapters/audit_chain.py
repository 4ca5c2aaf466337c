"""The ledger's chains in PostgreSQL: blocks are appended, one at a time a database, and their heads published in order.

An advisory lock lets one sealer work; the key (tenant, height) would refuse a second head of one height in any case.
What waits is noted by a trigger in the transaction that wrote it (migrations.audit): a verdict that commits late is
there when its transaction is, and is sealed then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from sqlalchemy import Connection, Engine, Row, text

from migrations.tables import audit_blocks, audit_entries
from worker.adapters.audit_rows import read_records, read_verdicts
from worker.adapters.bulk import copy
from worker.adapters.database import retrying
from worker.core.ledger import GENESIS, VERDICT, Entry, Head, SignedHead, root_of

ADVISORY_LOCK = 0x617373617903  # "assay", 3; 1 and 2 are the migrations'
HEADS_AT_ONCE = 1000

LOCK = text("SELECT pg_try_advisory_xact_lock(:key)")
TENANTS = text("SELECT DISTINCT tenant FROM assay.audit_pending ORDER BY tenant")
PENDING = text("""
SELECT id, kind, judged_at, digest FROM assay.audit_pending WHERE tenant = :tenant ORDER BY noted_at, id LIMIT :limit
""")
KNOWN = text("SELECT id FROM assay.audit_entries WHERE tenant = :tenant AND id = ANY(CAST(:ids AS uuid[]))")
LAST = text("SELECT height, digest FROM assay.audit_blocks WHERE tenant = :tenant ORDER BY height DESC LIMIT 1")
SEALED = text("DELETE FROM assay.audit_pending WHERE tenant = :tenant AND id = ANY(CAST(:ids AS uuid[]))")
_HEAD = "tenant, height, previous, root, entries, sealed_at, key_id, signature"
UNPUBLISHED = text(
    f"SELECT {_HEAD} FROM assay.audit_blocks WHERE published_at IS NULL ORDER BY tenant, height LIMIT :limit"  # noqa: S608
)
LAST_OF_ALL = text(f"SELECT DISTINCT ON (tenant) {_HEAD} FROM assay.audit_blocks ORDER BY tenant, height DESC")  # noqa: S608
PUBLISHED = text("""
UPDATE assay.audit_blocks b SET published_at = now()
FROM unnest(CAST(:tenants AS text[]), CAST(:heights AS bigint[])) AS done (tenant, height)
WHERE b.tenant = done.tenant AND b.height = done.height
""")
BACKLOG = text("""
SELECT coalesce(extract(epoch FROM clock_timestamp() - (SELECT min(noted_at) FROM assay.audit_pending)), 0) AS seconds,
    (SELECT count(*) FROM assay.audit_blocks WHERE published_at IS NULL) AS heads
""")


class Signer(Protocol):
    def sign(self, head: Head) -> SignedHead: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresChains:
    """Implements worker.audit.Chains. Raises ServiceUnavailable after bounded retries."""

    database: Engine
    signer: Signer
    block_entries: int = 1000

    def seal(self) -> int:
        """Seal all that waits; returns how many entries. 0 where another sealer is at work."""
        return sum(self._seal_all(tenant) for tenant in retrying(self._tenants))

    def publish(self, send: Callable[[Sequence[SignedHead]], None], *, again: bool = False) -> int:
        """Send the heads that were not confirmed yet, in order; returns how many. `again`: each tenant's last as well.

        What was sent when the process dies before it is noted is sent again: the same head.
        """
        return retrying(lambda: self._publish(send, again))

    def backlog(self) -> tuple[float, int]:
        """Age of the oldest thing that waits to be sealed, in seconds, and heads that wait to be published."""
        return retrying(self._backlog, attempts=1)

    def _tenants(self) -> list[str]:
        with self.database.connect() as connection:
            return list(connection.scalars(TENANTS))

    def _backlog(self) -> tuple[float, int]:
        with self.database.connect() as connection:
            row = connection.execute(BACKLOG).one()
        return float(row.seconds), row.heads

    def _seal_all(self, tenant: str) -> int:
        total = 0
        while sealed := retrying(lambda: self._seal(tenant)):
            total += sealed
            if sealed < self.block_entries:
                break
        return total

    def _seal(self, tenant: str) -> int:
        """Append one block; returns how many entries it has."""
        with self.database.begin() as connection:
            if not connection.scalar(LOCK, {"key": ADVISORY_LOCK}):
                return 0
            pending = connection.execute(PENDING, {"tenant": tenant, "limit": self.block_entries}).all()
            ids = [row.id for row in pending]
            known = set(connection.scalars(KNOWN, {"tenant": tenant, "ids": ids}))
            # A second row of a sealed id is no verdict of ours: unsealed, it is found by the verification.
            entries = _entries(connection, [row for row in pending if row.id not in known])
            if entries:
                self._append(connection, tenant, entries)
            connection.execute(SEALED, {"tenant": tenant, "ids": ids})
            return len(entries)

    def _append(self, connection: Connection, tenant: str, entries: Sequence[Entry]) -> None:
        last = connection.execute(LAST, {"tenant": tenant}).one_or_none()
        head = Head(
            tenant=tenant,
            height=last.height + 1 if last else 0,
            previous=last.digest if last else GENESIS,
            root=root_of(entries),
            entries=len(entries),
            sealed_at=datetime.now(UTC),
        )
        connection.execute(audit_blocks.insert(), _block(self.signer.sign(head)))
        copy(connection, audit_entries, [_entry(head, at, entry) for at, entry in enumerate(entries)])

    def _publish(self, send: Callable[[Sequence[SignedHead]], None], again: bool) -> int:
        with self.database.begin() as connection:
            if not connection.scalar(LOCK, {"key": ADVISORY_LOCK}):
                return 0
            rows = connection.execute(UNPUBLISHED, {"limit": HEADS_AT_ONCE}).all()
            last = connection.execute(LAST_OF_ALL).all() if again and len(rows) < HEADS_AT_ONCE else []
            waiting = {(row.tenant, row.height) for row in rows}
            # A tenant's last head comes after all that waits.
            send([signed_head(row) for row in (*rows, *(r for r in last if (r.tenant, r.height) not in waiting))])
            values = {"tenants": [row.tenant for row in rows], "heights": [row.height for row in rows]}
            connection.execute(PUBLISHED, values)
            return len(rows)


def signed_head(row: Row[tuple[object, ...]]) -> SignedHead:
    """A block's row as what was signed."""
    head = Head(
        tenant=row.tenant,
        height=row.height,
        previous=row.previous,
        root=row.root,
        entries=row.entries,
        sealed_at=row.sealed_at,
    )
    return SignedHead(head=head, key_id=row.key_id, signature=row.signature)


def _entries(connection: Connection, pending: Sequence[Row[tuple[object, ...]]]) -> list[Entry]:
    verdicts = read_verdicts(connection, [(row.id, row.judged_at) for row in pending if row.kind == VERDICT])
    records = read_records(connection, [row.id for row in pending if row.kind != VERDICT])
    entries = []
    for row in pending:
        if row.kind != VERDICT:
            digest = records[row.id][0] if row.id in records else bytes(32)  # gone before it was sealed: a finding
            entries.append(Entry(kind=row.kind, id=row.id, digest=digest))
            continue
        found = verdicts.get((row.id, row.judged_at))
        entries.append(
            Entry(
                kind=VERDICT,
                id=row.id,
                digest=row.digest,
                judged_at=row.judged_at,
                src=found.src if found else None,
                row_digest=found.row_digest if found else None,
                views_digest=found.views_digest if found else None,
            )
        )
    return entries


def _block(signed: SignedHead) -> dict[str, object]:
    head = signed.head
    return {
        "tenant": head.tenant,
        "height": head.height,
        "previous": head.previous,
        "root": head.root,
        "digest": head.digest,
        "key_id": signed.key_id,
        "signature": signed.signature,
        "sealed_at": head.sealed_at,
        "entries": head.entries,
    }


def _entry(head: Head, position: int, entry: Entry) -> dict[str, object]:
    return {
        "tenant": head.tenant,
        "height": head.height,
        "position": position,
        "id": entry.id,
        "digest": entry.digest,
        "kind": entry.kind,
        "judged_at": entry.judged_at,
        "src": entry.src,
        "row_digest": entry.row_digest,
        "views_digest": entry.views_digest,
    }
