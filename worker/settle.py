"""The settle stage: many outcomes in one database transaction. What it wrote is published beside it (publishing.py).

Postgres first: it decides which outcome of a job counts. A crash between the two commits replays the records, finds
the rows and publishes the same bytes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from worker.core.evidence import ReuseHit
from worker.errors import ServiceUnavailable
from worker.handoff import Handoff
from worker.observe import Meter
from worker.outages import USUAL, BackOff, Gate, Outages
from worker.outcomes import Outcome
from worker.ports import ResultStore
from worker.watermark import Watermark
from worker.work import Embedded, Settleable

T = TypeVar("T")
Judge = Callable[[Sequence[Embedded]], list[Outcome]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleLimits:
    max_jobs: int = 500
    idle_s: float = 0.5
    back_off: BackOff = USUAL


class Settler:
    """`run` is the body of the settle thread: it ends when the inbox is closed and empty.

    `written` is called when outcomes are there to be published. Raises Fatal and whatever the judge raises. After
    `abandon` it ends without the rest, which is delivered again.
    """

    def __init__(
        self,
        *,
        inbox: Handoff[Settleable],
        judge: Judge,
        store: ResultStore,
        watermark: Watermark,
        intake: Gate,
        limits: SettleLimits,
        meter: Meter,
        written: Callable[[], None],
    ) -> None:
        self._inbox = inbox
        self._judge = judge
        self._store = store
        self._watermark = watermark
        self._limits = limits
        self._meter = meter
        self._written = written
        self._abandoned = threading.Event()
        self._outages = Outages(intake, limits.back_off, self._abandoned)

    def run(self) -> None:
        while not (self._abandoned.is_set() or self._inbox.finished):
            items = self._inbox.take_many(self._limits.max_jobs, self._limits.idle_s)
            if items:
                self.settle(items)

    def abandon(self) -> None:
        """End as soon as possible. Any thread."""
        self._abandoned.set()

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
        self._written()
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
                self._outages.hold(outage)
            else:
                self._go_on(held)
                return answer
        self._go_on(held)
        return None

    def _go_on(self, held: Iterable[str]) -> None:
        for service in held:
            self._outages.over(service)


def _with_reuse(item: Embedded, hits: tuple[ReuseHit, ...]) -> Embedded:
    """What was seen before was seen before by whichever engine."""
    known = replace(item, evidence=replace(item.evidence, reuse=(*item.evidence.reuse, *hits)))
    rival = item.rival
    if rival is None or rival.evidence is None:
        return known
    reuse = (*rival.evidence.reuse, *hits)
    return replace(known, rival=replace(rival, evidence=replace(rival.evidence, reuse=reuse)))
