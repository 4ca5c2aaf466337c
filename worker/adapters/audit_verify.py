"""Verifies the ledger: every chain from its first block to the published head, and every verdict against its entry.

One snapshot, read in pages: memory does not grow with the verdicts, only with those that are missing. A verdict may be
missing if a sealed record accounts for it: an erasure that names it, or its dropped month.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import groupby
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine

from worker.adapters import audit_reading as reading
from worker.adapters.audit_differences import differences
from worker.adapters.audit_keys import TrustedKeys
from worker.adapters.audit_reading import DroppedMonth, StoredBlock, StoredEntry
from worker.adapters.audit_rows import SealedRow, read_records, read_verdicts
from worker.core.ledger import ERASURE, GENESIS, VERDICT, SignedHead, root_of

GRACE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that is not as it was sealed. `block` and `entry` say where in the tenant's chain, from 0."""

    tenant: str
    what: str
    block: int | None = None
    entry: int | None = None

    def __str__(self) -> str:
        places = (f"tenant {self.tenant}", f"block {self.block}", f"entry {self.entry}")
        known = [place for place, at in zip(places, (0, self.block, self.entry), strict=True) if at is not None]
        return f"{', '.join(known)}: {self.what}"


@dataclass(slots=True, kw_only=True)
class Counts:
    """What was looked at."""

    tenants: int = 0
    blocks: int = 0
    verdicts: int = 0
    erased: int = 0
    dropped: int = 0
    findings: int = 0


