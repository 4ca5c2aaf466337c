"""Failures of engines as rows of `alarms`: what a worker that starts anew must know, and what operators are told.

`engine_failed` rows are a worker's own memory and go nowhere. `engine_degraded` ones are alerts: the watcher publishes
them, and they are over once the worker serves with what is current again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

import structlog
from sqlalchemy import Connection, Engine, Row, TextClause, bindparam, insert, text

from migrations.tables import alarms
from schemas.alert import AlertEvent, alert_id
from schemas.codes import AlertKind
from worker.adapters.alarm_outbox import Outbox
from worker.adapters.database import retrying
from worker.core.crashes import Crash, Start, crashes
from worker.core.fallback import CONSIDERED, Failure, FailureKind
from worker.errors import ServiceUnavailable

FAILED = "engine_failed"
KNOWN = text("""
SELECT labels ->> 'step' AS step, labels ->> 'failure' AS failure, raised_at,
    ARRAY(SELECT jsonb_array_elements_text(labels -> 'jobs')) AS jobs FROM assay.alarms
WHERE kind = 'engine_failed' AND labels ->> 'instance' = :instance AND raised_at > :since ORDER BY raised_at, id
""")
# Of the slot's dead processes whose end nobody told: one that ends by its own decision deletes its starts, and one that
# its engines ended has said so.
LEFT = text("""
SELECT process, engines, solo, started_at, tenant, job_id FROM assay.attempts a
WHERE instance = :instance AND process <> :process AND engines IS NOT NULL AND started_at > :since AND NOT EXISTS (
    SELECT FROM assay.alarms f WHERE f.kind = 'engine_failed' AND f.raised_at > :since
        AND f.labels ->> 'process' = a.process::text AND f.labels ->> 'failure' IN :endings)
""").bindparams(bindparam("endings", expanding=True))
TOLD_ENDS: Final = [FailureKind.DIED, FailureKind.GOLDEN, FailureKind.CRASHED]  # on record, a process is gone
# Opening engines is no record's: a place that no topic has. `process` opens one set at a time.
BEGIN_OPENING = text("""
INSERT INTO assay.attempts (topic, partition, "offset", instance, process, solo, engines)
VALUES ('', 0, 0, :instance, :process, false, ARRAY[:step])
ON CONFLICT (topic, partition, "offset", process) DO UPDATE SET engines = excluded.engines, started_at = now()
""")
END_OPENING = text("DELETE FROM assay.attempts WHERE topic = '' AND instance = :instance AND process = :process")
HEALED = text("""
UPDATE assay.alarms SET cleared_at = now()
WHERE kind = 'engine_degraded' AND labels ->> 'instance' = :instance AND cleared_at IS NULL
""")
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFailures:
    """Of one worker, by the name of its slot; `process` as in worker.adapters.attempts. Raises ServiceUnavailable."""

    database: Engine
    instance: str
    process: UUID
    outbox: Outbox

    def known(self, now: datetime) -> list[Failure]:
        """Those that count still, oldest first; with crashes, which the process that died of one could not tell."""
        return retrying(lambda: self._known(now - CONSIDERED))

    def add(self, failure: Failure, detail: str) -> None:
        """Quickly or not at all: the process may be about to end."""
        retrying(lambda: self._insert(failure, detail), attempts=2)

    @contextmanager
    def opening(self, step: str) -> Iterator[None]:
        """While engines are opened, this is on record: what ends the process then is told to the next one."""
        retrying(lambda: self._run(BEGIN_OPENING, step=step))
        try:
            yield
        finally:
            try:
                retrying(lambda: self._run(END_OPENING), attempts=2)
            except ServiceUnavailable as outage:  # what was opened serves all the same
                _log.warning("starts_kept", starts=1, detail=str(outage))

    def degraded(self, step: str, detail: str, now: datetime) -> None:
        """The worker serves with a fallback: an alert, in place of the one before."""
        event = AlertEvent(
            alert_id=alert_id(AlertKind.ENGINE_DEGRADED, self.instance, step, now.isoformat()),
            kind=AlertKind.ENGINE_DEGRADED,
            detail=detail,
            raised_at=now,
        )
        retrying(lambda: self._alert(event, step))

    def healed(self) -> None:
        """What is current serves again."""
        retrying(self._end)

    def _known(self, since: datetime) -> list[Failure]:
        with self.database.begin() as connection:
            self._tell_crashes(connection, since)
            rows = connection.execute(KNOWN, {"instance": self.instance, "since": since}).all()
        return [
            Failure(step=row.step, kind=FailureKind(row.failure), at=row.raised_at, jobs=frozenset(row.jobs))
            for row in rows
        ]

    def _tell_crashes(self, connection: Connection, since: datetime) -> None:
        given = {"instance": self.instance, "process": self.process, "since": since, "endings": TOLD_ENDS}
        for crash in crashes(_start(row) for row in connection.execute(LEFT, given)):
            connection.execute(insert(alarms).values(self._row(crash.failure, crash.detail, crash.process)))
            _told(crash)

    def _insert(self, failure: Failure, detail: str) -> None:
        with self.database.begin() as connection:
            connection.execute(insert(alarms).values(self._row(failure, detail, self.process)))

    def _row(self, failure: Failure, detail: str, process: UUID) -> dict[str, object]:
        labels = {"instance": self.instance, "step": failure.step, "failure": failure.kind.value}
        known = {"process": str(process), "jobs": sorted(failure.jobs), "skus": [], "links": []}
        return {"kind": FAILED, "detail": detail, "raised_at": failure.at, "labels": {**labels, **known}}

    def _run(self, statement: TextClause, **more: str) -> None:
        with self.database.begin() as connection:
            connection.execute(statement, {"instance": self.instance, "process": self.process, **more})

    def _alert(self, event: AlertEvent, step: str) -> None:
        with self.database.begin() as connection:
            connection.execute(HEALED, {"instance": self.instance})
            self.outbox.write(connection, event, more={"instance": self.instance, "step": step})

    def _end(self) -> None:
        with self.database.begin() as connection:
            connection.execute(HEALED, {"instance": self.instance})


def _start(row: Row[Any]) -> Start:
    """Jobs by a digest: what was deleted with a job must not lie in an alarm."""
    job = None if row.job_id is None else sha256(f"{row.tenant}/{row.job_id}".encode()).hexdigest()[:16]
    return Start(process=row.process, engines=tuple(row.engines), solo=row.solo, at=row.started_at, job=job)


def _told(crash: Crash) -> None:
    failure = crash.failure
    _log.error("engine_failed", engines=failure.step, kind=failure.kind.value, detail=crash.detail)
