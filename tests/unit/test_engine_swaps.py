"""Engines that are swapped and compared under a real pipeline: no job is lost or mixed, and every answer is the one
engine's that it names."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

import pytest
from delivery_parts import TOPICS, eventually, job
from engine_sets import NAME, engine_use, open_set, session_of
from test_pipeline import World

from schemas.codec import decode_verdict
from schemas.job import AuthenticationJob
from schemas.verdict import VerdictEvent
from worker.adapters.memory import MemoryResults
from worker.adapters.memory_caches import MemoryProbeCache, NoProbeCache
from worker.adapters.switching import Lineup, OpenSet, SwitchingEncoder, Trial, Watching
from worker.core.courses import Comparison
from worker.core.fallback import FailureKind
from worker.core.split import in_share
from worker.errors import Fatal

RELEASE = UUID(int=7)


@dataclass
class Told:
    swaps: list[float] = field(default_factory=list)
    released: list[OpenSet] = field(default_factory=list)
    failed: list[tuple[OpenSet, FailureKind]] = field(default_factory=list)

    def watching(self, golden_every: int = 0) -> Watching:
        return Watching(
            swapped=lambda lineup, seconds: self.swaps.append(seconds),
            released=self.released.append,
            failed=lambda opened, kind, detail: self.failed.append((opened, kind)),
            ran=lambda *_: None,
            golden_every=golden_every,
        )


def trial(candidate: OpenSet, *, share: float = 1.0, publishes: bool = True) -> Trial:
    engine = dict(candidate.step.engines)[NAME]
    return Trial(release=RELEASE, encoder=NAME, engine=engine, share=share, publishes=publishes, opened=candidate)


class Switched:
    """A pipeline over a switching encoder."""

    def __init__(self, lineup: Lineup, golden_every: int = 0) -> None:
        self.told = Told()
        self.encoder = SwitchingEncoder(lineup, self.told.watching(golden_every))
        self.results = MemoryResults(topics=TOPICS)
        self.world = World(encoder=self.encoder, engines=self.encoder, results=self.results, cache=NoProbeCache())
        self.world.pipeline.start()

    def answers(self, sent: Sequence[AuthenticationJob]) -> dict[str, VerdictEvent]:
        for one in sent:
            self.world.send(one)
        self.world.answers(len(sent))
        return self.verdicts()

    def verdicts(self) -> dict[str, VerdictEvent]:
        outputs = [output for output in self.world.broker.published if output.topic == TOPICS.results]
        events = [decode_verdict(output.value, output.headers) for output in outputs]
        assert len({event.job_id for event in events}) == len(events)
        return {event.job_id: event for event in events}

    def compared(self) -> list[Comparison]:
        return self.results.comparisons


def engines_of(event: VerdictEvent) -> list[str]:
    return [engine.digest for engine in event.provenance.engines]


def digest(engine: str) -> str:
    return engine_use(engine).digest


def jobs(count: int, views: int = 1, start: int = 0) -> list[AuthenticationJob]:
    sent = []
    for n in range(start, start + count):
        one = job(f"j{n}", b"photo %d" % n)
        more = [replace(job("x", b"photo %d/%d" % (n, v)).views[0], view=f"view{v}") for v in range(1, views)]
        sent.append(replace(one, views=(*one.views, *more)))
    return sent


def test_a_swap_under_load_loses_mixes_and_doubles_nothing() -> None:
    sets = [open_set(f"engine-{n}") for n in range(8)]
    run = Switched(Lineup(serving=sets[0]))
    sent = jobs(160, views=3)  # batches hold four: a job's views are in several

    def swap() -> None:
        for n, opened in enumerate(sets[1:], start=1):
            eventually(lambda n=n: len(run.world.broker.published) >= 15 * n and run.encoder.settled, f"swap {n}")
            run.encoder.offer(Lineup(serving=opened, degraded=n % 2 == 1))

    swapper = threading.Thread(target=swap)
    swapper.start()
    found = run.answers(sent)
    swapper.join()
    eventually(lambda: run.encoder.settled, "the last swap")
    run.world.stop()
    assert found.keys() == {one.job_id for one in sent}
    used = [engines_of(event) for event in found.values()]
    assert {len(one) for one in used} == {1}, "views of two engines in one job"
    degraded = {digest(f"engine-{n}"): n % 2 == 1 for n in range(8)}
    assert all(event.provenance.degraded == degraded[engines_of(event)[0]] for event in found.values())
    assert len({one[0] for one in used}) == 8
    assert len(run.told.swaps) == 7
    assert run.told.released == sets[:7]
    for opened in run.told.released:
        opened.session.close()


def test_a_canary_answers_its_share_the_same_jobs_again_and_both_are_compared() -> None:
    sent = jobs(60, views=2)
    current, candidate = open_set("old"), open_set("new")
    shared = {one.job_id for one in sent if in_share(one.tenant, one.job_id, "new", 0.4)}
    assert 5 < len(shared) < 55
    for _ in range(2):  # a restarted worker draws the same ones
        run = Switched(Lineup(serving=current, trial=trial(candidate, share=0.4)))
        found = run.answers(sent)
        run.world.stop()
        new = {job_id for job_id, event in found.items() if engines_of(event) == [digest("new")]}
        old = {job_id for job_id, event in found.items() if engines_of(event) == [digest("old")]}
        assert (new, len(new | old)) == (shared, len(sent))
        assert len(run.compared()) == len(shared)
        assert {(one.published, one.release, one.candidate_error) for one in run.compared()} == {
            ("candidate", RELEASE, None)
        }
        assert all(one.candidate_verdict is not None and one.candidate_ms is not None for one in run.compared())
    assert session_of(candidate).seen == 2 * 2 * len(shared)
    assert session_of(current).seen == 2 * 2 * len(sent)


def test_a_shadow_publishes_nothing() -> None:
    sent = jobs(12)
    run = Switched(Lineup(serving=open_set("old"), trial=trial(open_set("new"), publishes=False)))
    found = run.answers(sent)
    run.world.stop()
    assert {tuple(engines_of(event)) for event in found.values()} == {(digest("old"),)}
    assert {one.published for one in run.compared()} == {"current"}
    assert len(run.compared()) == len(sent)


def test_a_candidate_that_fails_costs_no_job_and_is_told() -> None:
    run = Switched(Lineup(serving=open_set("old"), trial=trial(open_set("new", broken=True))))
    found = run.answers(jobs(12))
    run.world.stop()
    assert {tuple(engines_of(event)) for event in found.values()} == {(digest("old"),)}
    assert {(one.published, one.candidate_verdict, one.candidate_ms) for one in run.compared()} == {
        ("current", None, None)
    }
    assert {one.candidate_error for one in run.compared()} == {"encoder_failed: logo"}
    assert len(run.compared()) == 12


def test_a_photograph_that_cannot_be_decoded_is_nobody_s_failure() -> None:
    run = Switched(Lineup(serving=open_set("old"), trial=trial(open_set("new"))))
    one = job("j1", b"photo")
    bad = replace(job("x", b"rubbish").views[0], view="lining")
    found = run.answers([replace(one, views=(*one.views, bad))])
    run.world.stop()
    assert engines_of(found["j1"]) == [digest("new")]
    assert [one.candidate_error for one in run.compared()] == [None]


def test_probes_are_cached_by_the_engine_that_made_them() -> None:
    current, candidate = open_set("old"), open_set("new")
    run = Switched(Lineup(serving=current, trial=trial(candidate, publishes=False)))
    run.world.stop()
    cache = MemoryProbeCache(run.encoder.engines, decoder="test")
    world = World(encoder=run.encoder, engines=run.encoder, results=run.results, cache=cache)
    world.pipeline.start()
    for name in ("a", "b"):
        world.send(job(name, b"the same photograph"))
        eventually(lambda name=name: f"t/{name}".encode() in {o.key for o in world.broker.published}, name)
    world.stop()
    assert (session_of(current).seen, session_of(candidate).seen) == (1, 1)
    assert len(run.compared()) == 2


def test_who_is_suspected_runs_on_the_serving_engines_alone() -> None:
    encoder = SwitchingEncoder(Lineup(serving=open_set("old"), trial=trial(open_set("new"))), Told().watching())
    assert encoder.choose(job("j1"), [NAME], suspected=False).beside is not None
    assert encoder.choose(job("j1"), [NAME], suspected=True).beside is None
    assert encoder.choose(job("j1"), ["another"], suspected=False).beside is None


def test_a_set_is_given_back_once_its_last_job_has_ended() -> None:
    told, old, new = Told(), open_set("old"), open_set("new")
    encoder = SwitchingEncoder(Lineup(serving=old), told.watching())
    held = [encoder.choose(job("j1"), [NAME], suspected=False) for _ in range(2)]
    encoder.offer(Lineup(serving=new))
    assert not encoder.settled
    encoder.between_batches(idle=True)
    encoder.ended(held[0])
    assert told.released == []
    assert old.key(NAME) in encoder.engines
    encoder.ended(held[1])
    assert told.released == [old]
    assert list(encoder.engines) == [new.key(NAME)]
    encoder.close()
    assert session_of(new).closed
    assert not session_of(old).closed


@pytest.mark.parametrize("publishes", [True, False])
def test_an_engine_whose_golden_images_depart_ends_the_worker_before_its_next_batch(publishes: bool) -> None:
    """Idle, it is tested every so many batches."""
    bad = open_set("bad", departed=True)
    lineup = Lineup(serving=open_set("old"), trial=trial(bad, publishes=publishes))
    run = Switched(lineup, golden_every=3)
    run.answers(jobs(6))
    assert run.world.pipeline.wait(20)
    assert isinstance(run.world.pipeline.error, Fatal)
    assert run.world.pipeline.error.exit_code == 74
    assert run.told.failed == [(bad, FailureKind.GOLDEN)]


def test_the_set_that_ended_the_worker_is_named() -> None:
    bad = open_set("bad", dead=True)
    run = Switched(Lineup(serving=open_set("old"), trial=trial(bad)))
    run.world.send(job("j1"))
    assert run.world.pipeline.wait(20)
    assert isinstance(run.world.pipeline.error, Fatal)
    assert run.told.failed == [(bad, FailureKind.DIED)]