Found = Callable[[Finding], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """How to verify. `heads` are by tenant; `complete`: they are of all tenants, so that a chain without one is wrong.

    What waits to be sealed for less than `grace_s` is not yet wrong.
    """

    heads: Mapping[str, SignedHead]
    keys: TrustedKeys
    complete: bool = True
    grace_s: float = GRACE_S


def verify_ledger(database: Engine, heads: Mapping[str, SignedHead], keys: TrustedKeys) -> tuple[Finding, ...]:
    """Every finding; none where the ledger and all verdicts are as they were sealed and nothing waits too long."""
    findings: list[Finding] = []
    verify(database, Check(heads=heads, keys=keys), findings.append)
    return tuple(findings)


def verify(database: Engine, check: Check, found: Found, *, tenant: str | None = None) -> Counts:
    """Verify all tenants, or one; tells each finding to `found` as it comes."""
    counts = Counts()

    def tell(finding: Finding) -> None:
        counts.findings += 1
        found(finding)

    with database.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        known = {*reading.tenants(connection), *check.heads} if tenant is None else {tenant}
        for name in sorted(known):
            counts.tenants += 1
            ChainCheck(connection, name, check, counts, tell).run()
        for name, result_id, judged_at, job_id in reading.unsealed(connection, tenant, check.grace_s):
            what = f"verdict {result_id} of job {job_id!r}, judged at {judged_at:%Y-%m-%d %H:%M:%S}, was never sealed"
            tell(Finding(tenant=name, what=f"{what}: it was added past the worker, or the sealer stands still"))
    return counts


@dataclass(slots=True)
class ChainCheck:
    """Walks one tenant's chain once."""

    connection: Connection
    tenant: str
    check: Check
    counts: Counts
    found: Found
    _months: list[DroppedMonth] = field(default_factory=list)
    _missing: dict[UUID, StoredEntry] = field(default_factory=dict)
    _records: set[UUID] = field(default_factory=set)  # sealed as they stand, or just waiting to be

    def run(self) -> None:
        self._months = reading.dropped_months(self.connection, self.tenant)
        tip = self._walk()
        self._look_at_head(tip)
        self._waiting_records()
        self._account()

    def _say(self, what: str, block: int | None = None, entry: int | None = None) -> None:
        self.found(Finding(tenant=self.tenant, what=what, block=block, entry=entry))

    def _walk(self) -> StoredBlock | None:
        """The blocks beside their entries; returns the last block."""
        grouped = ((height, list(group)) for height, group in groupby(self._entries(), key=lambda e: e.height))
        waiting = next(grouped, None)
        last = None
        for block in reading.blocks(self.connection, self.tenant):
            height = block.signed.head.height
            while waiting is not None and waiting[0] < height:
                self._say("its entries stand, but the block is gone", waiting[0])
                waiting = next(grouped, None)
            own = waiting[1] if waiting is not None and waiting[0] == height else []
            self._look_at_block(block, last, own)
            waiting = next(grouped, None) if own else waiting
            last = block
        for height, _ in (waiting, *grouped) if waiting else ():
            self._say("its entries stand, but the block is gone", height)
        return last

    def _look_at_block(self, block: StoredBlock, last: StoredBlock | None, entries: Sequence[StoredEntry]) -> None:
        self.counts.blocks += 1
        head = block.signed.head
        expected = last.signed.head.height + 1 if last else 0
        if head.height != expected:
            self._say(f"blocks {expected} to {head.height - 1} are gone", head.height)
        elif head.previous != (last.signed.head.digest if last else GENESIS):
            self._say("it does not follow from the block before: one of the two was changed", head.height)
        if block.digest != head.digest:
            self._say("its digest is not that of its content: it was changed", head.height)
        if fault := self.check.keys.fault(block.signed):
            self._say(fault, head.height)
        if len(entries) != head.entries:
            self._say(f"it has {len(entries)} entries, and {head.entries} were sealed", head.height)
        elif root_of(stored.entry for stored in entries) != head.root:
            self._say("its entries are not those that were sealed: changed or in another order", head.height)
        self._look_at_published(block)

    def _look_at_published(self, block: StoredBlock) -> None:
        published = self.check.heads.get(self.tenant)
        if published and published.head.height == block.signed.head.height and published.head != block.signed.head:
            self._say("it is not the block whose head was published", block.signed.head.height)

    def _look_at_head(self, tip: StoredBlock | None) -> None:
        published = self.check.heads.get(self.tenant)
        if published is None:
            if self.check.complete and tip is not None and self._late(tip):
                self._say("no head of its chain was published")
            return
        if fault := self.check.keys.fault(published):
            self._say(f"the published head is not to be trusted: {fault}", published.head.height)
        reached = tip.signed.head.height if tip else -1
        if reached < published.head.height:
            ends = f"the chain ends with block {reached}" if tip else "the chain is gone"
            self._say(f"{ends}, and the head of block {published.head.height} was published: its tail was cut", reached)

    def _late(self, tip: StoredBlock) -> bool:
        now = reading.now(self.connection)
        return (now - tip.signed.head.sealed_at).total_seconds() > self.check.grace_s

    def _entries(self) -> Iterator[StoredEntry]:
        """The entries, each compared with what it sealed."""
        for page in reading.entry_pages(self.connection, self.tenant):
            places = [(e.entry.id, e.entry.judged_at) for e in page if e.entry.kind == VERDICT and e.entry.judged_at]
            rows = read_verdicts(self.connection, places, with_event=True)
            records = read_records(self.connection, [e.entry.id for e in page if e.entry.kind != VERDICT])
            for stored in page:
                entry = stored.entry
                if entry.kind != VERDICT:
                    self._look_at_record(stored, records.get(entry.id))
                elif entry.judged_at is None or (row := rows.get((entry.id, entry.judged_at))) is None:
                    self._miss(stored)
                else:
                    self._compare(stored, row)
            yield from page

    def _compare(self, stored: StoredEntry, row: SealedRow) -> None:
        self.counts.verdicts += 1
        entry = stored.entry
        faults = []
        if sha256(row.event).digest() != entry.digest or row.row["digest"] != entry.digest:
            faults.append("its event's bytes are not those that were sealed")
        if row.row_digest != entry.row_digest:
            faults.append(f"its row is not as it was sealed{differences(row)}")
        if row.views_digest != entry.views_digest:
            faults.append("the rows of its views are not as they were sealed")
        for fault in faults:
            self._say(f"verdict {entry.id} of job {row.row['job_id']!r}: {fault}", stored.height, stored.position)

    def _miss(self, stored: StoredEntry) -> None:
        for month in self._months:
            if month.holds(stored.entry.judged_at):
                month.missing += 1
                return
        self._missing[stored.entry.id] = stored

    def _look_at_record(self, stored: StoredEntry, record: tuple[bytes, Mapping[Any, Any]] | None) -> None:
        if record is None or record[0] != stored.entry.digest:
            fault = "is gone" if record is None else "is not as it was sealed"
            what = f"the record {stored.entry.id} of {_named(stored.entry.kind)} {fault}"
            self._say(what, stored.height, stored.position)
            return
        self._allow(record[1])

    def _waiting_records(self) -> None:
        for record in reading.unsealed_records(self.connection, self.tenant, self.check.grace_s):
            if record["late"]:
                self._say(f"the record {record['id']} of {_named(record['kind'])} was never sealed")
            else:
                self._allow(record)

    def _allow(self, record: Mapping[Any, Any]) -> None:
        self._records.add(record["id"])
        for result_id, judged_at in reading.erased_verdicts(record) if record["kind"] == ERASURE else ():
            if self._missing.pop(result_id, None) is not None:
                self.counts.erased += 1
            for month in self._months:
                month.verdicts += month.holds(judged_at)  # gone before the month was: its record counts them not

    def _account(self) -> None:
        """What is missing must have a record that says why."""
        for month in self._months:
            allowed = month.verdicts if month.record in self._records else 0
            self.counts.dropped += min(allowed, month.missing)
            if month.missing > allowed:
                span = f"{month.first:%Y-%m-%d} to {month.end:%Y-%m-%d}"
                self._say(f"{month.missing} verdicts of {span} are gone, and sealed records account for {allowed}")
        for stored in self._missing.values():
            what = f"verdict {stored.entry.id} is gone, and no erasure or dropped month accounts for it"
            self._say(what, stored.height, stored.position)


def _named(kind: str) -> str:
    return "an erasure" if kind == ERASURE else "a dropped month"
