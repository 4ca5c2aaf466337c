"""AlertEvent v1: what Assay noticed over many verdicts, once an occurrence."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from uuid import UUID, uuid5

from schemas.codes import AlertKind, AlertLink

ALERT_NAMESPACE = UUID("2f0a6c1e-8f4b-5b35-8a55-3b6d0c0f7a11")


def alert_id(kind: AlertKind, *about: str) -> UUID:
    """The id of an alert: the same occurrence always has the same one."""
    return uuid5(ALERT_NAMESPACE, "\x00".join((kind.value, *about)))


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftMeasure:
    """One distribution that departed. `view` and `engine` are None where it is of whole jobs."""

    measure: str
    view: str | None
    engine: str | None  # the encoder's name
    jobs: int  # that were compared with the score calibration's items
    distance: float  # Kolmogorov-Smirnov; of abstention, the rise of its rate
    threshold: float  # what the distance would reach by chance, at the stated rate of false alarms


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertEvent:
    """`tenant`, `skus`, `jobs` and `links` are of a repeated counterfeit, `calibration_id`, `day` and `measures` of a
    stale calibration; the others' are None or empty. `jobs` names the first ones, at most 100."""

    alert_id: UUID
    kind: AlertKind
    detail: str  # one sentence for a person, naming values
    raised_at: datetime  # aware, UTC
    tenant: str | None = None
    category: str | None = None
    skus: tuple[str, ...] = ()
    jobs: tuple[str, ...] = ()
    links: tuple[AlertLink, ...] = ()
    calibration_id: str | None = None
    day: date | None = None  # the last whole UTC day that was compared
    measures: tuple[DriftMeasure, ...] = ()
