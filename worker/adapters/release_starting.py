"""Releases begin here, and end where a person moves engines: the moves and the release's row are one transaction."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from uuid import UUID, uuid4

from sqlalchemy import Connection, Engine, Row, insert, select, update

from engines.errors import EngineRefused, RefusalCode
from engines.lifecycle import Move, State, Verb
from migrations.tables import engine_releases
from worker.adapters.database import retrying
from worker.adapters.engine_index import LOCK, Choose, Published, move_within, published_within, those
from worker.adapters.engine_releases import Mode

Complete = Callable[[Published, Published], None]  # candidate, current: raises for what is missing


def start_release(
    database: Engine,
    name: str,
    choose: Choose,
    complete: Complete,
    *,
    mode: Mode,
    share: float,
    by: str,
    why: str,
    without_report: str = "",
) -> tuple[UUID, Published]:
    """Let the one engine that `choose` takes be tried beside the current one; its release and the engine.

    A release of it that runs ends as held, and the new one is counted by itself. Raises EngineRefused, and
    ServiceUnavailable.
    """

    def write() -> tuple[UUID, Published]:
        with database.begin() as connection:
            connection.execute(LOCK, {"name": name})
            candidate, current = _pair(published_within(connection, name), choose)
            complete(candidate, current)
            _refuse_rival(connection, name, candidate)
            if candidate.state is not State.CANARY:
                same = those((candidate.id,))
                move_within(connection, "canary", name, same, by=by, why=why, without_report=without_report)
            release = uuid4()
            _end(connection, name, "held", {"by": by, "why": why, "followed_by": str(release)})
            row = {"id": release, "name": name, "candidate": candidate.id, "current": current.id}
            more = {"mode": mode, "share": share, "by": by, "why": why}
            connection.execute(insert(engine_releases).values({**row, **more}))
            return release, candidate

    return retrying(write)


def move_and_end(
    database: Engine,
    verb: Verb,
    name: str,
    choose: Choose,
    complete: Complete,
    *,
    by: str,
    why: str,
    without_report: str = "",
) -> tuple[Move, ...]:
    """Promote, roll back or take back. A running release of that name ends with it: what it compares with is current no
    more, or it has no candidate. A candidate that was not itself moved is taken back then. `complete` is asked of each
    engine that is promoted over another."""

    def write() -> tuple[Move, ...]:
        with database.begin() as connection:
            connection.execute(LOCK, {"name": name})
            known = published_within(connection, name)
            chosen = choose(known)
            for candidate, current in _replacing(known, chosen) if verb == "promote" else ():
                complete(candidate, current)
            ids = {one.id for one in chosen}
            moves = move_within(connection, verb, name, those(ids), by=by, why=why, without_report=without_report)
            return (*moves, *_end_with(connection, verb, name, ids, by, why))

    return retrying(write)


def _end_with(
    connection: Connection, verb: Verb, name: str, moved: Collection[str], by: str, why: str
) -> tuple[Move, ...]:
    """End the release that runs, if one does; the moves that this takes."""
    running = _running(connection, name)
    if running is None:
        return ()
    candidate = str(running.candidate)
    moves: tuple[Move, ...] = ()
    if candidate not in moved:  # a release's candidate may have been retired by hand
        waiting = {one.id for one in published_within(connection, name) if one.state is State.CANARY} & {candidate}
        moves = move_within(connection, "take back", name, those(waiting), by=by, why=f"its release ended: {why}")
    state = {"promote": "promoted", "take back": "taken_back"}.get(verb, "held") if candidate in moved else "held"
    _end(connection, name, state, {"by": by, "why": why})
    return moves


def _pair(known: Sequence[Published], choose: Choose) -> tuple[Published, Published]:
    chosen = choose(known)
    if len(chosen) > 1:
        told = ", ".join(f"version {one.variant.version} ({one.variant.slot})" for one in chosen)
        raise EngineRefused(RefusalCode.MOVE_ILLEGAL, f"several variants: {told}", "name one with --version or --id")
    (candidate,) = chosen
    replaced = [current for _, current in _replacing(known, chosen)]
    if not replaced:
        fix = "promote it: there is nothing to compare it with"
        raise EngineRefused(RefusalCode.MOVE_ILLEGAL, f"nothing is current for {candidate.variant.slot}", fix)
    return candidate, replaced[0]


def _replacing(known: Sequence[Published], chosen: Sequence[Published]) -> list[tuple[Published, Published]]:
    """Each chosen engine with the current one that it replaces: of its own target, else the only one there is."""
    current = [one for one in known if one.state is State.CURRENT]
    found = []
    for candidate in chosen:
        own = [one for one in current if one.variant.slot == candidate.variant.slot]
        if own or len(current) == 1:
            found.append((candidate, (own or current)[0]))
    return found


def _refuse_rival(connection: Connection, name: str, candidate: Published) -> None:
    running = _running(connection, name)
    if running is not None and running.candidate != candidate.id:
        fix = f"promote it, or take it back: assay engine take-back {name}"
        message = f"another engine of {name} is being tried: {running.candidate[:12]}"
        raise EngineRefused(RefusalCode.MOVE_ILLEGAL, message, fix)


def _running(connection: Connection, name: str) -> Row[tuple[object, ...]] | None:
    columns = engine_releases.c
    wanted = select(engine_releases).where(columns.name == name, columns.state == "running")
    return connection.execute(wanted).one_or_none()


def _end(connection: Connection, name: str, state: str, decision: dict[str, str]) -> None:
    columns = engine_releases.c
    mine = (columns.name == name) & (columns.state == "running")
    connection.execute(update(engine_releases).where(mine).values(state=state, decision=decision))
