"""The publish stage: what settle has written goes out, outputs and offsets in one Kafka transaction after the other.

One commits while settle writes what comes next; what becomes ready meanwhile goes into the following one.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import structlog

from schemas.job import AuthenticationJob
from worker.errors import AbortTransaction, ServiceUnavailable
from worker.observe import Meter, outcome_of
from worker.outages import USUAL, BackOff, Gate, Outages
from worker.ports import JobStatus, Publisher
from worker.watermark import Ready, Watermark

BROKER, TRANSACTION = "kafka", "transaction"  # each with its own count of failures; the first names a service as well
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishLimits:
    """`floor_s` is the shortest time from the start of one Kafka transaction to the next."""

    max_records: int = 1000
    max_bytes: int = 8 * 2**20
    floor_s: float = 0.010
    idle_s: float = 0.5
    back_off: BackOff = USUAL


class TransactionSize:
    """How many records the next transaction may hold. On a thin line the same ones would not get through for ever.

    Halved with each that failed; grows by an eighth with each that succeeded and was full. So a line that stays thin
    costs one failure in some seven transactions, and after one that recovered 1,000 are reached within fifty.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.records = most

    def failed(self, records: int) -> None:
        self.records = max(1, min(records, self.records) // 2)

    def succeeded(self, records: int) -> None:
        if records >= self.records:
            self.records = min(self._most, self.records + max(1, self.records // 8))


class PublishStage:
    """`run` is the body of the publish thread: it ends when it was closed and all is published. It owns the publisher.

    Raises Fatal. After `abandon` it ends without publishing the rest, which is delivered again.
    """

    def __init__(
        self,
        *,
        publisher: Publisher,
        watermark: Watermark,
        intake: Gate,
        limits: PublishLimits,
        meter: Meter,
        status: JobStatus | None = None,
    ) -> None:
        self._publisher = publisher
        self._watermark = watermark
        self._limits = limits
        self._meter = meter
        self._status = status
        self._abandoned = threading.Event()
        self._outages = Outages(intake, limits.back_off, self._abandoned)
        self._size = TransactionSize(limits.max_records)
        self._woken = threading.Event()
        self._closed = False
        self._in_doubt = False  # the broker's offsets must be read before the next transaction
        self._last_start_s = -limits.floor_s
        self._told = False  # that transactions are committed, since the start or the last failure

    def run(self) -> None:
        self._end_predecessor()
        more = False
        while not self._abandoned.is_set():
            closed = self._closed  # read first: what was ready by then is published below
            self._wait(more=more, closed=closed)
            more = self.publish()
            if closed and not more:
                return

    def wake(self) -> None:
        """Something may be ready. Any thread."""
        self._woken.set()

    def close(self) -> None:
        """Nothing more will become ready. Any thread."""
        self._closed = True
        self._woken.set()

    def abandon(self) -> None:
        """End as soon as possible. Any thread."""
        self._abandoned.set()
        self._woken.set()

    def _wait(self, *, more: bool, closed: bool) -> None:
        if more:
            self._abandoned.wait(self._floor_left_s())
        elif not closed:
            self._woken.wait(self._limits.idle_s)
        self._woken.clear()

    def _end_predecessor(self) -> None:
        """Open the producer at once: a transaction that a killed worker of this instance left open hides the committed
        offsets, and intake would wait for the broker to abort it. While the broker is away the first commit does it."""
        try:
            self._publisher.committed(())
        except ServiceUnavailable as outage:
            _log.warning("settle_failed", what=outage.service, wait_s=0.0, detail=str(outage))

    def publish(self) -> bool:
        """One transaction with what is ready, unless the floor says later; False when there was nothing to publish."""
        if not self._in_step():
            return True
        ready = self._watermark.ready(self._size.records, self._limits.max_bytes)
        if ready and self._floor_left_s() <= 0.0:
            self._commit(ready)
        return bool(ready)

    def _commit(self, ready: Ready) -> None:
        self._last_start_s = time.monotonic()
        try:
            self._publisher.commit(ready.outputs, ready.offsets)
        except AbortTransaction as abort:
            self._in_doubt = True
            self._meter.transactions.labels("aborted").inc()
            if not abort.fenced:
                self._size.failed(len(ready.outputs))
            self._failed(TRANSACTION, fenced=abort.fenced, detail=str(abort), outputs=len(ready.outputs))
        except ServiceUnavailable as outage:
            self._in_doubt = True
            self._size.failed(len(ready.outputs))
            self._hold(outage)
        else:
            self._committed(ready)

    def _committed(self, ready: Ready) -> None:
        self._watermark.published(ready)
        self._size.succeeded(len(ready.outputs))
        self._outages.over(TRANSACTION)
        if not self._told:
            self._told = True
            _log.info("commits_again", outputs=len(ready.outputs))
        self._meter.transactions.labels("committed").inc()
        self._meter.stage("publish", time.monotonic() - self._last_start_s)
        self._meter.published(ready.outputs)
        if self._status is not None:
            self._status.done(_answered(ready))

    def _in_step(self) -> bool:
        """After a transaction that failed: forget what the broker has committed, keep the rest for the next one.

        Who owns what is decided by the rebalance callbacks alone; until they ran, the broker refuses and we wait.
        """
        owned = self._watermark.owned()
        if self._in_doubt and owned:
            try:
                committed = self._publisher.committed(owned)
            except ServiceUnavailable as outage:
                self._hold(outage)
                return False
            self._watermark.drop_below(committed)
            self._in_doubt = False
            self._outages.over(BROKER)
        return True

    def _hold(self, outage: ServiceUnavailable) -> None:
        self._told = False
        self._outages.hold(outage)

    def _failed(self, what: str, **fields: object) -> None:
        self._told = False
        self._outages.failed(what, **fields)

    def _floor_left_s(self) -> float:
        return max(0.0, self._last_start_s + self._limits.floor_s - time.monotonic())


def _answered(ready: Ready) -> list[tuple[AuthenticationJob, str]]:
    return [
        (job, outcome_of(output))
        for job, output in zip(ready.tags, ready.outputs, strict=True)
        if isinstance(job, AuthenticationJob)
    ]
