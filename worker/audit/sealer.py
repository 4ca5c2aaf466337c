"""The sealer: every so often it seals what waits and publishes the heads; the only holder of the signing key."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from worker.core.ledger import SignedHead
from worker.errors import ServiceUnavailable

LONGEST_WAIT_S = 5.0
Send = Callable[[Sequence[SignedHead]], None]
_log = structlog.get_logger()


class Chains(Protocol):
    def seal(self) -> int:
        """Seal all that waits; how many entries."""

    def publish(self, send: Send, *, again: bool = False) -> int:
        """Send heads that were not confirmed yet, in order; how many."""

    def backlog(self) -> tuple[float, int]:
        """Seconds that the oldest thing waits to be sealed, and heads that wait to be published."""


class Sealer:
    """One thread runs it. A service that is away is waited for: what waits to be sealed waits in the database."""

    def __init__(self, chains: Chains, send: Send, *, interval_s: float) -> None:
        self._chains = chains
        self._send = send
        self._interval_s = interval_s
        self._fresh = True  # a sealer that starts says again what the last one may have said out of order

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set. Raises whatever is not ServiceUnavailable."""
        failures = 0
        while not stop.is_set():
            try:
                self.round()
                failures = 0
            except ServiceUnavailable as outage:
                failures = min(failures + 1, 16)
                _log.warning("audit_sealer_waits", service=outage.service, error=str(outage))
            stop.wait(
                min(self._interval_s * 2.0 ** min(failures, 16), LONGEST_WAIT_S) if failures else self._interval_s
            )

    def round(self) -> tuple[int, int]:
        """Seal and publish once; returns entries sealed and heads published. Raises ServiceUnavailable."""
        sealed = self._chains.seal()
        published = self._chains.publish(self._send, again=self._fresh)
        self._fresh = False
        if sealed or published:
            _log.info("audit_sealed", entries=sealed, heads=published)
        return sealed, published

    def unsealed_s(self) -> float:
        """For the metrics page; -1 where the database cannot be asked."""
        return self._backlog()[0]

    def unpublished(self) -> float:
        """For the metrics page; -1 where the database cannot be asked."""
        return float(self._backlog()[1])

    def _backlog(self) -> tuple[float, int]:
        try:
            return self._chains.backlog()
        except ServiceUnavailable:
            return -1.0, -1
