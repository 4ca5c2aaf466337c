"""The follower over a registry in memory: what it offers, what it leaves as it is, and how it comes back by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest
from delivery_parts import eventually, job
from engine_sets import NAME, open_set, session_of

from engines.errors import EngineRefused, RefusalCode
from worker.adapters import engine_follower
from worker.adapters.engine_follower import EngineFollower, FollowerOptions, Registry
from worker.adapters.engine_wanted import Wanted, WantedTrial
from worker.adapters.switching import OpenSet
from worker.core.fallback import BarRule, Budget, Failure, FailureKind, Step, ladder
from worker.errors import ServiceUnavailable
from worker.observe import Meter

RELEASE = UUID(int=7)
MINUTE = timedelta(minutes=1)


def steps(current: str, previous: str | None) -> tuple[Step, ...]:
    return ladder([({NAME: current}, "test"), ({NAME: previous or current}, "test"), ({NAME: current}, "cpu")])


def candidate(engine: str, replaces: str, share: float = 0.5, publishes: bool = True) -> WantedTrial:
    published = cast(Any, SimpleNamespace(id=engine, variant=SimpleNamespace(name=NAME)))
    return WantedTrial(release=RELEASE, candidate=published, replaces=replaces, share=share, publishes=publishes)


@dataclass
class Log:
    """A worker's memory, beyond its process."""

    failures: list[Failure] = field(default_factory=list)
    alerts: list[str] = field(default_factory=list)
    open: bool = False
    away: bool = False
    being_opened: str | None = None

    def known(self, now: datetime) -> list[Failure]:
        return list(self.failures)

    def add(self, failure: Failure, detail: str) -> None:
        if self.away:
            raise ServiceUnavailable("postgres", "planted")
        self.failures.append(failure)

    @contextmanager
    def opening(self, step: str) -> Iterator[None]:
        self.being_opened = step
        yield
        self.being_opened = None

    def degraded(self, step: str, detail: str, now: datetime) -> None:
        if self.away:
            raise ServiceUnavailable("postgres", "planted")
        self.alerts.append(detail)
        self.open = True

    def healed(self) -> None:
        self.open = False


@dataclass
class World:
    """`refused`: (engine, backend) that cannot be loaded."""

    wanted: Wanted
    log: Log = field(default_factory=Log)
    refused: set[tuple[str, str]] = field(default_factory=set)
    missing: Sequence[str] = ()
    broken: dict[str, BaseException] = field(default_factory=dict)  # what opening them raises
    away: bool = False  # whoever is asked what a candidate lacks
    opened: list[OpenSet] = field(default_factory=list)
    now: datetime = datetime(2026, 11, 28, 12, tzinfo=UTC)
    meter: Meter = field(default_factory=Meter)
    follower: EngineFollower = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """A process: the first one, or the next."""
        registry = Registry(read=lambda: self.wanted, opened=self.open, lacks=self.lacks)
        budget = Budget(errors=0.1, photographs=20)
        options = FollowerOptions(rule=BarRule(first_rest=MINUTE), budget=budget, clock=lambda: self.now)
        self.follower = EngineFollower(registry, self.log, self.meter, options)

    def open(self, step: Step, wanted: Wanted) -> OpenSet:
        ((_, engine),) = step.engines
        assert self.log.being_opened == step.key, "nobody would know what a crash was of"
        if engine in self.broken:
            raise self.broken[engine]
        if (engine, step.backend) in self.refused:
            raise EngineRefused(RefusalCode.DIGEST_MISMATCH, f"{engine} was tampered with", "fetch it again")
        self.opened.append(open_set(engine, step.backend))
        return self.opened[-1]

    def lacks(self, trial: WantedTrial, wanted: Wanted) -> Sequence[str]:
        if self.away:
            raise ServiceUnavailable("postgres", "planted")
        return self.missing

    def turn(self, wanted: Wanted | None = None, after: timedelta = timedelta()) -> tuple[str, bool]:
        """One of the follower's turns, and then one of the embed thread's; what serves, and whether degraded."""
        self.wanted = wanted or self.wanted
        self.now += after
        self.follower.turn()
        self.follower.encoder.between_batches(idle=False)
        self.follower.turn()
        return self.serves

    @property
    def serves(self) -> tuple[str, bool]:
        lineup = self.follower.encoder.lineup
        ((_, engine),) = lineup.serving.step.engines
        assert self.metric("assay_degraded") == float(lineup.degraded)
        return f"{engine}/{lineup.serving.step.backend}", lineup.degraded

    @property
    def tried(self) -> str | None:
        trial = self.follower.encoder.lineup.trial
        return trial.engine if trial else None

    def metric(self, name: str) -> float:
        return self.meter.registry.get_sample_value(name) or 0.0

    def left_open(self) -> list[str]:
        return [session_of(one).engine for one in self.opened if not session_of(one).closed]


