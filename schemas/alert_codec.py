"""AlertEvent v1 to and from a plain record, the same for Avro and JSON."""

from __future__ import annotations

from datetime import date
from enum import StrEnum
from typing import TypeVar
from uuid import UUID

from schemas.alert import AlertEvent, DriftMeasure
from schemas.codes import AlertKind, AlertLink
from schemas.fields import Fields
from schemas.invalid import malformed, shown

MAX_JOBS = 100

Code = TypeVar("Code", bound=StrEnum)


def alert_record(event: AlertEvent) -> dict[str, object]:
    """The record of an event. Raises ValueError where it names too many jobs."""
    if len(event.jobs) > MAX_JOBS:
        raise ValueError(f"an alert that names {len(event.jobs)} jobs: at most {MAX_JOBS}, the first ones")
    return {
        "alert_id": str(event.alert_id),
        "kind": event.kind.value,
        "detail": event.detail,
        "raised_at": event.raised_at,
        "tenant": event.tenant,
        "category": event.category,
        "skus": list(event.skus),
        "jobs": list(event.jobs),
        "links": [link.value for link in event.links],
        "calibration_id": event.calibration_id,
        "day": event.day.isoformat() if event.day else None,
        "measures": [_measure_record(measure) for measure in event.measures],
    }


def alert_from(fields: Fields) -> AlertEvent:
    """Raises InvalidMessage (malformed_payload)."""
    return AlertEvent(
        alert_id=_uuid(fields, "alert_id"),
        kind=_code(AlertKind, fields.text("kind"), "kind"),
        detail=fields.text("detail"),
        raised_at=fields.instant("raised_at"),
        tenant=fields.optional_text("tenant"),
        category=fields.optional_text("category"),
        skus=fields.texts("skus"),
        jobs=fields.texts("jobs"),
        links=tuple(_code(AlertLink, link, "links") for link in fields.texts("links")),
        calibration_id=fields.optional_text("calibration_id"),
        day=_day(fields, "day"),
        measures=tuple(_measure_from(measure) for measure in fields.records("measures")),
    )


def _measure_record(measure: DriftMeasure) -> dict[str, object]:
    return {
        "measure": measure.measure,
        "view": measure.view,
        "engine": measure.engine,
        "jobs": int(measure.jobs),
        "distance": float(measure.distance),
        "threshold": float(measure.threshold),
    }


def _measure_from(fields: Fields) -> DriftMeasure:
    return DriftMeasure(
        measure=fields.text("measure"),
        view=fields.optional_text("view"),
        engine=fields.optional_text("engine"),
        jobs=fields.integer("jobs"),
        distance=fields.number("distance"),
        threshold=fields.number("threshold"),
    )


def _code(codes: type[Code], text: str, name: str) -> Code:
    try:
        return codes(text)
    except ValueError as error:
        raise malformed(f"{name} is {shown(text)}: no {codes.__name__} of this version") from error


def _uuid(fields: Fields, name: str) -> UUID:
    try:
        return UUID(fields.text(name))
    except ValueError as error:
        raise fields.wrong(name, "a UUID") from error


def _day(fields: Fields, name: str) -> date | None:
    text = fields.optional_text(name)
    try:
        return date.fromisoformat(text) if text is not None else None
    except ValueError as error:
        raise fields.wrong(name, "a day such as 2026-01-31") from error
