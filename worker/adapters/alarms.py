"""Looks for alarms in what PostgreSQL holds, enters them and publishes them.

Each tenant, and each day of a category, is one transaction under an advisory lock of its own: what one watcher works on
the others leave alone, and what one that died had begun is begun anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import partial

import structlog
from sqlalchemy import Connection, Engine, TextClause, text

from schemas.alert import AlertEvent
from worker.adapters.alarm_outbox import OPEN, STALE, Outbox, Send, is_mine
from worker.adapters.database import retrying
from worker.adapters.drift_rows import (
    CLEAR_STALE,
    LAST_DAY,
    ONGOING,
    Period,
    read_periods,
    read_sample,
    write_compared,
)
from worker.adapters.policy_rows import read_policy
from worker.adapters.suspects import (
    CLEAR_QUIET,
    TENANTS,
    join_alarm,
    read_alarmed,
    read_records,
    read_suspects,
)
from worker.core.alerts import repeated_alert, stale_alert
from worker.core.baseline import score_classes
from worker.core.drift import DriftRule, compare_day
from worker.core.policy import ScoreCalibration
from worker.core.repeated import Cluster, LinkRule, find_clusters, unusual_submitters

MOST_DAYS_BACK = 7  # that a watcher which stood still makes up for
IS_COMPARED = text("""
SELECT 1 FROM assay.drift_days WHERE day = :day AND category = :category AND calibration_id = :calibration_id LIMIT 1
""")
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchRules:
    """`window`: how far counterfeits that belong together lie apart. `settles_after`: how late a day's last verdict may
    be written."""

    links: LinkRule = field(default_factory=LinkRule)
    drift: DriftRule = field(default_factory=DriftRule)
    window: timedelta = timedelta(days=7)
    submitter_label: str = "submitter"
    longest_days: int = 14
    settles_after: timedelta = timedelta(minutes=15)


@dataclass(slots=True, kw_only=True)
class PostgresAlarms:
    """Implements worker.watch.Alarms. Raises ServiceUnavailable after bounded retries."""

    database: Engine
    outbox: Outbox
    rules: WatchRules = field(default_factory=WatchRules)
    _seen: dict[str, tuple[int, datetime]] = field(default_factory=dict)
    _done: set[date] = field(default_factory=set)

    def find_repeated(self, now: datetime) -> int:
        """Raise an alarm for each cluster that has none, and let later jobs join those that have; how many were raised.

        Tenants without a new counterfeit since the last call are passed over.
        """
        since = now - self.rules.window
        raised = 0
        for tenant, seen in retrying(partial(self._tenants, since)).items():
            if self._seen.get(tenant) != seen:
                found = retrying(partial(self._repeated, tenant, since, now))
                if found is not None:  # None: another watcher is at work
                    raised += found
                    self._seen[tenant] = seen
        retrying(partial(self._end, CLEAR_QUIET, {"since": since}))
        return raised

    def find_drift(self, now: datetime) -> int:
        """Compare the whole days that were not compared yet; how many alarms were raised."""
        last = (now - self.rules.settles_after).date() - timedelta(days=1)
        raised = 0
        for day in retrying(partial(self._days, last)):
            found = [retrying(partial(self._drift, period, now)) for period in retrying(partial(self._periods, day))]
            raised += sum(one or 0 for one in found)
            if None not in found:  # None: another watcher is at work
                self._done.add(day)
        retrying(partial(self._end, CLEAR_STALE, {}))
        return raised

    def publish(self, send: Send) -> int:
        """Send the alerts that were not confirmed yet; how many."""
        return retrying(lambda: self._publish(send))

    def counts(self) -> tuple[dict[str, float], dict[str, float], float]:
        """Open alarms by kind, stale calibrations by category, and alerts that wait to be published."""
        return retrying(self._counts, attempts=1)

    def _tenants(self, since: datetime) -> dict[str, tuple[int, datetime]]:
        with self.database.connect() as connection:
            rows = connection.execute(TENANTS, {"since": since})
            return {row.tenant: (row.counterfeits, row.newest) for row in rows}

    def _repeated(self, tenant: str, since: datetime, now: datetime) -> int | None:
        with self.database.begin() as connection:
            if not is_mine(connection, f"tenant {tenant}"):
                return None
            label, links = self.rules.submitter_label, self.rules.links
            suspects = read_suspects(connection, tenant, since, label)
            if len({suspect.item for suspect in suspects}) < links.least_items:
                return 0
            unusual = unusual_submitters(read_records(connection, tenant, since, label), links)
            alarmed = read_alarmed(connection, tenant, suspects)
            clusters = find_clusters(suspects, unusual, links)
            return sum(self._enter(connection, tenant, cluster, alarmed, now) for cluster in clusters)

    def _enter(
        self, connection: Connection, tenant: str, cluster: Cluster, alarmed: dict[str, int], now: datetime
    ) -> bool:
        """Whether an alarm was raised."""
        known = [alarmed[job.job_id] for job in cluster.suspects if job.job_id in alarmed]
        event = None if known else repeated_alert(tenant, cluster, raised_at=now)
        alarm_id = min(known) if known else self._raise(connection, event)
        if alarm_id is not None:
            join_alarm(connection, tenant, alarm_id, cluster, alarmed)
        return event is not None and alarm_id is not None

    def _raise(self, connection: Connection, event: AlertEvent | None) -> int | None:
        if event is None:
            return None
        _log.warning("alarm_raised", kind=event.kind.value, tenant=event.tenant, detail=event.detail)
        return self.outbox.write(connection, event)

    def _days(self, last: date) -> list[date]:
        with self.database.connect() as connection:
            done = connection.scalar(LAST_DAY)
        first = last if done is None else max(done, last - timedelta(days=MOST_DAYS_BACK - 1))
        self._done = {day for day in self._done if day >= first}
        return [day for day in _days(min(first, last), last) if day not in self._done]

    def _periods(self, day: date) -> list[Period]:
        rules = self.rules
        with self.database.connect() as connection:
            return read_periods(connection, day, least_jobs=rules.drift.least_jobs, longest_days=rules.longest_days)

    def _drift(self, period: Period, now: datetime) -> bool | None:
        """Compare one day of a category; whether an alarm was raised, None where another watcher is at work."""
        about = {"category": period.category, "calibration_id": period.calibration_id}
        with self.database.begin() as connection:
            if not is_mine(connection, f"category {period.category}"):
                return None
            if connection.scalar(IS_COMPARED, {**about, "day": period.day}):
                return False
            calibration = _calibration(connection, period.calibration_id)
            if calibration is None:
                return False
            drawn = read_sample(connection, period)
            baseline = calibration.baselines.get(period.category)
            scores = score_classes(calibration, period.category)
            compared = compare_day(drawn.sample, baseline, scores, self.rules.drift)
            write_compared(connection, drawn.sample, compared, drawn.engines)
            departed = [one for one in compared if one.departed]
            _log.info(
                "drift_compared",
                day=str(period.day),
                category=period.category,
                calibration_id=period.calibration_id,
                jobs=drawn.sample.jobs,
                compared=len(compared),
                departed=len(departed),
            )
            if not departed or connection.scalar(ONGOING, about):
                return False
            event = stale_alert(drawn.sample, departed, drawn.engines, raised_at=now)
            return self._raise(connection, event) is not None

    def _end(self, statement: TextClause, values: Mapping[str, datetime]) -> None:
        """Mark what is over."""
        with self.database.begin() as connection:
            if is_mine(connection, "ends"):
                connection.execute(statement, values)

    def _publish(self, send: Send) -> int:
        with self.database.begin() as connection:
            return self.outbox.publish(connection, send) if is_mine(connection, "outbox") else 0

    def _counts(self) -> tuple[dict[str, float], dict[str, float], float]:
        with self.database.connect() as connection:
            kinds = connection.execute(OPEN).all()
            stale = {row.category: float(row.calibrations) for row in connection.execute(STALE)}
        return {row.kind: float(row.alarms) for row in kinds}, stale, float(sum(row.unpublished for row in kinds))


def _days(first: date, last: date) -> Iterator[date]:
    return (first + timedelta(days=step) for step in range((last - first).days + 1))


def _calibration(connection: Connection, calibration_id: str) -> ScoreCalibration | None:
    """An active one; jobs of one that was replaced are not compared any more."""
    active: Sequence[ScoreCalibration] = read_policy(connection).calibrations
    return next((one for one in active if one.calibration_id == calibration_id), None)
