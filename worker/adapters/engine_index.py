"""The index of published engines in PostgreSQL: what there is, in which state, and who moved it there and why.

A change of state is an appended event; the database's trigger moves the state with it. Curators publish and move,
workers read. The files lie in an engines.store.EngineStore.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Engine, Row, func, insert, select, text
from sqlalchemy.dialects import postgresql

from engines.errors import EngineRefused, RefusalCode
from engines.gate import refuse_unproven
from engines.lifecycle import Move, State, Variant, Verb, moves_for
from engines.manifest import EngineManifest
from engines.release import Release
from migrations.tables import embedding_spaces, engine_events, engines
from worker.adapters.database import retrying

# One curator a name at a time: what the rules saw must still hold when the events are written.
LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended('assay engines ' || :name, 0))")
GATED: Final[frozenset[Verb]] = frozenset({"verify", "canary", "promote"})  # a rollback is never held up
Choose = Callable[[Sequence["Published"]], Sequence["Published"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A published engine as the index has it. `manifest` is not verified: files are, when they are read."""

    variant: Variant
    manifest: EngineManifest
    release: Release
    digest: str
    published_at: datetime

    @property
    def id(self) -> str:
        return self.variant.id

    @property
    def state(self) -> State:
        return self.variant.state


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A change of state; `role` is the database's."""

    engine: str
    came_from: State | None
    state: State
    by: str
    why: str
    at: datetime
    role: str


@dataclass(frozen=True, slots=True)
class EngineIndex:
    """Thread-safe. Every method is one transaction. Raises EngineRefused for what the rules refuse, and
    ServiceUnavailable where Postgres stays away."""

    database: Engine

    def published(self, name: str | None = None, states: Collection[State] = ()) -> list[Published]:
        """Engines by name, newest version first; of all names and states unless given."""
        return retrying(lambda: self._read(name, states))

    def events(self, engine_id: str) -> list[Event]:
        """What an engine went through, oldest first."""
        wanted = select(engine_events).where(engine_events.c.engine == engine_id).order_by(engine_events.c.id)
        return retrying(lambda: self._events(wanted))

    def highest_version(self, name: str) -> int:
        """The highest version of a name that was ever published; 0 before the first."""
        return retrying(lambda: self._highest(name))

    def add(self, engine_id: str, manifest: EngineManifest, *, by: str, why: str) -> bool:
        """Enter an engine as a draft; False where these very files were published before. Raises EngineRefused."""
        row = _row(engine_id, manifest)
        return retrying(lambda: self._add(row, manifest, by, why))

    def move(
        self, verb: Verb, name: str, choose: Choose, *, by: str, why: str, without_report: str = ""
    ) -> tuple[Move, ...]:
        """Do what `verb` means to the engines of a name that `choose` takes out of all, whole or not at all. None gets
        nearer to traffic whose release proves no accuracy, unless `without_report` says why."""
        return retrying(lambda: self._move(verb, name, choose, by, why, without_report))

    def _read(self, name: str | None, states: Collection[State]) -> list[Published]:
        with self.database.connect() as connection:
            return _published(connection, name, states)

    def _events(self, wanted: Any) -> list[Event]:
        with self.database.connect() as connection:
            return [_event(row) for row in connection.execute(wanted)]

    def _highest(self, name: str) -> int:
        with self.database.connect() as connection:
            return _highest_version(connection, name)

    def _add(self, row: Mapping[str, object], manifest: EngineManifest, by: str, why: str) -> bool:
        with self.database.begin() as connection:
            connection.execute(LOCK, {"name": manifest.name})
            known = connection.execute(select(engines.c.id).where(_same(row))).scalar_one_or_none()
            if known == row["id"]:
                return False
            _refuse_known(known, manifest)
            _refuse_lower(_highest_current(connection, manifest.name), manifest)
            space = {"space": manifest.embedding_space, "dims": manifest.embedding_dim}
            connection.execute(postgresql.insert(embedding_spaces).values(space).on_conflict_do_nothing())
            connection.execute(insert(engines).values(row))
            _append(connection, [Move(id=str(row["id"]), came_from=None, to=State.DRAFT)], by, why)
            return True

    def _move(self, verb: Verb, name: str, choose: Choose, by: str, why: str, without_report: str) -> tuple[Move, ...]:
        with self.database.begin() as connection:
            return move_within(connection, verb, name, choose, by=by, why=why, without_report=without_report)


def move_within(
    connection: Connection, verb: Verb, name: str, choose: Choose, *, by: str, why: str, without_report: str = ""
) -> tuple[Move, ...]:
    """As EngineIndex.move, in a transaction of the caller's, which holds the name until it ends."""
    connection.execute(LOCK, {"name": name})
    known = _published(connection, name, ())
    found = choose(known)
    if verb in GATED and not without_report:
        for one in found:
            refuse_unproven(one.manifest)
    chosen = [one.variant for one in found]
    moves = moves_for(verb, chosen, [one.variant for one in known], _highest_current(connection, name))
    _append(connection, moves, by, exempted(why, without_report))
    return moves


