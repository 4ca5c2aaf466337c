"""The watcher: every so often it judges the engines' releases, looks for counterfeits that belong together and, once a
day, for drift."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Protocol

import structlog

from schemas.message import OutputRecord
from worker.errors import ServiceUnavailable

LONGEST_WAIT_S = 60.0
Send = Callable[[Sequence[OutputRecord]], None]
_log = structlog.get_logger()


class Alarms(Protocol):
    def find_repeated(self, now: datetime) -> int:
        """Raise what is new of repeated counterfeits; how many."""

    def find_drift(self, now: datetime) -> int:
        """Compare the days that are over; how many alarms were raised."""

    def publish(self, send: Send) -> int:
        """Send the alerts that were not confirmed yet; how many."""

    def counts(self) -> tuple[dict[str, float], dict[str, float], float]:
        """Open alarms by kind, stale calibrations by category, alerts that wait."""


class Releases(Protocol):
    def decide(self, now: datetime) -> int:
        """Judge the engines' releases that run; how many were ended, each with an alarm."""


class Watcher:
    """One thread runs it. A service that is away is waited for: what it would have found is found later."""

    def __init__(self, alarms: Alarms, releases: Releases, send: Send, *, interval_s: float) -> None:
        self._alarms = alarms
        self._releases = releases
        self._send = send
        self._interval_s = interval_s
        self._looked_s = time.monotonic()

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set. Raises whatever is not ServiceUnavailable."""
        while not stop.is_set():
            wait_s = self._interval_s
            try:
                self.round()
            except ServiceUnavailable as outage:
                wait_s = min(wait_s, LONGEST_WAIT_S)
                _log.warning("watcher_waits", service=outage.service, error=str(outage))
            stop.wait(wait_s)

    def round(self) -> tuple[int, int]:
        """Look and publish once; returns alarms raised and alerts published. Raises ServiceUnavailable.

        What was raised before is published first: an alert must not wait for what cannot be read.
        """
        now = datetime.now(UTC)
        published = self._alarms.publish(self._send)
        raised = self._releases.decide(now) + self._alarms.find_repeated(now) + self._alarms.find_drift(now)
        published += self._alarms.publish(self._send)
        self._looked_s = time.monotonic()
        if published:
            _log.info("alerts_published", alerts=published)
        return raised, published

    def age_s(self) -> float:
        """For the metrics page: seconds since the last round that was done, or since the start."""
        return time.monotonic() - self._looked_s

    def open_alarms(self) -> dict[str, float]:
        """For the metrics page, by kind; empty where the database cannot be asked."""
        return self._counts()[0]

    def stale_calibrations(self) -> dict[str, float]:
        """For the metrics page, by category; empty where the database cannot be asked."""
        return self._counts()[1]

    def unpublished(self) -> float:
        """For the metrics page; -1 where the database cannot be asked."""
        return self._counts()[2]

    def _counts(self) -> tuple[dict[str, float], dict[str, float], float]:
        try:
            return self._alarms.counts()
        except ServiceUnavailable:
            return {}, {}, -1.0
