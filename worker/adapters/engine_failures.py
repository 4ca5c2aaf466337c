"""Failures of engines as rows of `alarms`: what a worker that starts anew must know, and what operators are told.

`engine_failed` rows are a worker's own memory and go nowhere. `engine_degraded` ones are alerts: the watcher publishes
them, and they are over once the worker serves with what is current again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine, insert, text

from migrations.tables import alarms
from schemas.alert import AlertEvent, alert_id
from schemas.codes import AlertKind
from worker.adapters.alarm_outbox import Outbox
from worker.adapters.database import retrying
from worker.core.fallback import CONSIDERED, Failure, FailureKind

FAILED = "engine_failed"
KNOWN = text("""
SELECT labels ->> 'step' AS step, labels ->> 'failure' AS failure, raised_at FROM assay.alarms
WHERE kind = 'engine_failed' AND labels ->> 'instance' = :instance AND raised_at > :since ORDER BY id
""")
HEALED = text("""
UPDATE assay.alarms SET cleared_at = now()
WHERE kind = 'engine_degraded' AND labels ->> 'instance' = :instance AND cleared_at IS NULL
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFailures:
    """Of one worker, by the name of its slot. Raises ServiceUnavailable."""

    database: Engine
    instance: str
    outbox: Outbox

    def known(self, now: datetime) -> list[Failure]:
        """Those that count still, oldest first."""
        return retrying(lambda: self._known(now - CONSIDERED))

    def add(self, failure: Failure, detail: str) -> None:
        """Quickly or not at all: the process may be about to end."""
        labels = {"instance": self.instance, "step": failure.step, "failure": failure.kind.value}
        row = {"kind": FAILED, "detail": detail, "raised_at": failure.at, "labels": {"skus": [], "links": [], **labels}}
        retrying(lambda: self._insert(row), attempts=2)

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
        with self.database.connect() as connection:
            rows = connection.execute(KNOWN, {"instance": self.instance, "since": since}).all()
        return [Failure(step=row.step, kind=FailureKind(row.failure), at=row.raised_at) for row in rows]

    def _insert(self, row: dict[str, object]) -> None:
        with self.database.begin() as connection:
            connection.execute(insert(alarms).values(row))

    def _alert(self, event: AlertEvent, step: str) -> None:
        with self.database.begin() as connection:
            connection.execute(HEALED, {"instance": self.instance})
            self.outbox.write(connection, event, more={"instance": self.instance, "step": step})

    def _end(self) -> None:
        with self.database.begin() as connection:
            connection.execute(HEALED, {"instance": self.instance})