def those(ids: Collection[str]) -> Choose:
    """The engines of these ids, however many of them there are."""
    return lambda known: [one for one in known if one.id in ids]


def published_within(connection: Connection, name: str) -> list[Published]:
    """As EngineIndex.published, in a transaction of the caller's."""
    return _published(connection, name, ())


def exempted(why: str, without_report: str) -> str:
    """The grounds as they are recorded."""
    return f"{why} (without a report: {without_report})" if without_report else why


def _published(connection: Connection, name: str | None, states: Collection[State]) -> list[Published]:
    columns = engines.c
    wanted = select(engines).order_by(columns.name, columns.version.desc(), columns.backend, columns.id)
    if name is not None:
        wanted = wanted.where(columns.name == name)
    if states:
        wanted = wanted.where(columns.state.in_([str(state) for state in states]))
    return [_one(row) for row in connection.execute(wanted)]


def _one(row: Row[Any]) -> Published:
    source = f"the index's engine {row.id[:12]}"
    manifest = EngineManifest.from_json(json.dumps(row.manifest).encode(), source)
    if manifest.release is None or manifest.release.version != row.version:
        fix = "publish the engine again; somebody changed the index"
        raise EngineRefused(RefusalCode.MANIFEST_INVALID, f"{source} is not what its row says", fix)
    slot = str(manifest.release.target)
    variant = Variant(id=row.id, name=row.name, version=row.version, slot=slot, state=State(row.state))
    return Published(
        variant=variant,
        manifest=manifest,
        release=manifest.release,
        digest=row.digest,
        published_at=row.published_at,
    )


def _event(row: Row[Any]) -> Event:
    came_from = None if row.came_from is None else State(row.came_from)
    return Event(
        engine=row.engine,
        came_from=came_from,
        state=State(row.state),
        by=row.by,
        why=row.why,
        at=row.at,
        role=row.role,
    )


def _row(engine_id: str, manifest: EngineManifest) -> dict[str, object]:
    release = manifest.release
    if release is None:
        raise EngineRefused(RefusalCode.MANIFEST_INVALID, f"{manifest.name} has no version", "sign it as a release")
    return {
        "id": engine_id,
        "name": manifest.name,
        "version": release.version,
        "backend": release.target.backend,
        "capability": release.target.capability,
        "requires": release.target.required,
        "precision": manifest.precision,
        "space": manifest.embedding_space,
        "digest": manifest.onnx_sha256,
        "key_id": manifest.key_id,
        "manifest": json.loads(manifest.to_json()),
        "expires_at": release.expires_at,
    }


def _same(row: Mapping[str, object]) -> Any:
    """The variant of this row: another engine must not take its version."""
    names = ("name", "version", "backend", "capability", "requires", "precision")
    condition = engines.c.name == row["name"]
    for name in names[1:]:
        condition &= engines.c[name] == row[name]
    return condition


def _refuse_known(known: str | None, manifest: EngineManifest) -> None:
    if known is not None and manifest.release is not None:
        message = f"version {manifest.release.version} of {manifest.name} ({manifest.release.target}) is {known[:12]}"
        raise EngineRefused(RefusalCode.ALREADY_PUBLISHED, message, "publish under a higher --version")


def _refuse_lower(highest_current: int, manifest: EngineManifest) -> None:
    version = manifest.release.version if manifest.release is not None else 0
    if version < highest_current:
        message = f"{manifest.name} version {version}: version {highest_current} was current already"
        raise EngineRefused(RefusalCode.ROLLED_BACK, message, f"publish it as version {highest_current + 1} or higher")


def _highest_version(connection: Connection, name: str) -> int:
    return connection.scalar(select(func.max(engines.c.version)).where(engines.c.name == name)) or 0


def _highest_current(connection: Connection, name: str) -> int:
    """Events are never deleted, so the index remembers it."""
    was = engine_events.join(engines, engines.c.id == engine_events.c.engine)
    wanted = select(func.max(engines.c.version)).select_from(was)
    wanted = wanted.where(engines.c.name == name, engine_events.c.state == str(State.CURRENT))
    return connection.scalar(wanted) or 0


def _append(connection: Connection, moves: Sequence[Move], by: str, why: str) -> None:
    for move in moves:  # one statement a move: the trigger of each must have run before the next
        came_from = None if move.came_from is None else str(move.came_from)
        row = {"engine": move.id, "came_from": came_from, "state": str(move.to), "by": by, "why": why}
        connection.execute(insert(engine_events).values(row))