def wants(current: str, previous: str | None = None, *, trial: WantedTrial | None = None) -> Wanted:
    return Wanted(steps=steps(current, previous), published={}, trial=trial)


def test_what_is_promoted_is_swapped_in_and_what_was_is_closed() -> None:
    world = World(wants("1"))
    assert world.serves == ("1/test", False)
    assert world.turn(wants("2", "1")) == ("2/test", False)
    assert world.left_open() == ["2"]
    assert world.turn(wants("1")) == ("1/test", False)  # rolled back
    assert world.left_open() == ["1"]
    assert world.metric("assay_engine_swap_seconds_count") == 2
    assert (world.log.alerts, world.log.failures) == ([], [])


def test_nothing_is_opened_where_nothing_changed() -> None:
    world = World(wants("1"))
    for _ in range(3):
        world.turn()
    assert len(world.opened) == 1


def test_what_was_opened_for_a_line_up_that_failed_is_closed_again() -> None:
    world = World(wants("1"), away=True)
    promoted = wants("2", "1", trial=candidate("3", "2"))
    assert world.turn(promoted) == ("1/test", False)
    assert world.turn() == ("1/test", False)
    assert world.left_open() == ["1"]
    world.away = False
    assert world.turn() == ("2/test", False)
    assert (world.tried, world.left_open()) == ("3", ["2", "3"])


def test_a_failed_load_keeps_the_old_engine_says_why_and_is_tried_again() -> None:
    world = World(wants("1"), refused={("2", "test")})
    assert world.turn(wants("2", "1")) == ("1/test", True)
    assert world.left_open() == ["1"]
    assert "2 was tampered with" in world.log.alerts[0]
    assert [failure.kind for failure in world.log.failures] == [FailureKind.REFUSED]
    assert world.turn(after=MINUTE / 2) == ("1/test", True)
    assert len(world.log.failures) == 1  # it rests
    assert world.turn(after=MINUTE) == ("1/test", True)
    assert len(world.log.failures) == 2
    assert len(world.log.alerts) == 1
    world.refused.clear()
    assert world.turn(after=MINUTE) == ("1/test", True)  # twice as long
    assert world.turn(after=MINUTE) == ("2/test", False)
    assert not world.log.open


def test_whoever_serves_what_was_rolled_back_goes_on_where_nothing_else_opens() -> None:
    world = World(wants("2", "1"), refused={("1", "test"), ("1", "cpu")})
    assert world.turn(wants("1")) == ("2/test", True)


def test_a_start_goes_down_the_ladder_and_refuses_at_its_foot() -> None:
    world = World(wants("2", "1"), refused={("2", "test")})
    assert world.serves == ("1/test", True)
    assert world.log.open
    world.refused |= {("1", "test")}
    world.start()
    assert world.serves == ("2/cpu", True)
    world.refused |= {("2", "cpu")}
    with pytest.raises(EngineRefused, match="2 was tampered with"):
        world.start()


def test_two_deaths_take_the_next_process_a_step_down_and_time_heals_it() -> None:
    world = World(wants("2", "1"))
    for _ in range(2):
        assert world.serves == ("2/test", False)
        serving = world.follower.encoder.lineup.serving
        world.follower.watching().failed(serving, FailureKind.DIED, "hangs")
        world.start()
    assert world.serves == ("1/test", True)
    assert world.turn(after=MINUTE * 2) == ("2/test", False)
    assert not world.log.open


def test_a_bad_golden_image_is_enough_at_once() -> None:
    world = World(wants("2", "1"))
    world.follower.watching().failed(world.opened[0], FailureKind.GOLDEN, "departs")
    world.start()
    assert world.serves == ("1/test", True)


def test_an_engine_over_its_budget_is_left_without_a_new_process() -> None:
    world = World(wants("2", "1"))
    for _ in range(30):
        world.follower.watching().ran(world.opened[0], 5, 2, 0.1)
    assert world.turn() == ("1/test", True)
    assert world.log.failures[0].kind is FailureKind.ERRORS
    assert world.metric("assay_degraded") == 1.0


def test_what_is_current_anew_has_failed_nothing() -> None:
    world = World(wants("2", "1"), refused={("2", "test")})
    assert world.turn(wants("3", "2")) == ("3/test", False)
    assert not world.log.open


def test_a_candidate_takes_its_share_and_goes() -> None:
    world = World(wants("1"))
    world.turn(wants("1", trial=candidate("2", "1")))
    assert world.tried == "2"
    assert world.metric("assay_engine_trial_share") == 0.5
    opened = len(world.opened)
    world.turn(wants("1", trial=candidate("2", "1", share=1.0)))
    assert (world.metric("assay_engine_trial_share"), len(world.opened)) == (1.0, opened)
    world.turn(wants("1"))
    assert (world.tried, world.left_open()) == (None, ["1"])


