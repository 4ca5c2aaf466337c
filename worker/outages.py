"""What settle and publish do while a service is away: intake pauses, and the waits between tries grow."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Protocol

import structlog

from worker.errors import ServiceUnavailable

_log = structlog.get_logger()


class Gate(Protocol):
    """What is asked of intake meanwhile."""

    def pause_all(self, reason: str) -> None: ...

    def resume_all(self, reason: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BackOff:
    """After a failure, seconds; doubled with each that follows."""

    first_s: float = 0.1
    longest_s: float = 5.0


USUAL = BackOff()


class Outages:
    """Failures in a row, each kind with its own count. One thread's; `stop` ends a wait."""

    def __init__(self, intake: Gate, back_off: BackOff, stop: threading.Event) -> None:
        self._intake = intake
        self._back_off = back_off
        self._stop = stop
        self._failures: dict[str, int] = {}

    def hold(self, outage: ServiceUnavailable) -> None:
        """Pause intake until the service is `over` it, and wait."""
        self._intake.pause_all(outage.service)
        self.failed(outage.service, detail=str(outage))

    def failed(self, what: str, **fields: object) -> None:
        """Count a failure, tell of it and wait."""
        failures = self._failures.get(what, 0)
        self._failures[what] = failures + 1
        wait_s = min(self._back_off.longest_s, self._back_off.first_s * 2.0 ** min(failures, 16))
        _log.warning("settle_failed", what=what, wait_s=wait_s, **fields)
        self._stop.wait(wait_s)

    def over(self, what: str) -> None:
        """It went well: intake goes on where it waited for this service."""
        if self._failures.pop(what, 0):
            self._intake.resume_all(what)
