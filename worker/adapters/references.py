"""The curator's side of the gallery: items, references through their lifecycle, sharing, profiles, score calibrations.

draft -> active <-> quarantined, and any of them -> retired, which is the end. Every change of what verdicts depend on
moves the gallery revision in the same transaction, so that a revision names one content.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID, uuid5

from pgvector import Vector
from sqlalchemy import Connection, Engine, Select, delete, select, update
from sqlalchemy import Row as RowOf
from sqlalchemy.dialects.postgresql import insert

from migrations.tables import (
    embedding_spaces,
    items,
    reference_embeddings,
    reference_events,
    reference_grants,
    reference_images,
)
from worker.adapters.bulk import Row
from worker.adapters.database import retrying
from worker.adapters.phash import bands, signed
from worker.adapters.policy_rows import write_calibration, write_profiles
from worker.adapters.revisions import EVERYONE, Announce, move, silent
from worker.core.evidence import ViewProbe
from worker.core.gallery import int8_patches
from worker.core.policy import CategoryProfile, ScoreCalibration
from worker.errors import AssayError

T = TypeVar("T")
REFERENCE_NAMESPACE = UUID("b5f0a6a0-0f6f-5c3c-8a55-2d7a1c9f4e02")

# The states that a reference may come from, by the one it enters. Entering the state it has changes nothing.
FROM = {
    "active": ("draft", "quarantined"),
    "quarantined": ("active",),
    "retired": ("draft", "active", "quarantined"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NewItem:
    sku: str
    category: str
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewReference:
    """A photograph to enrol, as its engine saw it; `probe` holds view, digest, hash, embedding and patches."""

    sku: str
    genuine: bool  # False: a known counterfeit of the SKU
    probe: ViewProbe
    provenance: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolledReference:
    reference_id: str
    sku: str
    view: str
    genuine: bool
    sha256: str
    state: str
    provenance: Mapping[str, str]
    approved_by: str | None
    created_at: datetime


@dataclass(slots=True)
class ReferenceStore:
    """Thread-safe. Every method is one transaction and raises ServiceUnavailable where Postgres stays away."""

    database: Engine
    announce: Announce = silent

    def ensure_items(self, tenant: str, new: Sequence[NewItem]) -> None:
        """Enter items that are new, and correct category and name of those that are known."""
        rows = [{"tenant": tenant, "sku": item.sku, "category": item.category, "name": item.name} for item in new]
        if rows:
            statement = insert(items)
            fresh = {"category": statement.excluded.category, "name": statement.excluded.name}
            statement = statement.on_conflict_do_update(index_elements=["tenant", "sku"], set_=fresh)
            self._run(lambda connection: connection.execute(statement, _unique(rows, "sku")))

    def add(self, tenant: str, new: Sequence[NewReference], *, by: str, why: str) -> list[str]:
        """Enter references as drafts, with their vectors; return their ids, in order.

        A photograph that is known for its SKU and view keeps its id and state and gains the vectors of new spaces.
        The items must exist.
        """
        ids = [_reference_id(tenant, reference) for reference in new]
        if new:
            self._run(lambda connection: _add(connection, tenant, ids, new, by=by, why=why))
        return [str(reference_id) for reference_id in ids]

    def add_vectors(self, probes: Mapping[str, ViewProbe]) -> None:
        """Give references, by id, the vectors of another space. The revision does not move: `publish` follows."""
        rows = [_vector_row(UUID(reference_id), probe) for reference_id, probe in probes.items()]
        if rows:
            statement = insert(reference_embeddings).on_conflict_do_nothing()
            self._run(lambda connection: connection.execute(statement, _unique(rows, "reference_id", "space")))

    def activate(self, tenant: str, reference_ids: Sequence[str], *, by: str, why: str) -> int:
        """Let references decide verdicts; `by` approves them. Returns the gallery revision."""
        return self._enter("active", tenant, reference_ids, by=by, why=why)

    def quarantine(self, tenant: str, reference_ids: Sequence[str], *, by: str, why: str) -> int:
        """Take references out until somebody has looked. Returns the gallery revision."""
        return self._enter("quarantined", tenant, reference_ids, by=by, why=why)

    def retire(self, tenant: str, reference_ids: Sequence[str], *, by: str, why: str) -> int:
        """Take references out for good. Returns the gallery revision."""
        return self._enter("retired", tenant, reference_ids, by=by, why=why)

    def enrolled(
        self, tenant: str, *, sku: str | None = None, states: Sequence[str] | None = None
    ) -> list[EnrolledReference]:
        """The tenant's own references, by SKU, view and age."""
        wanted = select(reference_images).where(reference_images.c.tenant == tenant)
        if sku is not None:
            wanted = wanted.where(reference_images.c.sku == sku)
        if states is not None:
            wanted = wanted.where(reference_images.c.state.in_(states))
        columns = reference_images.c
        ordered = wanted.order_by(columns.sku, columns.view, columns.created_at, columns.id)
        return retrying(lambda: self._read(ordered))

    def grant(self, owner: str, grantee: str, *, by: str) -> int:
        """Let `grantee` compare with the references of `owner` too. Returns the gallery revision."""
        row = insert(reference_grants).values(owner=owner, grantee=grantee, by=by).on_conflict_do_nothing()
        return self._changed(lambda c: c.execute(row), grantee, why=f"references of {owner} shared", by=by)

    def revoke(self, owner: str, grantee: str, *, by: str) -> int:
        """End a sharing. Returns the gallery revision."""
        rows = (reference_grants.c.owner == owner) & (reference_grants.c.grantee == grantee)
        gone = delete(reference_grants).where(rows)
        return self._changed(lambda c: c.execute(gone), grantee, why=f"sharing by {owner} ended", by=by)

    def put_categories(self, profiles: Sequence[CategoryProfile], *, by: str, why: str) -> int:
        """Enter or replace category profiles, for all tenants. Returns the gallery revision."""
        return self._changed(lambda connection: write_profiles(connection, profiles), EVERYONE, why=why, by=by)

    def put_calibration(self, calibration: ScoreCalibration, *, n: int, by: str, why: str) -> int:
        """Make a score calibration the active one of its backend and engines. Returns the gallery revision.

        `n` is how many labelled items it was fitted on.
        """
        return self._changed(lambda c: write_calibration(c, calibration, n=n), EVERYONE, why=why, by=by)

    def publish(self, tenant: str, why: str, by: str) -> int:
        """Move the gallery revision of `tenant` (`*`: of all) though nothing changed: workers load it again."""
        return self._changed(lambda _: None, tenant, why=why, by=by)

    def _enter(self, state: str, tenant: str, reference_ids: Sequence[str], *, by: str, why: str) -> int:
        ids = [UUID(reference_id) for reference_id in reference_ids]
        return self._changed(lambda c: _enter_state(c, state, tenant, ids, by=by, why=why), tenant, why=why, by=by)

    def _changed(self, change: Callable[[Connection], object], tenant: str, *, why: str, by: str) -> int:
        def both(connection: Connection) -> int:
            change(connection)
            return move(connection, tenant, why=why, by=by)

        revision = self._run(both)
        self.announce(tenant, revision)
        return revision

    def _run(self, work: Callable[[Connection], T]) -> T:
        def transaction() -> T:
            with self.database.begin() as connection:
                return work(connection)

        return retrying(transaction)

    def _read(self, wanted: Select[Any]) -> list[EnrolledReference]:
        with self.database.connect() as connection:
            return [_enrolled(row) for row in connection.execute(wanted)]


