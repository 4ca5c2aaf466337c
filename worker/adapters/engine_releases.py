"""Releases of candidate engines as rows: what runs, what was counted, and the one decision that ends each.

A decision, the moves of the engines and the alert are one transaction, under the lock of the engine's name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import Connection, Engine, Row, insert, select, text, update

from engines.lifecycle import Move, State, Verb
from migrations.tables import engine_golden, engine_releases, engines
from schemas.alert import AlertEvent
from worker.adapters.alarm_outbox import Outbox
from worker.adapters.database import retrying
from worker.adapters.engine_index import LOCK, move_within, those
from worker.core.release_judge import ReleaseCounts

Mode = Literal["canary", "shadow"]
Label = Literal["genuine", "counterfeit"]
Ended = Literal["promoted", "taken_back", "held"]

COUNTS = text("""
WITH compared AS (
    SELECT candidate_error, golden_label, current_verdict, candidate_verdict, current_ms, candidate_ms,
        candidate_error IS NULL AS complete,
        (golden_label, candidate_verdict) IN (('counterfeit', 'authentic'), ('genuine', 'counterfeit')) AS wrong_now,
        (golden_label, current_verdict) IN (('counterfeit', 'authentic'), ('genuine', 'counterfeit')) AS wrong_before,
        current_verdict = 'inconclusive' AS open_before, candidate_verdict = 'inconclusive' AS open_now
    FROM assay.engine_comparisons WHERE release_id = :release_id
)
SELECT count(*) AS jobs, count(candidate_error) AS failed,
    count(*) FILTER (WHERE complete AND golden_label IS NULL) AS answered,
    count(*) FILTER (WHERE complete AND golden_label IS NULL AND NOT open_before AND NOT open_now
        AND current_verdict <> candidate_verdict) AS hard,
    count(*) FILTER (WHERE complete AND golden_label IS NULL AND open_before <> open_now) AS abstention,
    count(*) FILTER (WHERE complete AND candidate_ms IS NOT NULL) AS timed,
    count(*) FILTER (WHERE complete AND candidate_ms > current_ms * :slower) AS slow,
    count(*) FILTER (WHERE complete AND golden_label IS NOT NULL) AS golden,
    count(*) FILTER (WHERE complete AND wrong_now AND NOT wrong_before) AS golden_worse,
    count(*) FILTER (WHERE complete AND wrong_before AND NOT wrong_now) AS golden_better
FROM compared
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRelease:
    """A candidate beside the current engine. `state` is `running` until `decision` is there. `candidate_state` and
    `current_state` are the engines' own, as they are now."""

    id: UUID
    name: str
    candidate: str
    candidate_version: int
    candidate_state: State
    current: str
    current_version: int
    current_state: State
    mode: Mode
    share: float
    started_at: datetime
    by: str
    why: str
    state: str
    decided_at: datetime | None
    decision: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a release ends: what is written of it, the move of the candidate that goes with it, and who is told."""

    state: Ended
    by: str
    why: str
    decision: Mapping[str, Any]
    verb: Verb | None = None
    event: AlertEvent | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReleases:
    """Thread-safe. Every method is one transaction; raises ServiceUnavailable where Postgres stays away."""

    database: Engine

    def running(self) -> list[EngineRelease]:
        """What is not decided, oldest first."""
        return self._read(engine_releases.c.state == "running")

    def of(self, name: str) -> list[EngineRelease]:
        """All releases of a name, oldest first."""
        return self._read(engine_releases.c.name == name)

    def counts(self, release_id: UUID, slower: float) -> ReleaseCounts:
        """What its jobs came to; `slower` as core.release_judge.JudgeRule has it."""

        def read() -> ReleaseCounts:
            with self.database.connect() as connection:
                row = connection.execute(COUNTS, {"release_id": release_id, "slower": slower})
                return ReleaseCounts(**row.mappings().one())

        return retrying(read)

    def end(self, release: EngineRelease, ending: Ending, outbox: Outbox | None = None) -> tuple[Move, ...] | None:
        """End a release with all that follows from it; None where it was ended meanwhile. Raises EngineRefused where
        the rules refuse the move; nothing is written then."""

        def write() -> tuple[Move, ...] | None:
            with self.database.begin() as connection:
                return _end(connection, release, ending, outbox)

        return retrying(write)

    def add_golden(self, tenant: str, labels: Mapping[str, Label], *, by: str, why: str) -> None:
        """Register jobs, by id, whose truth is known. Before they are submitted: later comparisons alone are marked."""
        rows = [{"tenant": tenant, "job_id": i, "label": label, "by": by, "why": why} for i, label in labels.items()]

        def write() -> None:
            with self.database.begin() as connection:
                connection.execute(insert(engine_golden), rows)

        if rows:
            retrying(write)

    def _read(self, which: Any) -> list[EngineRelease]:
        tried, served = engines.alias(), engines.alias()
        wanted = (
            select(
                engine_releases,
                *(tried.c.version.label("candidate_version"), tried.c.state.label("candidate_state")),
                *(served.c.version.label("current_version"), served.c.state.label("current_state")),
            )
            .join(tried, tried.c.id == engine_releases.c.candidate)
            .join(served, served.c.id == engine_releases.c.current)
            .where(which)
            .order_by(engine_releases.c.started_at, engine_releases.c.id)
        )

        def read() -> list[EngineRelease]:
            with self.database.connect() as connection:
                return [_release(row) for row in connection.execute(wanted)]

        return retrying(read)


def _end(
    connection: Connection, release: EngineRelease, ending: Ending, outbox: Outbox | None
) -> tuple[Move, ...] | None:
    """The moves come first: the database lets the watcher move engines only while the release runs."""
    connection.execute(LOCK, {"name": release.name})
    mine = engine_releases.c.id == release.id
    if connection.scalar(select(engine_releases.c.state).where(mine)) != "running":
        return None
    moves: tuple[Move, ...] = ()
    if ending.verb is not None:
        moves = move_within(
            connection,
            ending.verb,
            release.name,
            those((release.candidate,)),
            by=ending.by,
            why=ending.why,
        )
    decided = {**ending.decision, "by": ending.by, "why": ending.why}
    connection.execute(update(engine_releases).where(mine).values(state=ending.state, decision=decided))
    if outbox is not None and ending.event is not None:
        outbox.write(connection, ending.event)
    return moves


def _release(row: Row[Any]) -> EngineRelease:
    values = dict(row._mapping)  # noqa: SLF001 (public, named so that columns cannot hide it)
    states: Sequence[str] = ("candidate_state", "current_state")
    return EngineRelease(**{**values, **{name: State(values[name]) for name in states}})
