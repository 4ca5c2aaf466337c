"""What the tests of intake and settle are made of: jobs as messages, outcomes, and a pipeline of one trivial stage."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256

from schemas.codec import encode_job, parse_job
from schemas.codes import Verdict
from schemas.job import AuthenticationJob, JobView
from schemas.message import InputRecord
from schemas.verdict import Provenance, Timings, VerdictEvent, result_id
from worker.adapters.kafka import KafkaSource
from worker.adapters.memory import MemoryBroker, MemoryPublisher, MemoryResults, MemorySource
from worker.budget import ByteBudget
from worker.core.evidence import JobEvidence
from worker.handoff import Handoff
from worker.intake import Intake, IntakeLimits
from worker.observe import Meter
from worker.outages import BackOff
from worker.outcomes import Judged, Outcome
from worker.ports import Publisher, ResultStore
from worker.publishing import PublishLimits, PublishStage
from worker.settle import SettleLimits, Settler
from worker.topics import Topics
from worker.watermark import Watermark
from worker.work import Embedded, Received, Settleable

TOPICS = Topics()
NOW = datetime(2026, 1, 1, tzinfo=UTC)
PATIENCE_S = 120.0  # only a failure takes that long
BACK_OFF = BackOff(first_s=0.01)


def job(name: str, photo: bytes = b"photo") -> AuthenticationJob:
    view = JobView(view="logo", sha256=sha256(photo).hexdigest(), data=photo)
    return AuthenticationJob(
        job_id=name, tenant="t", sku="s", category="bag", submitted_at=NOW, views=(view,), payload_digest="unused"
    )


def send(broker: MemoryBroker, name: str, *, topic: str = TOPICS.jobs, partition: int = 0, due_ms: int = 0) -> None:
    message = encode_job(job(name), encoding="json", source="test")
    headers = (*message.headers, ("assay.due-ms", str(due_ms).encode())) if due_ms else message.headers
    broker.produce(topic, message.value, key=message.key, headers=headers, partition=partition)


def parse(record: InputRecord) -> AuthenticationJob:
    return parse_job(record, max_bytes=1_000_000)


def judged(record: InputRecord, job: AuthenticationJob) -> Judged:
    event = VerdictEvent(
        result_id=result_id(job.tenant, job.job_id, 1), revision=1, job_id=job.job_id, tenant=job.tenant, sku=job.sku,
        category=job.category, verdict=Verdict.INCONCLUSIVE, confidence=None, p_genuine=None, reasons=(), views=(),
        missing_views=(), nearest_skus=(), judged_at=NOW, payload_digest=job.payload_digest,
        provenance=Provenance(engines=(), degraded=False, gallery_revision=1, calibration_id=None, build="test"),
        timings=Timings(fetch_ms=0, embed_ms=0, judge_ms=0, queue_ms=0, total_ms=0),
    )  # fmt: skip
    evidence = JobEvidence(job=job, matches=(), unusable=(), nearest_skus=(), gallery_revision=1)
    return Judged(record=record, job=job, event=event, evidence=evidence, attempt=1)


def no_judge(embedded: Sequence[Embedded]) -> list[Outcome]:
    raise AssertionError(f"{len(embedded)} jobs to judge where none was expected")


def eventually(true: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline_s, f"{what} did not happen in {PATIENCE_S} s"
        threading.Event().wait(0.005)


@dataclass(kw_only=True)
class Body:
    """A thread whose exception is raised again by `join`."""

    run: Callable[[], None]
    errors: list[BaseException] = field(default_factory=list)

    def start(self) -> Body:
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        return self

    def join(self) -> None:
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()
        if self.errors:
            raise self.errors[0]

    def _run(self) -> None:
        try:
            self.run()
        except BaseException as error:
            self.errors.append(error)


class Member:
    """One worker: intake, a stage that answers at once, settle and publish, on their own threads; on a memory broker
    unless given another source and publisher."""

    def __init__(
        self,
        broker: MemoryBroker | None = None,
        name: str = "member-1",
        *,
        source: MemorySource | KafkaSource | None = None,
        results: ResultStore | None = None,
        window_records: int = 16,
        stop_grace_s: float = PATIENCE_S,
    ) -> None:
        self.watermark = Watermark()
        self.budget = ByteBudget(1_000_000)
        self.received: Handoff[Received] = Handoff("received", 8)
        self.inbox: Handoff[Settleable] = Handoff("settle", 8)
        self.meter = Meter()
        self.results = results or MemoryResults(topics=TOPICS)
        if broker is not None:
            self.publisher: Publisher = MemoryPublisher(broker, name)
        self.source = source or MemorySource(broker or MemoryBroker({}), name)
        self.threads: list[Body] = []
        self.intake = Intake(
            subscribe=self.source.subscribe, parse=parse, received=self.received, settle=self.inbox,
            watermark=self.watermark, budget=self.budget, meter=self.meter,
            limits=IntakeLimits(
                window_records=window_records, full_grace_s=0.01, poll_s=0.01, drain_on_revoke_s=PATIENCE_S,
                stop_grace_s=stop_grace_s,
            ),
        )  # fmt: skip

    def settler(self, publishing: PublishStage) -> Settler:
        return Settler(
            inbox=self.inbox, judge=no_judge, store=self.results, watermark=self.watermark, intake=self.intake,
            limits=SettleLimits(back_off=BACK_OFF, idle_s=0.05), meter=self.meter, written=publishing.wake,
        )  # fmt: skip

    def publishing(self) -> PublishStage:
        return PublishStage(
            publisher=self.publisher, watermark=self.watermark, intake=self.intake, meter=self.meter,
            limits=PublishLimits(back_off=BACK_OFF, idle_s=0.05, max_records=7),
        )  # fmt: skip

    def answer(self) -> None:
        """The stage between."""
        while not self.received.finished:
            item = self.received.take()
            if item is not None:
                self.budget.give(item.held_bytes)
                self.inbox.put(judged(item.record, item.job))

    def start(self) -> Member:
        self.outlet = self.publishing()
        bodies = self.intake.run, self.answer, self.settler(self.outlet).run, self.outlet.run
        self.threads = [Body(run=run).start() for run in bodies]
        return self

    def stop(self) -> None:
        self.intake.request_stop()
        for thread, outlet in zip(self.threads, (self.received, self.inbox, self.outlet, None), strict=True):
            thread.join()
            if outlet is not None:
                outlet.close()

    def end(self) -> None:
        """Leave nothing running, whatever state a test left this in: a client left behind can stop the whole run."""
        self.watermark.drop(self.watermark.owned())
        self.intake.request_stop()
        deadline_s = time.monotonic() + PATIENCE_S
        while any(thread.thread.is_alive() for thread in self.threads[:1]) and time.monotonic() < deadline_s:
            self.inbox.take(0.01)  # what the intake still holds would make it wait for the end of its grace
            self.received.take(0.01)
        for outlet, closed in zip((self.received, self.inbox, self.outlet), self.threads[1:], strict=False):
            outlet.close()
            closed.thread.join(PATIENCE_S)
        for thread in self.threads:
            thread.thread.join(PATIENCE_S)
        if not any(thread.thread.is_alive() for thread in self.threads):  # a client is not closed under its own thread
            self.source.close()
            self.publisher.close()
