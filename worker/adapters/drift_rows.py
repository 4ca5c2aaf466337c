"""The days' jobs as core.drift compares them, and what came of it as rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import numpy as np
from sqlalchemy import Connection, Row, select, text
from sqlalchemy.dialects.postgresql import insert

from migrations.tables import categories, drift_days
from worker.core.baseline import is_comparable, measures_of, scores_from, was_decidable
from worker.core.drift import Compared, DaySample
from worker.core.policy import MeasureKey

MOST_JOBS = 5_000  # a category and calibration; chosen by result_id, which is a hash
QUIET_DAYS = 7
WHOLE = "*"

LAST_DAY = text("SELECT max(day) FROM assay.drift_days")
JUDGED = text("""
SELECT v.category, v.provenance ->> 'calibration_id' AS calibration_id,
    (v.judged_at AT TIME ZONE 'UTC')::date AS day, count(*) AS jobs
FROM assay.verdicts v
WHERE v.judged_at >= :since AND v.judged_at < :until AND v.revision = 1
    AND v.provenance ->> 'calibration_id' IS NOT NULL
GROUP BY 1, 2, 3
""")
JOBS = text("""
SELECT v.result_id, v.judged_at, v.verdict, v.p_genuine, v.reasons -> 0 ->> 'code' AS reason,
    v.provenance -> 'engines' AS engines
FROM assay.verdicts v
WHERE v.judged_at >= :since AND v.judged_at < :until AND v.revision = 1 AND v.category = :category
    AND v.provenance ->> 'calibration_id' = :calibration_id
ORDER BY v.result_id LIMIT :limit
""")
VIEWS = text("""
SELECT r.result_id, r.view, r.encoder, r.similarity, r.deviation, r.quality FROM assay.view_results r
WHERE r.judged_at >= :since AND r.judged_at < :until AND r.usable AND r.result_id = ANY(CAST(:ids AS uuid[]))
""")
ONGOING = text("""
SELECT 1 FROM assay.alarms WHERE kind = 'calibration_stale' AND cleared_at IS NULL
    AND labels ->> 'category' = :category AND labels ->> 'calibration_id' = :calibration_id
""")
# Over with its calibration, or after so many days in a row that were compared and had nothing.
CLEAR_STALE = text(f"""
UPDATE assay.alarms a SET cleared_at = now()
WHERE a.kind = 'calibration_stale' AND a.cleared_at IS NULL AND (
    NOT EXISTS (SELECT FROM assay.calibrations c WHERE c.id = a.labels ->> 'calibration_id' AND c.active)
    OR (SELECT count(*) = {QUIET_DAYS} AND NOT bool_or(late.departed) FROM (
            SELECT d.day, bool_or(d.departed) AS departed FROM assay.drift_days d
            WHERE d.category = a.labels ->> 'category' AND d.calibration_id = a.labels ->> 'calibration_id'
            GROUP BY d.day ORDER BY d.day DESC LIMIT {QUIET_DAYS}) AS late))
""")  # noqa: S608 # constants of ours


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """Whole UTC days of one category under one calibration, `since` and `day` included, and how many jobs they have."""

    category: str
    calibration_id: str
    since: date
    day: date
    jobs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A sample, and the names of the engines in it by digest."""

    sample: DaySample
    engines: Mapping[str, str]


def read_periods(connection: Connection, day: date, *, least_jobs: int, longest_days: int) -> list[Period]:
    """What there is to compare for `day`: that day of each category and calibration with any job on it, and as many
    days before it as are needed for `least_jobs`. Those that do not have them are left out."""
    window = _bounds(day - timedelta(days=longest_days - 1), day)
    counts: dict[tuple[str, str], dict[date, int]] = defaultdict(dict)
    for row in connection.execute(JUDGED, window):
        counts[row.category, row.calibration_id][row.day] = row.jobs
    found = (_period(key, by_day, day, least_jobs) for key, by_day in sorted(counts.items()) if day in by_day)
    return [period for period in found if period is not None]


def read_sample(connection: Connection, period: Period) -> Drawn:
    """Its jobs, at most MOST_JOBS of them."""
    bounds = _bounds(period.since, period.day)
    wanted = {**bounds, "category": period.category, "calibration_id": period.calibration_id, "limit": MOST_JOBS}
    jobs = [row for row in connection.execute(JOBS, wanted) if is_comparable(row.reason)]
    views = connection.execute(VIEWS, {**bounds, "ids": [job.result_id for job in jobs]})
    engines = {use["name"]: use["digest"] for job in jobs for use in job.engines}
    prior = connection.scalar(select(categories.c.prior_genuine).where(categories.c.category == period.category))
    decidable = [job.p_genuine for job in jobs if job.p_genuine is not None and was_decidable(job.verdict, job.reason)]
    sample = DaySample(
        category=period.category,
        calibration_id=period.calibration_id,
        since=period.since,
        day=period.day,
        scores=scores_from(np.asarray(decidable, np.float64), 0.5 if prior is None else prior),
        abstained=sum(job.verdict == "inconclusive" for job in jobs),
        jobs=len(jobs),
        measures=_measures(views, {job.result_id: _digests(job) for job in jobs}),
    )
    return Drawn(sample=sample, engines={digest: name for name, digest in engines.items()})


def write_compared(
    connection: Connection, sample: DaySample, compared: Sequence[Compared], engines: Mapping[str, str]
) -> None:
    """One row a comparison; a day that was compared before is left as it is."""
    rows = [
        {
            "day": sample.day,
            "category": sample.category,
            "calibration_id": sample.calibration_id,
            "engine": engines.get(one.engine, one.engine) if one.engine else WHOLE,
            "view": one.view or WHOLE,
            "measure": one.measure,
            "since": sample.since,
            "jobs": one.jobs,
            "items": one.items,
            "distance": one.distance,
            "threshold": one.threshold,
            "departed": one.departed,
        }
        for one in compared
    ]
    if rows:
        connection.execute(insert(drift_days).on_conflict_do_nothing(), rows)


def _period(key: tuple[str, str], by_day: Mapping[date, int], day: date, least_jobs: int) -> Period | None:
    jobs = 0
    for since in sorted(by_day, reverse=True):
        jobs += by_day[since]
        if jobs >= least_jobs:
            return Period(category=key[0], calibration_id=key[1], since=since, day=day, jobs=jobs)
    return None


def _measures(views: Iterable[Row[Any]], digests: Mapping[object, Mapping[str, str]]) -> dict[MeasureKey, Any]:
    found: dict[MeasureKey, list[float]] = defaultdict(list)
    for row in views:
        digest = digests[row.result_id].get(row.encoder)
        if digest is not None:
            for name, value in measures_of(row.similarity, row.deviation, row.quality).items():
                found[digest, row.view, name].append(value)
    return {key: np.asarray(values, np.float64) for key, values in found.items()}


def _digests(job: Row[Any]) -> dict[str, str]:
    return {use["name"]: use["digest"] for use in job.engines}


def _bounds(since: date, day: date) -> dict[str, datetime]:
    start, end = (datetime.combine(at, time(), UTC) for at in (since, day + timedelta(days=1)))
    return {"since": start, "until": end}
