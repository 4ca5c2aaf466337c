"""Alarms as rows and as records: the row is written first, with the bytes that are published once Kafka is asked.

A process that dies between Kafka's confirmation and the mark publishes the same bytes under the same id again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text
from sqlalchemy.dialects.postgresql import insert

from migrations.tables import alarms
from schemas.alert import AlertEvent
from schemas.codec import encode_alert
from schemas.codes import AlertKind
from schemas.envelope import Encoding
from schemas.message import OutputRecord
from worker.settings import KafkaSettings

ADVISORY_LOCKS = 0x61737361  # "assa": of the locks of two numbers; the others of ours have one
ALERTS_AT_ONCE = 500
OVER_AT_ONCE = (AlertKind.ENGINE_RELEASE,)  # what tells of an event, not of a condition that lasts
Send = Callable[[Sequence[OutputRecord]], None]

TAKE_LOCK = text("SELECT pg_try_advisory_xact_lock(CAST(:key AS int), hashtext(:what))")
WAITING = text("""
SELECT id, event, event_headers, tenant FROM assay.alarms
WHERE event IS NOT NULL AND published_at IS NULL ORDER BY id LIMIT :limit
""")
PUBLISHED = text("UPDATE assay.alarms SET published_at = now() WHERE id = ANY(CAST(:ids AS bigint[]))")
OPEN = text("""
SELECT kind, count(*) AS alarms, count(*) FILTER (WHERE published_at IS NULL) AS unpublished FROM assay.alarms
WHERE event IS NOT NULL AND (cleared_at IS NULL OR published_at IS NULL) GROUP BY kind
""")
STALE = text("""
SELECT labels ->> 'category' AS category, count(*) AS calibrations FROM assay.alarms
WHERE kind = 'calibration_stale' AND cleared_at IS NULL GROUP BY 1
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outbox:
    """How alerts are written: `source` is their ce_source."""

    topic: str
    source: str
    encoding: Encoding = "avro"

    @classmethod
    def of(cls, kafka: KafkaSettings) -> Outbox:
        """As the settings have it."""
        return cls(topic=kafka.topics.alerts, source=kafka.group, encoding=kafka.encoding)

    def write(
        self, connection: Connection, event: AlertEvent, *, more: Mapping[str, object] | None = None
    ) -> int | None:
        """Enter the alarm, to be published; its id, or None where this very alarm was entered before. `more` are facts
        for machines that the event does not have."""
        encoded = encode_alert(event, encoding=self.encoding, source=self.source)
        row = {
            "kind": event.kind.value,
            "tenant": event.tenant,
            "detail": event.detail,
            "labels": {**_labels(event), **(more or {})},
            "raised_at": event.raised_at,
            "cleared_at": event.raised_at if event.kind in OVER_AT_ONCE else None,
            "event_id": event.alert_id,
            "event": encoded.value,
            "event_headers": [[name, value.decode()] for name, value in encoded.headers],
        }
        entered = insert(alarms).values(row).on_conflict_do_nothing(index_elements=["event_id"])
        entered_id: int | None = connection.scalar(entered.returning(alarms.c.id))
        return entered_id

    def publish(self, connection: Connection, send: Send) -> int:
        """Send what was not confirmed yet, oldest first; how many."""
        rows = connection.execute(WAITING, {"limit": ALERTS_AT_ONCE}).all()
        if rows:
            send([self._record(row.tenant, row.event, row.event_headers) for row in rows])
            connection.execute(PUBLISHED, {"ids": [row.id for row in rows]})
        return len(rows)

    def _record(self, tenant: str | None, value: bytes, headers: Sequence[Sequence[str]]) -> OutputRecord:
        named = tuple((name, text_.encode()) for name, text_ in headers)
        key = tenant.encode() if tenant is not None else b"*"
        return OutputRecord(topic=self.topic, key=key, value=bytes(value), headers=named)


def is_mine(connection: Connection, what: str) -> bool:
    """Whether this transaction may do it: one watcher at a time works on one thing."""
    return bool(connection.scalar(TAKE_LOCK, {"key": ADVISORY_LOCKS, "what": what}))


def _labels(event: AlertEvent) -> Mapping[str, object]:
    return {
        "category": event.category,
        "skus": list(event.skus),
        "links": [link.value for link in event.links],
        "calibration_id": event.calibration_id,
    }
