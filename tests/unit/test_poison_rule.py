"""The poison rule over the whole pipeline in memory. A process is a pipeline on the same broker, results and starts; it
dies where its embed thread does, and leaves what a dead process leaves."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
import structlog
from delivery_parts import NOW, TOPICS, eventually, job

from schemas import headers as names
from schemas.codec import header
from schemas.message import InputRecord, OutputRecord, Source
from tests.unit.test_pipeline import EmptyGallery, FakeEncoder, FakePending, World
from worker.adapters.memory import Fault, MemoryBroker, MemoryResults
from worker.adapters.memory_attempts import MemoryAttempts
from worker.adapters.memory_caches import NoProbeCache
from worker.attempts import Starts
from worker.batching import BatchLimits
from worker.core.evidence import UnusableView, ViewProbe
from worker.core.matching import NumpyMatcher
from worker.core.poison import Course, Deaths
from worker.embedding import CALM_S, EmbedStage
from worker.fixed_engines import FixedEngines
from worker.handoff import Handoff
from worker.observe import Meter
from worker.ports import EncodeView
from worker.work import Fetched, Received, Settleable


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """A stack with every local variable, for each of twenty deaths, takes longer than all the rest."""
    with structlog.testing.capture_logs():
        yield


class Death(Exception):
    """What a crash in native code is to a process."""


@dataclass
class DeadlyEncoder(FakeEncoder):
    """Dies when it reads back a photograph that says so. `seen` are the photographs of each batch, by first word."""

    seen: list[list[str]] = field(default_factory=list)
    in_flight: int = 0

    def start(self, requests: Sequence[EncodeView]) -> FakePending:
        self.in_flight += 1
        self.seen.append([request.data.split()[0].decode() for request in requests])
        return DeadlyPending(requests, self)


@dataclass
class DeadlyPending(FakePending):
    encoder: DeadlyEncoder

    def result(self) -> list[ViewProbe | UnusableView]:
        if any(request.data.startswith(b"deadly") for request in self.requests):
            raise Death(f"{self.encoder.in_flight} batches in flight")
        self.encoder.in_flight -= 1
        return super().result()


@dataclass
class Deployment:
    """What outlives a process."""

    broker: MemoryBroker = field(default_factory=lambda: MemoryBroker({topic: 2 for topic in TOPICS.consumed}))
    results: MemoryResults = field(default_factory=lambda: MemoryResults(topics=TOPICS))
    starts: dict[tuple[Source, str], bool] = field(default_factory=dict)
    processes: list[World] = field(default_factory=list)
    encoders: list[DeadlyEncoder] = field(default_factory=list)

    def process(self, member: str = "member-1") -> World:
        attempts = MemoryAttempts(process=f"process-{len(self.processes)}", starts=self.starts)
        self.encoders.append(DeadlyEncoder())
        world = World(
            broker=self.broker, results=self.results, attempts=attempts, encoder=self.encoders[-1], member=member
        )
        self.processes.append(world)
        return world

    def run_to_death(self, prepare: Callable[[World], None] = lambda world: None) -> BaseException:
        world = self.process()
        prepare(world)
        world.pipeline.start()
        assert world.pipeline.wait(20)
        assert world.pipeline.error is not None
        self.bury(world)
        return world.pipeline.error

    def bury(self, world: World) -> None:
        """The kernel would: what its threads do from now on reaches no one, and the group gets its partitions back."""
        world.attempts.starts = {}
        self.broker.expel("member-1")
        world.pipeline.request_stop()
        world.pipeline.join()

    @property
    def letters(self) -> list[OutputRecord]:
        return [output for output in self.broker.published if output.topic == TOPICS.dlq]


@pytest.mark.parametrize(
    ("deaths", "course"),
    [
        (Deaths(), Course.TOGETHER),
        (Deaths(together=1), Course.TOGETHER),
        (Deaths(together=2), Course.ALONE),
        (Deaths(together=1, alone=1), Course.ALONE),
        (Deaths(together=9, alone=1), Course.ALONE),
        (Deaths(together=2, alone=2), Course.POISON),
    ],
)
def test_the_rule(deaths: Deaths, course: Course) -> None:
    assert deaths.course is course


def test_a_poisoned_job_is_buried_after_two_deaths_beside_others_and_two_alone() -> None:
    deployment = Deployment()
    first = deployment.process()
    for n in range(20):
        first.send(job(f"good-{n}", b"good %d" % n))
        if n == 9:
            first.send(job("bad", b"deadly photo"))
    deployment.processes.clear()
    died = [deployment.run_to_death() for _ in range(4)]
    assert [type(error) for error in died] == [Death] * 4
    survivor = deployment.process()
    survivor.pipeline.start()
    answers = survivor.answers(21)
    survivor.stop()
    assert survivor.pipeline.error is None
    assert [letter.key for letter in deployment.letters] == [b"t/bad"]
    assert header(deployment.letters[0].headers, names.ERROR_CODE) == "poison"
    assert len(deployment.broker.published) == len(answers) == 21
    assert sum(topic == TOPICS.results for topic in answers.values()) == 20
    alone = [encoder.seen[-1] for encoder in deployment.encoders[-3:-1]]
    assert alone == [["deadly"]] * 2
    assert {str(error) for error in died[2:]} == {"1 batches in flight"}
    assert "deadly" not in {photo for batch in deployment.encoders[-1].seen for photo in batch}
    poisoned = {source for source, _ in deployment.starts}
    assert len(poisoned) == 1, "the neighbours' starts were not forgotten"


def test_a_worker_that_cannot_publish_buries_no_one() -> None:
    """Its settle thread ends the process again and again: by its own decision, so nothing in flight is to blame."""
    deployment = Deployment()
    for n in range(8):
        deployment.process().send(job(f"good-{n}", b"good %d" % n))
    for _ in range(6):
        deployment.run_to_death(lambda world: world.publisher.fail_next(Fault.FENCED))
        assert deployment.starts == {}, "what was in flight is suspected"
    survivor = deployment.process()
    survivor.pipeline.start()
    answers = survivor.answers(8)
    survivor.stop()
    assert set(answers.values()) == {TOPICS.results}


def test_after_a_drain_nothing_is_left_to_suspect() -> None:
    deployment = Deployment()
    world = deployment.process()
    world.pipeline.start()
    for n in range(12):
        world.send(job(f"good-{n}", b"good %d" % n))
    world.answers(12)
    eventually(lambda: deployment.starts == {}, "that an idle worker forgets what ended")
    world.stop()


def test_starts_that_cannot_be_written_down_wait_for_postgres() -> None:
    deployment = Deployment()
    world = deployment.process()
    world.attempts.outages = 1
    world.pipeline.start()
    world.send(job("patient", b"good"))
    assert world.answers(1) == {b"t/patient": TOPICS.results}
    world.stop()
    assert world.attempts.outages == 0


class Slow(FakeEncoder):
    """Holds every batch until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.started, self.go = threading.Event(), threading.Event()

    def start(self, requests: Sequence[EncodeView]) -> FakePending:
        self.started.set()
        self.batches.append(len(requests))
        assert self.go.wait(20)
        return FakePending(requests)


