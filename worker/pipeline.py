"""The worker on one page: six stages, three bounded hand-offs, one direction.

    source -> intake -|received|-> fetch -|fetched|-> embed -|evidence|-> judge and settle -> store
                                                                        publisher <- publish <-|watermark|

Whatever ends a job early (a malformed record, no usable view, a passed deadline, a retry) goes straight into the
evidence hand-off as an outcome. Stages stop in order: intake drains and ends, then each hand-off is closed and emptied,
and what settle has marked as finished is published.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import structlog

from schemas.job import AuthenticationJob
from schemas.message import InputRecord, Source
from worker.assembly import EncoderName
from worker.attempts import Starts
from worker.batching import BatchLimits
from worker.budget import ByteBudget
from worker.embedding import EmbedStage
from worker.errors import ServiceUnavailable
from worker.fetching import FetchLimits, FetchStage
from worker.handoff import Handoff
from worker.intake import Intake, IntakeLimits, Subscribe
from worker.observe import Meter
from worker.ports import (
    Attempts,
    EngineChoice,
    Gallery,
    ImageSource,
    JobStatus,
    Matcher,
    Partition,
    ProbeCache,
    Publisher,
    ResultStore,
    ViewEncoder,
)
from worker.publishing import PublishLimits, PublishStage
from worker.settle import Judge, SettleLimits, Settler
from worker.stage import StageThread
from worker.watermark import Watermark
from worker.work import Fetched, Received, Settleable

OUTAGE_PAUSE_S = 1.0
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """The world, as the pipeline needs it. worker.app makes the real one, tests make one in memory."""

    subscribe: Subscribe
    parse: Callable[[InputRecord], AuthenticationJob]
    images: ImageSource
    encoder: ViewEncoder
    engines: EngineChoice
    attempts: Attempts
    matcher: Matcher
    gallery: Gallery
    cache: ProbeCache
    judge: Judge
    results: ResultStore
    publisher: Publisher
    status: JobStatus | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    queue_jobs: int
    held_bytes: int
    fetch_threads: int
    batches_in_flight: int
    intake: IntakeLimits
    fetch: FetchLimits
    batch: BatchLimits
    settle: SettleLimits
    publish: PublishLimits
    decode_slow_after_s: float = 0.25


class Pipeline:
    """Start it, wait for its end, stop it. After the first failure of any stage `error` holds it, and the process is
    to end at once: what was in flight is delivered again."""

    def __init__(
        self,
        ports: Ports,
        limits: Limits,
        *,
        watermark: Watermark,
        encoder_name: EncoderName,
        keep_images: bool,
        meter: Meter,
    ) -> None:
        self.received: Handoff[Received] = Handoff("received", limits.queue_jobs)
        self.fetched: Handoff[Fetched] = Handoff("fetched", limits.queue_jobs)
        self.evidence: Handoff[Settleable] = Handoff("evidence", limits.queue_jobs)
        self.budget = ByteBudget(limits.held_bytes)
        self.watermark = watermark
        self.meter = meter
        self.error: BaseException | None = None
        self._attempts = ports.attempts
        self._stopping = threading.Event()
        self._ended = threading.Event()  # intake has left the group, or a stage has failed
        self.intake = self._intake(ports, limits)
        self.publishing = self._publishing(ports, limits)
        self.settler = self._settler(ports, limits)
        fetch = self._fetch(ports, limits)
        embed = self._embed(ports, limits, encoder_name, keep_images)
        thread = partial(StageThread, on_fatal=self._failed)
        self._intake_thread = thread("intake", self._run_intake)
        self._fetch_threads = [thread(f"fetch-{n}", fetch.run) for n in range(limits.fetch_threads)]
        self._embed_thread = thread("embed", embed.run)
        self._settle_thread = thread("settle", self.settler.run)
        self._publish_thread = thread("publish", self.publishing.run)
        meter.watch("assay_held_bytes", "Image bytes in flight", lambda: {"": float(self.budget.held_bytes)})
        meter.watch("assay_handoff_jobs", "Jobs waiting before a stage", self._waiting, "handoff")
        meter.watch("assay_unpublished_records", "Records in flight", lambda: {"": float(watermark.unpublished())})

    def _intake(self, ports: Ports, limits: Limits) -> Intake:
        return Intake(
            subscribe=ports.subscribe,
            parse=ports.parse,
            received=self.received,
            settle=self.evidence,
            watermark=self.watermark,
            budget=self.budget,
            limits=limits.intake,
            meter=self.meter,
            given_up=self._given_up,
        )

    def _fetch(self, ports: Ports, limits: Limits) -> FetchStage:
        return FetchStage(
            images=ports.images,
            jobs=self.received,
            fetched=self.fetched,
            settle=self.evidence,
            limits=limits.fetch,
            outage=self._wait_out,
            release=self.budget.give,
            status=ports.status,
        )

    def _embed(self, ports: Ports, limits: Limits, encoder_name: EncoderName, keep_images: bool) -> EmbedStage:
        return EmbedStage(
            encoder=ports.encoder,
            engines=ports.engines,
            matcher=ports.matcher,
            gallery=ports.gallery,
            cache=ports.cache,
            encoder_name=encoder_name,
            fetched=self.fetched,
            settle=self.evidence,
            limits=limits.batch,
            depth=limits.batches_in_flight,
            keep_images=keep_images,
            meter=self.meter,
            release=self.budget.give,
            outage=self._wait_out,
            starts=Starts(ports.attempts, expects=self._expects, outage=self._wait_out),
            pause=self._stopping.wait,
            slow_after_s=limits.decode_slow_after_s,
            slow_topic=limits.fetch.slow_topic,
        )

    def _settler(self, ports: Ports, limits: Limits) -> Settler:
        return Settler(
            inbox=self.evidence,
            judge=ports.judge,
            store=ports.results,
            watermark=self.watermark,
            intake=self.intake,
            limits=limits.settle,
            meter=self.meter,
            written=self.publishing.wake,
        )

    def _publishing(self, ports: Ports, limits: Limits) -> PublishStage:
        return PublishStage(
            publisher=ports.publisher,
            watermark=self.watermark,
            intake=self.intake,
            limits=limits.publish,
            meter=self.meter,
            status=ports.status,
        )

    def start(self) -> None:
        """From the far end, so that every hand-off has a taker before the first job comes."""
        for thread in reversed(self._threads()):
            thread.start()

    def request_stop(self) -> None:
        """Drain and end: what is in flight is answered first, within intake's grace. Any thread, any time."""
        self._stopping.set()
        self.intake.request_stop()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until intake has ended or a stage has failed; False when `timeout_s` passed first."""
        return self._ended.wait(timeout_s)

    def join(self) -> None:
        """After intake has ended: empty and end every stage in order."""
        for threads, after in zip(self._stages(), (*self._handoffs(), self.publishing, None), strict=True):
            for thread in threads:
                thread.join()
            if after is not None:
                after.close()
        if self.error is None:
            self._forget_starts(self._attempts.close)

    def dead_threads(self) -> Mapping[str, str]:
        """Stages that ended while the worker should run; for the liveness page."""
        if self._stopping.is_set():
            return {}
        return {thread.name: "ended" for thread in self._threads() if not thread.alive}

    def _run_intake(self) -> None:
        self.intake.run()
        self._ended.set()

    def _failed(self, name: str, error: BaseException) -> None:
        """Nobody waits for a stage that is gone; the stages that find their hand-off closed come here as well."""
        if self.error is not None:
            return
        self.error = error
        _log.error("stage_failed", stage=name, error=repr(error), exc_info=error)
        self._stopping.set()
        self.settler.abandon()
        self.publishing.abandon()
        if name != self._embed_thread.name:
            self._forget_starts(self._attempts.close)
        for handoff in self._handoffs():
            handoff.close()
        self._ended.set()

    def _expects(self, source: Source, epoch: int) -> bool:
        """Nothing is begun any more once a stage has failed: its start would be left behind."""
        return self.error is None and self.watermark.expects(source, epoch)

    def _given_up(self, partitions: Sequence[Partition]) -> None:
        if self.error is None:  # a stage that died takes intake with it, which gives its partitions up
            self._forget_starts(lambda: self._attempts.release(partitions))

    def _forget_starts(self, call: Callable[[], None]) -> None:
        """What is in flight is not to blame for what comes now. Where Postgres is away it is suspected, no more."""
        try:
            call()
        except ServiceUnavailable as outage:
            _log.warning("starts_kept", detail=str(outage))

    def _wait_out(self, outage: ServiceUnavailable) -> None:
        self.intake.pause_all(outage.service)
        self._stopping.wait(OUTAGE_PAUSE_S)
        self.intake.resume_all(outage.service)

    def _waiting(self) -> Mapping[str, float]:
        return {handoff.name: float(len(handoff)) for handoff in self._handoffs()}

    def _handoffs(self) -> tuple[Handoff[Received] | Handoff[Fetched] | Handoff[Settleable], ...]:
        return self.received, self.fetched, self.evidence

    def _stages(self) -> tuple[list[StageThread], ...]:
        last = [self._settle_thread], [self._publish_thread]
        return [self._intake_thread], self._fetch_threads, [self._embed_thread], *last

    def _threads(self) -> list[StageThread]:
        return [thread for threads in self._stages() for thread in threads]