def test_a_candidate_that_lacks_references_waits_until_they_are_there() -> None:
    world = World(wants("1"), missing=["3 references have no vectors"])
    world.turn(wants("1", trial=candidate("2", "1")))
    assert (world.tried, len(world.opened)) == (None, 1)
    world.missing = ()
    world.turn()
    assert world.tried == "2"


def test_a_candidate_is_compared_with_the_engine_of_its_release_alone() -> None:
    world = World(wants("1", trial=candidate("2", replaces="0")))
    world.turn()
    assert world.tried is None


def test_no_candidate_is_tried_while_a_fallback_serves() -> None:
    world = World(wants("2", "1", trial=candidate("3", "2")), refused={("2", "test")})
    world.turn()
    assert world.tried is None


def test_a_candidate_that_ended_the_worker_is_not_tried_by_the_next_one_for_a_while() -> None:
    world = World(wants("1", trial=candidate("2", "1")))
    world.turn()
    world.follower.watching().failed(world.opened[-1], FailureKind.DIED, "hangs")
    world.start()
    world.turn()
    assert (world.tried, world.serves) == (None, ("1/test", False))
    world.turn(after=MINUTE * 2)
    assert world.tried == "2"


def test_while_postgres_is_away_failures_count_in_memory_and_alerts_wait() -> None:
    world = World(wants("2", "1"), log=Log(away=True))
    for _ in range(30):
        world.follower.watching().ran(world.opened[0], 5, 5, 0.1)
    assert world.turn() == ("1/test", True)
    assert (world.log.alerts, world.log.failures) == ([], [])
    world.log.away = False
    world.turn()
    assert len(world.log.alerts) == 1


def test_a_set_is_closed_by_the_follower_when_its_last_job_has_ended() -> None:
    world = World(wants("1"))
    world.follower.start()
    encoder = world.follower.encoder
    held = encoder.choose(job("j1"), [NAME], suspected=False)
    world.wanted = wants("2")
    world.follower.wake()
    eventually(lambda: not encoder.settled, "an offer")
    encoder.between_batches(idle=True)
    assert world.left_open() == ["1", "2"]
    encoder.ended(held)
    eventually(lambda: world.left_open() == ["2"], "the old set's end")
    world.follower.close()
    assert world.follower.failed is None


def test_a_candidate_that_is_promoted_is_not_opened_again() -> None:
    world = World(wants("1"))
    world.turn(wants("1", trial=candidate("2", "1")))
    assert world.turn(wants("2", "1")) == ("2/test", False)
    assert [session_of(one).engine for one in world.opened] == ["1", "2"]
    assert (world.tried, world.left_open()) == (None, ["2"])


def test_a_promoted_candidate_stays_open_where_the_turn_fails() -> None:
    world = World(wants("1", trial=candidate("2", "1")))
    world.turn()
    world.away = True
    assert world.turn(wants("2", "1", trial=candidate("3", "2"))) == ("1/test", False)
    assert (world.tried, world.left_open()) == ("2", ["1", "2"])
    world.away = False
    assert world.turn() == ("2/test", False)
    assert (world.tried, world.left_open()) == ("3", ["2", "3"])


def test_a_turn_that_fails_unexpectedly_is_tried_again_and_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_follower, "FIRST_REST_S", 0.01)
    world = World(wants("1"), broken={"2": RuntimeError("planted")})
    follower = world.follower.start()
    world.wanted = wants("2", "1")
    follower.wake()
    eventually(lambda: world.metric("assay_engine_follow_failures_total") >= 3, "three turns that fail")
    assert (str(follower.failed), follower.dead, world.serves) == ("planted", False, ("1/test", False))
    world.broken.clear()
    eventually(lambda: not follower.encoder.settled, "an offer")
    follower.encoder.between_batches(idle=True)
    follower.wake()
    eventually(lambda: follower.failed is None and world.left_open() == ["2"], "the end of the failure")
    follower.close()


def test_the_rest_after_failed_turns_doubles_to_a_minute() -> None:
    rests = [0.0]
    for _ in range(8):
        rests.append(engine_follower.longer_rest_s(rests[-1]))
    assert rests[1:] == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]


def test_a_thread_that_ends_is_dead() -> None:
    world = World(wants("1"), broken={"2": SystemExit("planted")})
    follower = world.follower.start()
    world.wanted = wants("2", "1")
    follower.wake()
    eventually(lambda: follower.dead, "the thread's end")
    assert str(follower.failed) == "planted"
    assert world.serves == ("1/test", False)
    follower.close()