def test_a_revoked_partition_is_left_without_starts_and_its_waiting_jobs_are_not_begun() -> None:
    deployment, encoder = Deployment(), Slow()
    attempts = MemoryAttempts(starts=deployment.starts)
    world = World(
        broker=deployment.broker, results=deployment.results, attempts=attempts, encoder=encoder, drain_s=0.05
    )
    world.pipeline.start()
    for n in range(12):
        world.send(job(f"good-{n}", b"good %d" % n))
    assert encoder.started.wait(20)
    begun = len(deployment.starts)
    assert begun
    deployment.broker.rebalance({"member-2": list(deployment.broker.logs)})
    eventually(lambda: deployment.starts == {}, "that the starts of revoked partitions are forgotten")
    encoder.go.set()
    eventually(lambda: world.pipeline.budget.held_bytes == 0, "that what is others' is let go")
    world.stop()
    assert sum(encoder.batches) == begun
    assert deployment.starts == {}


def test_a_passed_deadline_forgets_earlier_starts() -> None:
    deployment = Deployment()
    late = dataclasses.replace(job("late"), deadline=NOW + timedelta(seconds=1))
    world = deployment.process()
    world.send(late)
    (source,) = [record.source for log in deployment.broker.logs.values() for record in log if record]
    deployment.starts[source, "dead"] = False
    world.pipeline.start()
    assert world.answers(1) == {b"t/late": TOPICS.dlq}
    world.stop()
    assert deployment.starts == {}


