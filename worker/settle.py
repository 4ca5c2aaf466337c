"""The settle stage: many outcomes in one database transaction, then their outputs and offsets in one Kafka transaction.

Postgres first: it decides which outcome of a job counts. A crash between the two commits replays the records, finds
the rows and publishes the same bytes. Kafka transactions follow each other; what becomes ready while one commits goes
into the next.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import structlog

from schemas.job import AuthenticationJob
from worker.core.evidence import ReuseHit
from worker.errors import AbortTransaction, ServiceUnavailable
from worker.handoff import Handoff
from worker.observe import Meter, outcome_of
from worker.outcomes import Outcome
from worker.ports import JobStatus, Publisher, ResultStore
from worker.watermark import Ready, Watermark
from worker.work import Embedded, Settleable

T = TypeVar("T")
Judge = Callable[[Sequence[Embedded]], list[Outcome]]
# What may fail, each with its own count of failures; the first two are also names of ServiceUnavailable.
STORE, BROKER, TRANSACTION = "postgres", "kafka", "transaction"
_log = structlog.get_logger()


class Gate(Protocol):
    """What settle asks of intake while a service is away."""

    def pause_all(self, reason: str) -> None: ...

    def resume_all(self, reason: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleLimits:
    """`floor_s` is the shortest time from the start of one Kafka transaction to the next."""

    max_jobs: int = 500
    max_transaction_records: int = 1000
    max_transaction_bytes: int = 8 * 2**20
    floor_s: float = 0.010
    idle_s: float = 0.5
    first_wait_s: float = 0.1  # after a failure; doubles up to `longest_wait_s`
    longest_wait_s: float = 5.0


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


class Settler:
    """`run` is the body of the settle thread: it ends when the inbox is closed and empty and all is published.

    Raises Fatal and whatever the judge raises. After `abandon` it ends without publishing the rest, which is
    delivered again.
    """

    def __init__(
        self,
        *,
        inbox: Handoff[Settleable],
        judge: Judge,
        store: ResultStore,
        publisher: Publisher,
        watermark: Watermark,
        intake: Gate,
        limits: SettleLimits,
        meter: Meter,
        status: JobStatus | None = None,
    ) -> None:
        self._inbox = inbox
        self._judge = judge
        self._store = store
        self._publisher = publisher
        self._watermark = watermark
        self._intake = intake
        self._limits = limits
        self._meter = meter
        self._status = status
        self._abandoned = threading.Event()
        self._size = TransactionSize(limits.max_transaction_records)
        self._in_doubt = False  # the broker's offsets must be read before the next transaction
        self._last_start_s = -limits.floor_s
        self._told = False  # that transactions are committed, since the start or the last failure
        self._failures: dict[str, int] = {}

    def run(self) -> None:
        self._end_predecessor()
        more = False
        while not self._abandoned.is_set():
            items = self._inbox.take_many(self._limits.max_jobs, self._floor_left_s() if more else self._limits.idle_s)
            if items:
                self.settle(items)
            more = self.publish()
            if not items and not more and self._inbox.finished:
                return

    def abandon(self) -> None:
        """End as soon as possible. Any thread."""
        self._abandoned.set()

    def _end_predecessor(self) -> None:
        """Open the producer at once: a transaction that a killed worker of this instance left open hides the committed
        offsets, and intake would wait for the broker to abort it. While the broker is away the first commit does it."""
        try:
            self._publisher.committed(())
        except ServiceUnavailable as outage:
            _log.warning("settle_failed", what=outage.service, wait_s=0.0, detail=str(outage))

    def settle(self, items: Iterable[Settleable]) -> None:
        """Judge what is to be judged, write all of it, and mark it as ready to publish."""
        wanted = self._first_of_each(items)
        started_s = time.monotonic()
        outcomes = [item for item in wanted if not isinstance(item, Embedded)]
        outcomes += self._judged([item for item in wanted if isinstance(item, Embedded)])
        if not outcomes:
            return
        outputs = self._insist(lambda: self._store.settle(outcomes))
        for outcome, output in zip(outcomes, outputs or (), strict=outputs is not None):
            record = outcome.record
            self._watermark.finished(record.source, record.epoch, output, tag=outcome.job)
        self._meter.stage("settle", time.monotonic() - started_s)

    def _first_of_each(self, items: Iterable[Settleable]) -> list[Settleable]:
        """The first outcome of a record wins; those of partitions that are gone are the next owner's."""
        wanted: dict[str, Settleable] = {}
        for item in items:
            record = item.received.record if isinstance(item, Embedded) else item.record
            if self._watermark.expects(record.source, record.epoch):
                wanted.setdefault(str(record.source), item)
        return list(wanted.values())

    def _judged(self, embedded: Sequence[Embedded]) -> list[Outcome]:
        if not embedded:
            return []
        reuse = self._insist(lambda: self._store.reused([item.evidence for item in embedded]))
        if reuse is None:
            return []
        known = [_with_reuse(item, hits) for item, hits in zip(embedded, reuse, strict=True)]
        return self._insist(lambda: self._judge(known)) or []

    def _insist(self, call: Callable[[], T]) -> T | None:
        """Call until the service answers, with intake paused meanwhile.

        None when abandoned first, or when no partition is left: the records are delivered to their next owner. Intake
        goes on then as well: whatever is assigned next would otherwise wait for a call that nobody makes.
        """
        held: set[str] = set()
        while not self._abandoned.is_set() and self._watermark.owned():
            try:
                answer = call()
            except ServiceUnavailable as outage:
                held.add(outage.service)
                self._hold(outage)
            else:
                self._go_on(held)
                return answer
        self._go_on(held)
        return None

    def publish(self) -> bool:
        """One transaction with what is ready, unless the floor says later; False when there was nothing to publish."""
        if not self._in_step():
            return True
        ready = self._watermark.ready(self._size.records, self._limits.max_transaction_bytes)
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
            self._back_off(TRANSACTION, fenced=abort.fenced, detail=str(abort), outputs=len(ready.outputs))
        except ServiceUnavailable as outage:
            self._in_doubt = True
            self._size.failed(len(ready.outputs))
            self._hold(outage)
        else:
            self._committed(ready)

    def _committed(self, ready: Ready) -> None:
        self._watermark.published(ready)
        self._size.succeeded(len(ready.outputs))
        self._failures.pop(TRANSACTION, None)
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
            self._answers(BROKER)
        return True

    def _hold(self, outage: ServiceUnavailable) -> None:
        self._intake.pause_all(outage.service)
        self._back_off(outage.service, detail=str(outage))

    def _go_on(self, held: Iterable[str]) -> None:
        for service in held:
            self._answers(service)

    def _answers(self, service: str) -> None:
        if self._failures.pop(service, 0):
            self._intake.resume_all(service)

    def _back_off(self, what: str, **fields: object) -> None:
        self._told = False
        failures = self._failures.get(what, 0)
        self._failures[what] = failures + 1
        wait_s = min(self._limits.longest_wait_s, self._limits.first_wait_s * 2.0 ** min(failures, 16))
        _log.warning("settle_failed", what=what, wait_s=wait_s, **fields)
        self._abandoned.wait(wait_s)

    def _floor_left_s(self) -> float:
        return max(0.0, self._last_start_s + self._limits.floor_s - time.monotonic())


def _answered(ready: Ready) -> list[tuple[AuthenticationJob, str]]:
    return [
        (job, outcome_of(output))
        for job, output in zip(ready.tags, ready.outputs, strict=True)
        if isinstance(job, AuthenticationJob)
    ]


def _with_reuse(item: Embedded, hits: tuple[ReuseHit, ...]) -> Embedded:
    """What was seen before was seen before by whichever engine."""
    known = replace(item, evidence=replace(item.evidence, reuse=(*item.evidence.reuse, *hits)))
    rival = item.rival
    if rival is None or rival.evidence is None:
        return known
    reuse = (*rival.evidence.reuse, *hits)
    return replace(known, rival=replace(rival, evidence=replace(rival.evidence, reuse=reuse)))
