"""Photographs that a helper process still decodes: their batch goes on without them, and so does their partition."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from zlib import crc32

from delivery_parts import TOPICS, eventually, job

from schemas import headers
from tests.unit.test_pipeline import FakeEncoder, FakePending, World, probe
from worker.core.evidence import UnusableView, ViewProbe
from worker.handoff import Handoff
from worker.ports import EncodeView, LateView
from worker.stragglers import Stragglers


@dataclass
class Helped(FakeEncoder):
    """Its helper keeps every photograph that says so until it is let go, one `LateView` each time that it is sent."""

    late: list[Late] = field(default_factory=list)
    let_go: bool = False

    def start(self, requests: Sequence[EncodeView]) -> FakePending:
        self.batches.append(len(requests))
        return HelpedPending(requests, self)

    def release(self) -> None:
        self.let_go = True
        for view in self.late:
            view.end()


@dataclass
class HelpedPending(FakePending):
    encoder: Helped

    def prompt(self) -> Sequence[ViewProbe | UnusableView | LateView]:
        return [self.entry(request) for request in self.requests]

    def entry(self, request: EncodeView) -> ViewProbe | UnusableView | LateView:
        if self.encoder.let_go or not request.data.startswith(b"slow"):
            return probe(request)
        late = Late(request)
        self.encoder.late.append(late)
        return late


class Late:
    def __init__(self, request: EncodeView) -> None:
        self.request, self.dropped = request, False
        self._ended = threading.Event()
        self._calls: list[Callable[[], None]] = []

    @property
    def done(self) -> bool:
        return self._ended.is_set()

    def when_done(self, call: Callable[[], None]) -> None:
        self._calls.append(call)

    def result(self) -> ViewProbe | UnusableView:
        assert self._ended.wait(60), "a view that nobody lets go was waited for"
        return probe(self.request)

    def drop(self) -> None:
        self.dropped = True

    def end(self) -> None:
        self._ended.set()
        for call in self._calls:
            call()


def named(partition: int, count: int) -> list[str]:
    """Job ids whose records lie in this partition of the jobs topic."""
    names = (f"j{n}" for n in range(10_000))
    return list(islice((name for name in names if crc32(f"t/{name}".encode()) % 2 == partition), count))


def test_neighbours_are_answered_while_a_helper_decodes() -> None:
    encoder = Helped()
    world = World(encoder=encoder, patience_s=600.0)
    slow, *others = named(0, 5)
    for name in [slow, *others]:
        world.send(job(name, b"slow photo" if name == slow else name.encode()))
    elsewhere = named(1, 20)
    for name in elsewhere:
        world.send(job(name, name.encode()))
    world.pipeline.start()
    answers = world.answers(20)
    assert set(answers) == {f"t/{name}".encode() for name in elsewhere}, "the other partition waited"
    judged = "assay_job_seconds_count"
    eventually(lambda: world.meter.registry.get_sample_value(judged) == 24, "that all others are judged")
    assert world.pipeline.watermark.unpublished() == 5, "its partition is published in order"
    encoder.release()
    assert len(world.answers(25)) == 25
    world.stop()
    assert world.pipeline.error is None
    assert world.attempts.starts == {} and world.pipeline.budget.held_bytes == 0


def test_past_the_soft_deadline_a_job_moves_to_the_slow_lane_and_its_partition_goes_on() -> None:
    encoder = Helped()
    world = World(encoder=encoder, patience_s=0.05)
    slow, *others = named(0, 10)
    for name in [slow, *others]:
        world.send(job(name, b"slow photo" if name == slow else name.encode()))
    world.pipeline.start()
    eventually(lambda: len(world.broker.published) == 10, "the move and nine verdicts")
    (moved,) = [output for output in world.broker.published if output.topic == TOPICS.jobs_slow]
    assert (moved.key, dict(moved.headers)[headers.ATTEMPT]) == (f"t/{slow}".encode(), b"1")
    eventually(lambda: len(encoder.late) == 2, "its decode in the slow lane")
    assert (encoder.late[0].dropped, encoder.late[1].dropped) == (True, False)
    threading.Event().wait(0.2)  # several soft deadlines, which do not hold there
    assert len(world.broker.published) == 10
    encoder.release()
    eventually(lambda: len(world.broker.published) == 11, "its verdict")
    world.stop()
    assert world.pipeline.error is None
    verdicts = [output.key for output in world.broker.published if output.topic == TOPICS.results]
    assert sorted(map(str, verdicts)) == sorted(str(f"t/{name}".encode()) for name in [slow, *others])
    assert world.attempts.starts == {} and world.pipeline.budget.held_bytes == 0


def test_a_stop_waits_for_what_is_still_decoded() -> None:
    encoder = Helped()
    world = World(encoder=encoder, patience_s=600.0)
    world.pipeline.start()
    world.send(job("j1", b"slow photo"))
    eventually(lambda: len(encoder.late) == 1, "the decode")
    world.pipeline.request_stop()
    encoder.release()
    world.stop()
    assert [output.topic for output in world.broker.published] == [TOPICS.results]


def test_a_taker_is_woken_once() -> None:
    handoff: Handoff[int] = Handoff("test", 1)
    handoff.wake()
    assert handoff.take(60) is None
    assert handoff.take(0.01) is None
    handoff.put(1)
    handoff.wake()
    assert handoff.take(60) == 1


def test_soft_deadlines_hold_for_those_that_may_move() -> None:
    waiting: Stragglers[str] = Stragglers(patience_s=2.0, wake=lambda: None)
    first, second = (Late(None) for _ in range(2))  # type: ignore[arg-type]
    assert waiting.wait_s(0.0, bool) is None
    waiting.add("first", first, 10.0)
    waiting.add("second", second, 11.0)
    assert waiting.wait_s(11.0, lambda name: True) == 1.0
    assert waiting.wait_s(11.0, lambda name: name == "second") == 2.0
    assert waiting.wait_s(99.0, lambda name: True) == 0.0
    assert [straggler.request for straggler in waiting.overdue(12.0)] == ["first"]
    second.end()
    assert [straggler.request for straggler in waiting.done()] == ["second"]
    waiting.drop(lambda name: True)
    assert first.dropped and not len(waiting)
