"""The intake stage: one thread owns the consumer, and what it reads is parsed and handed on or held.

It never waits for work to be done, except in the revoke callback: when a hand-off is full, the byte budget is spent or
a service is away, it pauses partitions and goes on polling, so that the group keeps this member. A pause throws away
what the client fetched ahead; hence the short grace before one, and the room that must be there before it ends.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from schemas import headers
from schemas.invalid import InvalidMessage
from schemas.job import AuthenticationJob
from schemas.message import InputRecord
from worker.budget import ByteBudget
from worker.errors import ServiceUnavailable
from worker.handoff import Handoff
from worker.observe import Meter
from worker.outcomes import Rejected
from worker.pauses import Pauses
from worker.ports import JobSource, Partition, RebalanceListener
from worker.watermark import Watermark
from worker.work import Received, Settleable

Parse = Callable[[InputRecord], AuthenticationJob]
Subscribe = Callable[[RebalanceListener], JobSource]
GivenUp = Callable[[Sequence[Partition]], None]  # told of partitions that left with work of theirs in flight
PARSE_AGAIN_S = 1.0
BUDGET, HANDOFF, STOPPING = "budget", "handoff", "stopping"
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeLimits:
    """`window_records` are unpublished records a partition. `drain_on_revoke_s` is all that a revocation may take.

    At most `slow_jobs` records of all partitions of `slow_topic` are in flight: they keep fetch threads waiting.
    """

    window_records: int = 256
    slow_topic: str | None = None
    slow_jobs: int = 4
    drain_on_revoke_s: float = 4.0
    stop_grace_s: float = 25.0
    full_grace_s: float = 0.2  # how long a full hand-off is waited for before the partitions are paused
    poll_s: float = 0.1
    fetched_view_bytes: int = 512 * 1024  # what a view that is yet to be fetched counts in the byte budget


class Intake:
    """`run` is the body of the intake thread. It ends after `request_stop`, or raises what ends the process.

    `subscribe` joins the group with this object as the listener. `parse` raises schemas.invalid.InvalidMessage.
    """

    def __init__(
        self,
        *,
        subscribe: Subscribe,
        parse: Parse,
        received: Handoff[Received],
        settle: Handoff[Settleable],
        watermark: Watermark,
        budget: ByteBudget,
        limits: IntakeLimits,
        meter: Meter,
        given_up: GivenUp = lambda partitions: None,
    ) -> None:
        self._subscribe = subscribe
        self._parse = parse
        self._received = received
        self._settle = settle
        self._watermark = watermark
        self._budget = budget
        self._limits = limits
        self._given_up = given_up
        self._pauses = Pauses(meter)
        self._owned: set[Partition] = set()
        self._lane: set[Partition] = set()  # those of them that are the slow lane's
        self._pending: deque[Received | Rejected] = deque()  # delivered, but a hand-off was full: at most a few
        self._not_due: dict[Partition, deque[InputRecord]] = {}  # one each: the partition is paused at once
        self._full: set[Partition] = set()  # their window is full
        self._parse_again_s = 0.0
        self._stop_s: float | None = None  # monotonic end of the grace
        self._alive = threading.Event()

    def run(self) -> None:
        """Poll until stopped. Raises Fatal, ConfigurationError and whatever a rebalance raised."""
        source = self._subscribe(self)
        self._alive.set()
        try:
            while not self._over():
                self._turn(source)
        finally:
            self._stop_s = time.monotonic()  # nothing is waited for while the group is left
            source.close()
            self._alive.clear()

    @property
    def joined(self) -> bool:
        """Whether the consumer runs and owns partitions: the worker is ready."""
        return self._alive.is_set() and bool(self._owned)

    def pause_all(self, reason: str) -> None:
        """Stop taking records until `resume_all` with the same reason. Any thread."""
        self._pauses.ask(reason)

    def resume_all(self, reason: str) -> None:
        self._pauses.withdraw(reason)

    def request_stop(self) -> None:
        """Take no new record, but stay in the group until all is published or the grace is over. Any thread."""
        if self._stop_s is None:
            self._stop_s = time.monotonic() + self._limits.stop_grace_s
            self._pauses.ask(STOPPING)
            _log.info("intake_stopping", in_flight=self._watermark.unpublished())

    # RebalanceListener: called by the source inside poll and close

    def assigned(self, partitions: Sequence[Partition]) -> int:
        self._forget(partitions)
        epoch = self._watermark.assign(partitions)
        self._own(self._owned | set(partitions))
        return epoch

    def revoked(self, partitions: Sequence[Partition]) -> None:
        """Drain, then drop: settle goes on committing while this waits; what is late is judged by the next owner."""
        self._forget(partitions)
        drained = self._watermark.wait_drained(partitions, self._drain_s())
        if not drained:
            late = sum(self._watermark.in_flight(partition) for partition in partitions)
            _log.warning("revoked_before_drained", records=late)
        self._drop(partitions)
        if not drained:
            self._given_up(partitions)

    def lost(self, partitions: Sequence[Partition]) -> None:
        self._forget(partitions)
        self._drop(partitions)
        self._given_up(partitions)

    def _turn(self, source: JobSource) -> None:
        self._hand_on()
        self._release_due()
        self._apply_pauses(source)
        record = source.poll(0.0 if self._pending else self._limits.poll_s)
        if record is not None:
            self._admit(record)

    def _over(self) -> bool:
        if self._stop_s is None:
            return False
        drained = not self._pending and self._watermark.unpublished() == 0
        return drained or time.monotonic() >= self._stop_s

    def _admit(self, record: InputRecord) -> None:
        partition = _partition(record)
        waits = partition in self._not_due or _due_ms(record) > time.time() * 1e3
        if waits or not self._begin(record):
            self._not_due.setdefault(partition, deque()).append(record)

    def _begin(self, record: InputRecord) -> bool:
        """Parse a record and note it as in flight; a stale one is dropped. False: the schema registry is away."""
        if not self._watermark.delivered(record.source, record.epoch):
            return True
        try:
            self._pending.append(self._take(record, self._parse(record)))
        except InvalidMessage as fault:
            self._pending.append(_rejected(record, fault))
        except ServiceUnavailable as outage:
            self._watermark.withdraw(record.source, record.epoch)
            self._parse_again_s = time.monotonic() + PARSE_AGAIN_S
            _log.warning("record_unread", source=str(record.source), detail=str(outage))
            return False
        self._offer(0.0)
        if self._watermark.in_flight(_partition(record)) >= self._limits.window_records:
            self._full.add(_partition(record))
        return True

    def _take(self, record: InputRecord, job: AuthenticationJob) -> Received:
        to_fetch = sum(view.data is None for view in job.views)
        held_bytes = len(record.value) + to_fetch * self._limits.fetched_view_bytes
        self._budget.take(held_bytes)
        return Received(
            record=record,
            job=job,
            attempt=_attempt(record),
            first_seen=_first_seen(record),
            received_s=time.monotonic(),
            held_bytes=held_bytes,
        )

    def _hand_on(self) -> None:
        """Offer what is pending; pause while a hand-off stays full, until half of it is free again."""
        if self._pending and not self._offer(self._limits.full_grace_s):
            self._pauses.ask(HANDOFF)
        elif not self._pending and len(self._received) <= self._received.capacity // 2:
            self._pauses.withdraw(HANDOFF)

    def _offer(self, timeout_s: float) -> bool:
        while self._pending:
            item = self._pending[0]
            put = (
                self._received.put(item, timeout_s) if isinstance(item, Received) else self._settle.put(item, timeout_s)
            )
            if not put:
                return False
            self._pending.popleft()
        return True

    def _release_due(self) -> None:
        if not self._not_due or self._pauses.everything or time.monotonic() < self._parse_again_s:
            return
        now_ms = time.time() * 1e3
        for partition, records in list(self._not_due.items()):
            while records and _due_ms(records[0]) <= now_ms and self._begin(records[0]):
                records.popleft()
            if not records:
                del self._not_due[partition]

    def _apply_pauses(self, source: JobSource) -> None:
        if self._budget.spent:
            self._pauses.ask(BUDGET)
        else:
            self._pauses.withdraw(BUDGET)
        # half of a window must be free before its partition goes on
        self._full = {p for p in self._full if self._watermark.in_flight(p) > self._limits.window_records // 2}
        self._pauses.apply(source, owned=self._owned, single=self._full | self._not_due.keys() | self._slow())

    def _slow(self) -> set[Partition]:
        """The slow lane's partitions while as many of its jobs are in flight as may be."""
        in_flight = sum(self._watermark.in_flight(partition) for partition in self._lane)
        return self._lane if in_flight >= self._limits.slow_jobs else set()

    def _drain_s(self) -> float:
        limit_s = self._limits.drain_on_revoke_s
        return limit_s if self._stop_s is None else min(limit_s, max(0.0, self._stop_s - time.monotonic()))

    def _forget(self, partitions: Sequence[Partition]) -> None:
        """Let go of records that nobody else has seen: they come again to whoever owns the partition."""
        gone = set(partitions)
        for item in [item for item in self._pending if _partition(item.record) in gone]:
            self._pending.remove(item)
            self._watermark.withdraw(item.record.source, item.record.epoch)
            if isinstance(item, Received):
                self._budget.give(item.held_bytes)
        for partition in gone:
            self._not_due.pop(partition, None)
        self._full -= gone
        self._pauses.forget(gone)

    def _drop(self, partitions: Sequence[Partition]) -> None:
        self._watermark.drop(partitions)
        self._own(self._owned - set(partitions))

    def _own(self, partitions: set[Partition]) -> None:
        """Of dozens of partitions few are the slow lane's, and they are asked about with every record."""
        self._owned = partitions
        self._lane = {partition for partition in partitions if partition[0] == self._limits.slow_topic}


def _partition(record: InputRecord) -> Partition:
    return record.source.topic, record.source.partition


def _number(record: InputRecord, name: str, default: int) -> int:
    """A decimal header; the default where it is missing or no number that we could have written."""
    for key, value in record.headers:
        if key == name and value.isdigit() and len(value) < 16:
            return int(value)
    return default


def _due_ms(record: InputRecord) -> int:
    return _number(record, headers.DUE_MS, 0)


def _attempt(record: InputRecord) -> int:
    return max(1, _number(record, headers.ATTEMPT, 1))


def _first_seen(record: InputRecord) -> datetime:
    milliseconds = _number(record, headers.FIRST_SEEN_MS, record.timestamp_ms)
    try:
        return datetime.fromtimestamp(milliseconds / 1e3, UTC)
    except (OverflowError, ValueError, OSError):
        return datetime.fromtimestamp(record.timestamp_ms / 1e3, UTC)


def _rejected(record: InputRecord, fault: InvalidMessage) -> Rejected:
    return Rejected(
        record=record,
        job=None,
        code=fault.code,
        stage="intake",
        detail=fault.detail,
        attempt=_attempt(record),
        first_seen=_first_seen(record),
    )
