"""What is noticed, as the event that says so. Serial numbers and senders stay out of it: events outlive an erasure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

from schemas.alert import AlertEvent, DriftMeasure, alert_id
from schemas.alert_codec import MAX_JOBS
from schemas.codes import AlertKind, AlertLink
from worker.core.drift import Compared, DaySample
from worker.core.repeated import Cluster

TOLD_MEASURES = 20
_BY = {
    AlertLink.SERIAL: "one serial number",
    AlertLink.SUBMITTER: "one unusual sender",
    AlertLink.EMBEDDING: "views that are alike",
    AlertLink.PHOTOGRAPH: "nearly the same photograph",
}


def repeated_alert(tenant: str, cluster: Cluster, *, raised_at: datetime) -> AlertEvent:
    """Of a cluster that no alarm was raised for. A job has one alarm at most, so its first job names it."""
    jobs = [suspect.job_id for suspect in cluster.suspects]
    skus = sorted({suspect.sku for suspect in cluster.suspects})
    categories = {suspect.category for suspect in cluster.suspects}
    by = ", ".join(_BY[link] for link in cluster.links)
    counted = f"{len(jobs)} counterfeit verdicts of {cluster.items} items and {len(skus)} SKUs"
    return AlertEvent(
        alert_id=alert_id(AlertKind.REPEATED_COUNTERFEIT, tenant, jobs[0], raised_at.isoformat()),
        kind=AlertKind.REPEATED_COUNTERFEIT,
        detail=f"{counted} belong together, by {by}",
        raised_at=raised_at,
        tenant=tenant,
        category=categories.pop() if len(categories) == 1 else None,
        skus=tuple(skus[:MAX_JOBS]),
        jobs=tuple(jobs[:MAX_JOBS]),
        links=cluster.links,
    )


def stale_alert(
    sample: DaySample, departed: Sequence[Compared], engines: Mapping[str, str], *, raised_at: datetime
) -> AlertEvent:
    """Of a day on which something departed. `engines`: names by digest."""
    measures = [_measure(one, engines) for one in departed[:TOLD_MEASURES]]
    worst = measures[0]
    where = f" of {worst.view} by {worst.engine}" if worst.view else ""
    return AlertEvent(
        alert_id=alert_id(AlertKind.CALIBRATION_STALE, sample.category, sample.calibration_id, sample.day.isoformat()),
        kind=AlertKind.CALIBRATION_STALE,
        detail=f"{len(departed)} distributions of {sample.category} departed from calibration {sample.calibration_id},"
        f" most of all {worst.measure}{where}: distance {worst.distance:.2f}, by chance below {worst.threshold:.2f},"
        f" over {worst.jobs} jobs",
        raised_at=raised_at,
        category=sample.category,
        calibration_id=sample.calibration_id,
        day=sample.day,
        measures=tuple(measures),
    )


def release_alert(release_id: UUID, detail: str, *, raised_at: datetime) -> AlertEvent:
    """Of a release that was decided. A release is decided once."""
    return AlertEvent(
        alert_id=alert_id(AlertKind.ENGINE_RELEASE, str(release_id)),
        kind=AlertKind.ENGINE_RELEASE,
        detail=detail,
        raised_at=raised_at,
    )


def _measure(one: Compared, engines: Mapping[str, str]) -> DriftMeasure:
    return DriftMeasure(
        measure=one.measure,
        view=one.view,
        engine=engines.get(one.engine, one.engine) if one.engine else None,
        jobs=one.jobs,
        distance=one.distance,
        threshold=one.threshold,
    )