def _reference_id(tenant: str, reference: NewReference) -> UUID:
    parts = (tenant, reference.sku, reference.probe.view, reference.probe.sha256)
    return uuid5(REFERENCE_NAMESPACE, "\x00".join(parts))


def _add(
    connection: Connection, tenant: str, ids: Sequence[UUID], new: Sequence[NewReference], *, by: str, why: str
) -> None:
    spaces = [{"space": r.probe.engine.embedding_space, "dims": len(r.probe.embedding)} for r in new]
    images = [_image(tenant, reference_id, r) for reference_id, r in zip(ids, new, strict=True)]
    vectors = [_vector_row(reference_id, r.probe) for reference_id, r in zip(ids, new, strict=True)]
    connection.execute(insert(embedding_spaces).on_conflict_do_nothing(), _unique(spaces, "space"))
    added = insert(reference_images).on_conflict_do_nothing().returning(reference_images.c.id)
    fresh = connection.scalars(added, _unique(images, "id")).all()
    connection.execute(insert(reference_embeddings).on_conflict_do_nothing(), _unique(vectors, "reference_id", "space"))
    _record(connection, "draft", fresh, by=by, why=why)


def _enter_state(connection: Connection, state: str, tenant: str, ids: Sequence[UUID], *, by: str, why: str) -> None:
    """Raises AssayError, naming the references that are not the tenant's or may not enter the state."""
    mine = (reference_images.c.tenant == tenant) & reference_images.c.id.in_(ids)
    rows = connection.execute(select(reference_images.c.id, reference_images.c.state).where(mine).with_for_update())
    states = {row.id: row.state for row in rows}
    wrong = {str(i): states.get(i, "unknown") for i in ids if states.get(i) not in (state, *FROM[state])}
    if wrong:
        raise AssayError(f"these references of {tenant!r} cannot become {state}: {wrong}")
    moved = [reference_id for reference_id, was in states.items() if was != state]
    approval = {"approved_by": by} if state == "active" else {}
    connection.execute(update(reference_images).where(reference_images.c.id.in_(moved)).values(state=state, **approval))
    _record(connection, state, moved, by=by, why=why)


def _record(connection: Connection, state: str, ids: Sequence[UUID], *, by: str, why: str) -> None:
    if ids:
        events = [{"reference_id": i, "state": state, "by": by, "why": why} for i in ids]
        connection.execute(reference_events.insert(), events)


def _image(tenant: str, reference_id: UUID, reference: NewReference) -> Row:
    probe = reference.probe
    return {
        "id": reference_id,
        "tenant": tenant,
        "sku": reference.sku,
        "view": probe.view,
        "genuine": reference.genuine,
        "sha256": bytes.fromhex(probe.sha256),
        "phash": signed(probe.phash),
        "bands": bands(probe.phash),
        "provenance": dict(reference.provenance),
        "state": "draft",
    }


def _vector_row(reference_id: UUID, probe: ViewProbe) -> Row:
    height, width = probe.patch_grid
    return {
        "reference_id": reference_id,
        "space": probe.engine.embedding_space,
        "dims": len(probe.embedding),
        "embedding": Vector(probe.embedding),
        "patches": int8_patches(probe.patches).tobytes(),
        "grid_h": height,
        "grid_w": width,
        "engine_digest": probe.engine.digest,
    }


def _enrolled(row: RowOf[Any]) -> EnrolledReference:
    return EnrolledReference(
        reference_id=str(row.id),
        sku=row.sku,
        view=row.view,
        genuine=row.genuine,
        sha256=row.sha256.hex(),
        state=row.state,
        provenance=row.provenance,
        approved_by=row.approved_by,
        created_at=row.created_at,
    )


def _unique(rows: Sequence[Row], *names: str) -> list[Row]:
    """The first row of each value of `names`, ascending: two transactions then wait for each other in one order."""
    firsts = {tuple(str(row[name]) for name in names): row for row in reversed(rows)}
    return [firsts[key] for key in sorted(firsts)]