def fetched(offset: int, word: str) -> Fetched:
    sent = job(word, word.encode())
    source = Source(topic=TOPICS.jobs, partition=0, offset=offset)
    record = InputRecord(source=source, epoch=1, key=sent.key, value=b"", headers=(), timestamp_ms=0)
    received = Received(record=record, job=sent, attempt=1, first_seen=NOW, received_s=0.0, held_bytes=1)
    return Fetched(received=received, images=((sent.views[0], word.encode()),), unusable=(), queue_ms=0.0, fetch_ms=0.0)


def embed_stage(
    encoder: DeadlyEncoder,
    inbox: Handoff[Fetched],
    outbox: Handoff[Settleable],
    starts: dict[tuple[Source, str], bool],
    *,
    release: Callable[[int], None],
    pause: Callable[[float], object],
) -> EmbedStage:
    return EmbedStage(
        encoder=encoder, engines=FixedEngines(), matcher=NumpyMatcher(), gallery=EmptyGallery(), cache=NoProbeCache(),
        encoder_name=lambda category, view: "fake", fetched=inbox, settle=outbox, depth=2, keep_images=False,
        limits=BatchLimits(max_images=8, max_bytes=1000, window_s=0.0), meter=Meter(max_batch_images=8),
        release=release, outage=pytest.fail, pause=pause, slow_after_s=60.0, slow_topic="slow",
        starts=Starts(MemoryAttempts(starts=starts), expects=lambda source, epoch: True, outage=pytest.fail),
    )  # fmt: skip


def test_what_comes_during_the_calm_goes_before_a_job_that_could_be_buried() -> None:
    worst, suspected, fresh = (fetched(n, word) for n, word in enumerate(("worst", "suspected", "fresh")))
    inbox: Handoff[Fetched] = Handoff("fetched", 4)
    outbox: Handoff[Settleable] = Handoff("settle", 4)
    inbox.put(worst)
    starts = {(one.received.record.source, dead): False for one in (worst, suspected) for dead in ("d1", "d2")}
    starts[worst.received.record.source, "d3"] = True
    encoder = DeadlyEncoder()

    def calm(seconds: float) -> None:
        inbox.put(fresh)
        inbox.put(suspected)
        inbox.close()

    embed_stage(encoder, inbox, outbox, starts, release=lambda _: None, pause=calm).run()
    assert [word for batch in encoder.seen for word in batch][-1] == "worst"
    assert sorted(encoder.seen) == [["fresh"], ["suspected"], ["worst"]]
    assert (len(outbox), starts) == (3, {})


def test_who_has_died_alone_once_waits_for_the_others_and_a_calm() -> None:
    jobs = [fetched(n, word) for n, word in enumerate(("worst", "suspected", "fresh", "suspected"))]
    inbox: Handoff[Fetched] = Handoff("fetched", 4)
    outbox: Handoff[Settleable] = Handoff("settle", 4)
    for item in jobs:
        inbox.put(item)
    inbox.close()
    starts = {(item.received.record.source, dead): False for item in (*jobs[:2], jobs[3]) for dead in ("d1", "d2")}
    starts[jobs[0].received.record.source, "d3"] = True
    encoder, pauses, released = DeadlyEncoder(), list[float](), list[int]()
    embed_stage(encoder, inbox, outbox, starts, release=released.append, pause=pauses.append).run()
    assert encoder.seen == [["fresh"], ["suspected"], ["suspected"], ["worst"]]
    assert pauses == [CALM_S]
    assert (len(outbox), released, starts) == (4, [1] * 4, {})
