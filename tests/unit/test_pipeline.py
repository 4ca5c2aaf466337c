"""The whole pipeline with every port in memory: real stages, real threads, real judge, an encoder made of digests."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import sha256

import numpy as np
from delivery_parts import NOW, TOPICS, eventually, job, parse

from schemas.codec import decode_verdict, encode_job, header
from schemas.codes import ViewCode
from schemas.job import AuthenticationJob
from schemas.verdict import EngineUse
from worker.adapters.memory import MemoryBroker, MemoryPublisher, MemoryResults, MemorySource
from worker.adapters.memory_attempts import MemoryAttempts
from worker.adapters.memory_caches import MemoryEvidence, MemoryProbeCache
from worker.adapters.memory_images import MemoryImages
from worker.batching import BatchLimits
from worker.core.evidence import UnusableView, ViewProbe
from worker.core.gallery import GallerySnapshot
from worker.core.matching import NumpyMatcher
from worker.fetching import FetchLimits
from worker.fixed_engines import FixedEngines
from worker.intake import IntakeLimits
from worker.judging import JudgeStage
from worker.observe import Meter
from worker.pipeline import Limits, Pipeline, Ports
from worker.ports import EncodeView, EngineChoice, LateView, ProbeCache, ViewEncoder
from worker.publishing import PublishLimits
from worker.settle import SettleLimits
from worker.tracing import no_traces
from worker.watermark import Watermark

ENGINE = EngineUse(name="fake", digest="d" * 64, backend="test", precision="fp32", embedding_space="s")


@dataclass
class FakeEncoder:
    """Probes follow from the bytes alone; bytes that say so cannot be decoded; batch sizes are kept."""

    batches: list[int] = field(default_factory=list)
    fails: bool = False

    def start(self, requests: Sequence[EncodeView]) -> FakePending:
        if self.fails:
            raise RuntimeError("the device fell off the bus")
        self.batches.append(len(requests))
        return FakePending(requests)

    def close(self) -> None:
        """Nothing is held."""


@dataclass
class FakePending:
    requests: Sequence[EncodeView]

    def result(self) -> list[ViewProbe | UnusableView]:
        return [probe(request) for request in self.requests]

    def prompt(self) -> Sequence[ViewProbe | UnusableView | LateView]:
        return self.result()


def probe(request: EncodeView) -> ViewProbe | UnusableView:
    view = request.view
    if request.data.startswith(b"rubbish"):
        return UnusableView(view=view.view, sha256=view.sha256, code=ViewCode.UNDECODABLE)
    rng = np.random.default_rng(list(request.data))
    rows = rng.normal(size=(5, 4)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return ViewProbe(
        view=view.view,
        sha256=view.sha256,
        engine=ENGINE,
        embedding=rows[0],
        patches=rows[1:],
        patch_grid=(2, 2),
        attention=np.full((2, 2), 0.25, np.float32),
        quality={"sharpness": 1.0},
        phash=int(rng.integers(2**63)),
        source_size=(500, 500),
    )


class EmptyGallery:
    def snapshot(self, tenant: str) -> GallerySnapshot:
        return GallerySnapshot(tenant=tenant, revision=3, sets={}, indexes={}, sku_category={})

    def refresh(self) -> None:
        """It never moves."""

    def close(self) -> None:
        """Nothing is held."""


class World:
    """One worker. A second one on the same broker, results and starts is the next process of the same deployment."""

    def __init__(
        self,
        *,
        broker: MemoryBroker | None = None,
        results: MemoryResults | None = None,
        attempts: MemoryAttempts | None = None,
        encoder: ViewEncoder | None = None,
        engines: EngineChoice | None = None,
        cache: ProbeCache | None = None,
        member: str = "member-1",
        drain_s: float = 4.0,
        patience_s: float = 60.0,
    ) -> None:
        self.broker = broker or MemoryBroker({topic: 2 for topic in TOPICS.consumed})
        self.encoder = FakeEncoder()
        self.attempts = attempts or MemoryAttempts()
        self.publisher = MemoryPublisher(self.broker, member)
        self.evidence = MemoryEvidence()
        self.meter = Meter(max_batch_images=4)
        judge = JudgeStage(evidence=self.evidence, keep="all", build="test", meter=self.meter, trace=no_traces)
        ports = Ports(
            subscribe=MemorySource(self.broker, member).subscribe,
            parse=parse,
            images=MemoryImages({}),
            encoder=encoder or self.encoder,
            engines=engines or FixedEngines(),
            attempts=self.attempts,
            matcher=NumpyMatcher(),
            gallery=EmptyGallery(),
            cache=cache or MemoryProbeCache({"fake": ENGINE}, decoder="test"),
            judge=judge,
            results=results or MemoryResults(topics=TOPICS),
            publisher=self.publisher,
            status=None,
        )
        self.pipeline = Pipeline(
            ports,
            dataclasses.replace(limits(drain_s), decode_slow_after_s=patience_s),
            watermark=Watermark(),
            encoder_name=lambda category, view: "fake",
            keep_images=True,
            meter=self.meter,
        )

    def send(self, sent: AuthenticationJob) -> None:
        message = encode_job(sent, encoding="avro", source="test")
        self.broker.produce(TOPICS.jobs, message.value, key=message.key, headers=message.headers)

    def answers(self, count: int) -> dict[bytes | None, str]:
        eventually(lambda: len(self.broker.published) >= count, f"{count} answers")
        return {output.key: output.topic for output in self.broker.published}

    def stop(self) -> None:
        self.pipeline.request_stop()
        assert self.pipeline.wait(20)
        self.pipeline.join()


def limits(drain_s: float = 4.0) -> Limits:
    return Limits(
        queue_jobs=4,
        held_bytes=1_000_000,
        fetch_threads=2,
        batches_in_flight=2,
        intake=IntakeLimits(
            window_records=8, poll_s=0.01, full_grace_s=0.01, stop_grace_s=20.0, drain_on_revoke_s=drain_s
        ),
        fetch=FetchLimits(attempts=2, retry_delays_s=(0.1,), slow_after_s=2.0, slow_topic="assay.jobs.slow"),
        batch=BatchLimits(max_images=4, max_bytes=1_000_000, window_s=0.005),
        settle=SettleLimits(idle_s=0.05),
        publish=PublishLimits(floor_s=0.0, idle_s=0.05),
    )


def test_every_job_is_answered_once_and_the_budget_is_given_back() -> None:
    world = World()
    world.pipeline.start()
    for n in range(40):
        world.send(job(f"j{n}", b"photo %d" % n))
    answers = world.answers(40)
    world.stop()
    assert world.pipeline.error is None
    assert set(answers.values()) == {TOPICS.results}
    assert len(world.broker.published) == len(answers) == 40
    assert sum(world.encoder.batches) == 40
    assert max(world.encoder.batches) <= 4
    assert world.pipeline.budget.held_bytes == 0


def test_the_verdict_says_what_ran_and_its_photograph_was_kept() -> None:
    world = World()
    world.pipeline.start()
    world.send(job("j1", b"photo"))
    world.answers(1)
    world.stop()
    (output,) = world.broker.published
    verdict = decode_verdict(output.value, output.headers)
    assert (verdict.verdict, verdict.provenance.gallery_revision) == ("inconclusive", 3)
    assert [engine.name for engine in verdict.provenance.engines] == ["fake"]
    assert verdict.reasons
    assert world.evidence.get("t", sha256(b"photo").hexdigest()) == b"photo"
    assert header(output.headers, "src") is not None


def test_a_job_without_a_usable_view_is_a_dead_letter_with_its_own_bytes() -> None:
    world = World()
    world.pipeline.start()
    world.send(job("bad", b"rubbish"))
    world.send(job("good", b"photo"))
    answers = world.answers(2)
    world.stop()
    assert answers == {b"t/bad": TOPICS.dlq, b"t/good": TOPICS.results}
    (letter,) = [output for output in world.broker.published if output.topic == TOPICS.dlq]
    assert header(letter.headers, "assay.errors.code") == "no_usable_view"
    assert parse_back(letter.value)


def parse_back(value: bytes) -> bool:
    return value == encode_job(job("bad", b"rubbish"), encoding="avro", source="test").value


def test_a_stage_that_fails_ends_the_pipeline_and_publishes_nothing() -> None:
    world = World()
    world.encoder.fails = True
    world.pipeline.start()
    world.send(job("j1"))
    assert world.pipeline.wait(20)
    assert isinstance(world.pipeline.error, RuntimeError)
    assert world.broker.published == []


def test_a_passed_deadline_is_told_before_anything_is_encoded() -> None:
    world = World()
    world.pipeline.start()
    world.send(dataclasses.replace(job("late"), deadline=NOW + timedelta(seconds=1)))
    answers = world.answers(1)
    world.stop()
    assert answers == {b"t/late": TOPICS.dlq}
    assert world.encoder.batches == []
