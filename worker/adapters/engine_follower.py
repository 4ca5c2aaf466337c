"""Follows the registry: makes ready in the background what it wants served, and offers it to the embed thread.

One thread reads the registry, when it is woken and every so often. It loads, verifies, warms and tests engines, offers
the line-up, and closes what no job needs any more. What cannot be loaded leaves what serves as it is; what fails while
it serves is left for the next step of the ladder, and tried again later (worker/core/fallback.py).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from typing import Protocol

import structlog

from engines.errors import EngineRefused
from worker.adapters.engine_wanted import Wanted, WantedTrial
from worker.adapters.switching import Lineup, OpenSet, SwitchingEncoder, Trial, Watching
from worker.core.fallback import (
    CONSIDERED,
    BarRule,
    Budget,
    BudgetMeter,
    Failure,
    FailureKind,
    Step,
    barred_until,
    free,
    in_order,
)
from worker.errors import AssayError, ServiceUnavailable
from worker.observe import Meter

TAKE_UP_S = 0.25  # how soon an offer that waits is looked after again
FIRST_REST_S = 1.0  # after a turn that failed unexpectedly; then twice as long each time
LONGEST_REST_S = 60.0
_log = structlog.get_logger()


class FailureLog(Protocol):
    """worker.adapters.engine_failures.EngineFailures, or its twin in memory. Raises ServiceUnavailable."""

    def known(self, now: datetime) -> list[Failure]: ...
    def add(self, failure: Failure, detail: str) -> None: ...
    def opening(self, step: str) -> AbstractContextManager[None]: ...
    def degraded(self, step: str, detail: str, now: datetime) -> None: ...
    def healed(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """What is asked of the registry. `read` tells what it wants, `opened` gives a step's engines loaded, verified, warm
    and tested, `lacks` what a candidate wants before it may take traffic. They raise EngineRefused and
    ServiceUnavailable."""

    read: Callable[[], Wanted]
    opened: Callable[[Step, Wanted], OpenSet]
    lacks: Callable[[WantedTrial, Wanted], Sequence[str]]


def longer_rest_s(rest_s: float) -> float:
    """After another turn that failed."""
    return min(max(FIRST_REST_S, 2.0 * rest_s), LONGEST_REST_S)


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowerOptions:
    poll_s: float = 5.0
    golden_every: int = 0
    rule: BarRule = field(default_factory=BarRule)
    budget: Budget = field(default_factory=Budget)
    clock: Callable[[], datetime] = _now


class EngineFollower:
    """`encoder` is open when this is made. `start` runs the thread, `close` ends it. A turn that fails unexpectedly is
    tried again, later each time: `failed` says at what until one succeeds. `dead`: the thread itself has ended.

    Raises EngineRefused where no engine can be opened at all, and ServiceUnavailable.
    """

    def __init__(self, registry: Registry, log: FailureLog, meter: Meter, options: FollowerOptions) -> None:
        self._registry = registry
        self._log = log
        self._meter = meter
        self._options = options
        self._failures = log.known(options.clock())
        self._details: dict[str, str] = {}  # by step: how it failed last
        self._meters: dict[OpenSet, BudgetMeter] = {}
        self._released: SimpleQueue[OpenSet] = SimpleQueue()
        self._told: str | None = None  # the step that operators were told is served in place of the best
        self._waits = ""  # why the candidate takes no traffic, as it was logged last
        self._woken = threading.Event()
        self._stopped = False
        self._thread: threading.Thread | None = None
        self.failed: BaseException | None = None
        self.dead = False
        wanted = registry.read()
        first = self._first(wanted)
        self.encoder = SwitchingEncoder(first, self.watching())
        self._serves(first)
        self._tell(first, wanted)

    def start(self) -> EngineFollower:
        self._thread = threading.Thread(target=self._run, name="engine-follower", daemon=True)
        self._thread.start()
        return self

    def wake(self) -> None:
        """Read the registry now. Any thread."""
        self._woken.set()

    def close(self) -> None:
        self._stopped = True
        self._woken.set()
        if self._thread is not None:
            self._thread.join()
        self._close_released()

    def turn(self) -> None:
        """Do what there is to do. While what was offered is not adopted that is little, and it is to be called soon."""
        self._close_released()
        if not self.encoder.settled:
            return
        try:
            wanted = self._registry.read()
            lineup = self._lineup(wanted)
            if lineup != self.encoder.lineup:
                self.encoder.offer(lineup)
            self._tell(lineup, wanted)
        except (ServiceUnavailable, EngineRefused) as error:
            _log.warning("engines_not_followed", detail=str(error))

    def _run(self) -> None:
        try:
            rest_s = 0.0
            while not self._stopped:
                rest_s = self._turned(rest_s)
                self._woken.wait(rest_s or (self._options.poll_s if self.encoder.settled else TAKE_UP_S))
                self._woken.clear()
        except BaseException as error:  # no exception of Python's own: only a new process can be trusted
            self.failed, self.dead = error, True
            _log.exception("engine_follower_failed")

    def _turned(self, rest_s: float) -> float:
        """How long to rest before the turn that was just done is tried again, 0 where it succeeded."""
        try:
            self.turn()
        except Exception as error:
            self.failed = error
            again_s = longer_rest_s(rest_s)
            _log.exception("engine_turn_failed", again_in_s=again_s)
            self._meter.follow_failures.inc()
            return again_s
        self.failed = None
        return 0.0

    def _first(self, wanted: Wanted) -> Lineup:
        """What to serve with from the start: the best step that opens."""
        refusals: list[EngineRefused] = []
        for step in in_order(wanted.steps, self._failures, self._options.clock(), self._options.rule):
            opened = self._opened(step, wanted, refusals)
            if opened is not None:
                return self._around(opened, wanted, None)
        raise refusals[0]

    def _lineup(self, wanted: Wanted) -> Lineup:
        present = self.encoder.lineup
        serving = self._serving(wanted)
        try:
            return self._around(serving, wanted, present.trial)
        except BaseException:
            if serving not in present.sets:  # nobody would know of it, and the next turn opens it again
                serving.session.close()
            raise

    def _around(self, serving: OpenSet, wanted: Wanted, present: Trial | None) -> Lineup:
        """No candidate is tried while a fallback serves: what they are compared with is not there."""
        degraded = serving.step != wanted.steps[0]
        trial = None if degraded or wanted.trial is None else self._trial(wanted.trial, wanted, serving, present)
        return Lineup(serving=serving, degraded=degraded, trial=trial)

    def _serving(self, wanted: Wanted) -> OpenSet:
        """The best step that is not barred and opens; what serves now where there is none. A candidate that was tried
        is open already when it is promoted."""
        present = {opened.step: opened for opened in reversed(self.encoder.lineup.sets)}
        for step in free(wanted.steps, self._failures, self._options.clock(), self._options.rule):
            opened = present.get(step) or self._opened(step, wanted)
            if opened is not None:
                return opened
        return self.encoder.lineup.serving

    def _trial(self, wanted: WantedTrial, all_wanted: Wanted, serving: OpenSet, present: Trial | None) -> Trial | None:
        step = wanted.step(serving.step.backend)
        if dict(serving.step.engines)[wanted.encoder] != wanted.replaces:
            self._waiting(f"{wanted.encoder}: the release compares with another engine than what serves")
            return None
        if barred_until(step, self._failures, self._options.clock(), self._options.rule, deaths=1) is not None:
            self._waiting(f"{step.key} failed: {self._details.get(step.key, 'before this worker started')}")
            return None
        opened = present.opened if present is not None and present.opened.step == step else None
        if opened is None and (missing := self._registry.lacks(wanted, all_wanted)):
            self._waiting("; ".join(missing))
            return None
        opened = opened or self._opened(step, all_wanted)
        if opened is None:
            return None
        self._waits = ""
        return Trial(
            release=wanted.release,
            encoder=wanted.encoder,
            engine=wanted.candidate.id,
            share=wanted.share,
            publishes=wanted.publishes,
            opened=opened,
        )

    def _waiting(self, why: str) -> None:
        if why != self._waits:
            self._waits = why
            _log.warning("candidate_waits", detail=why)

    def _opened(self, step: Step, wanted: Wanted, refusals: list[EngineRefused] | None = None) -> OpenSet | None:
        try:
            with self._log.opening(step.key):
                return self._registry.opened(step, wanted)
        except EngineRefused as refusal:
            if refusals is not None:
                refusals.append(refusal)
            self._note(step.key, FailureKind.REFUSED, str(refusal))
            return None

    def _serves(self, lineup: Lineup) -> None:
        trial = lineup.trial
        self._meter.engines(use for opened in lineup.sets for use in opened.session.engines.values())
        self._meter.degraded.set(float(lineup.degraded))
        self._meter.trial_share.set(trial.share if trial else 0.0)
        _log.info(
            "engines_serve",
            engines=lineup.serving.step.key,
            degraded=lineup.degraded,
            candidate=trial.opened.step.key if trial else None,
            share=trial.share if trial else None,
        )

    def _tell(self, lineup: Lineup, wanted: Wanted) -> None:
        """Alerts and their end. While Postgres is away they wait for the next turn."""
        if not lineup.degraded:
            if self._told != "":
                self._log.healed()
                self._told = ""
            return
        step, best = lineup.serving.step.key, wanted.steps[0].key
        if self._told != step:
            why = self._details.get(best, "it failed before this worker started")
            self._log.degraded(step, f"a worker serves {step}, not {best}: {why}", self._options.clock())
            self._told = step

    def watching(self) -> Watching:
        """What the encoder tells, and whom."""
        return Watching(
            swapped=self._swapped,
            released=self._let_go,
            failed=lambda opened, kind, detail: self._note(opened.step.key, kind, detail),
            ran=self._ran,
            golden_every=self._options.golden_every,
        )

    def _swapped(self, lineup: Lineup, seconds: float) -> None:
        self._meter.swaps.observe(seconds)
        self._serves(lineup)

    def _let_go(self, opened: OpenSet) -> None:
        self._released.put(opened)
        self._woken.set()

    def _close_released(self) -> None:
        while True:
            try:
                opened = self._released.get_nowait()
            except Empty:
                return
            self._meters.pop(opened, None)
            opened.session.close()
            _log.info("engines_closed", engines=opened.step.key)

    def _ran(self, opened: OpenSet, photographs: int, failed: int, seconds: float) -> None:
        meter = self._meters.get(opened) or self._meters.setdefault(opened, BudgetMeter(self._options.budget))
        over = meter.add(photographs, failed, seconds)
        if over is not None:
            self._meters.pop(opened, None)
            self._note(opened.step.key, *over)
            self._woken.set()

    def _note(self, step: str, kind: FailureKind, detail: str) -> None:
        """Any thread: the list is replaced, never changed."""
        failure = Failure(step=step, kind=kind, at=self._options.clock())
        counting = [known for known in self._failures if failure.at - known.at < CONSIDERED]
        self._failures = [*counting, failure]
        self._details = {**self._details, step: detail}
        self._meter.engine_failures.labels(kind.value).inc()
        _log.error("engine_failed", engines=step, kind=kind.value, detail=detail)
        try:
            self._log.add(failure, detail)
        except AssayError as error:
            _log.warning("engine_failure_not_kept", detail=str(error))
