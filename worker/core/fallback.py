"""Which engines a worker serves with, and when it tries better ones again. Pure.

A worker goes down a ladder: what is current, what was current before, and the same on the CPU. A step that failed is
barred for a while, the longer the more often it failed, and is then tried again: so a worker heals by itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from statistics import median
from typing import Final

CONSIDERED: Final = timedelta(hours=24)  # how far back failures lengthen a bar
LEAST_BATCHES: Final = 20


class FailureKind(StrEnum):
    """How engines failed."""

    DIED = "died"  # a hang or a lost device, or the process ended while they were opened
    CRASHED = "crashed"  # the process ended without a word while they had jobs
    GOLDEN = "golden_mismatch"  # other numbers than those that it was published with
    REFUSED = "refused"  # it could not be loaded
    ERRORS = "error_budget"  # too many photographs without finite numbers
    SLOW = "latency_budget"


ENDINGS: Final = (FailureKind.DIED, FailureKind.CRASHED)  # of the process; chance and photographs may end one too


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Engines that may serve: ids by encoder, and what runs them."""

    engines: tuple[tuple[str, str], ...]  # (encoder, engine id), by encoder
    backend: str

    @classmethod
    def of(cls, engines: Mapping[str, str], backend: str) -> Step:
        return cls(engines=tuple(sorted(engines.items())), backend=backend)

    @property
    def key(self) -> str:
        """The same for the same engines on the same backend; short enough for people."""
        named = " ".join(f"{encoder}={engine[:12]}" for encoder, engine in self.engines)
        return f"{named} on {self.backend}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """`jobs`, of a crash: those that were there, any of which may have been the cause."""

    step: str  # its key
    kind: FailureKind
    at: datetime
    jobs: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class BarRule:
    """A step is barred after so many deaths within `together`, and after one failure of any other kind or when it was
    barred before; first for `first_rest`, then for twice as long each time, `longest_rest` at most. Of crashes it takes
    one more, and no two of them may have a job in common: one photograph that kills every engine takes none a step
    down, however often it is tried."""

    deaths: int = 2
    together: timedelta = timedelta(minutes=10)
    first_rest: timedelta = timedelta(minutes=1)
    longest_rest: timedelta = timedelta(hours=1)


def ladder(steps: Iterable[tuple[Mapping[str, str], str]]) -> tuple[Step, ...]:
    """Engines by encoder and what runs them, best first, without what is there already."""
    return tuple(dict.fromkeys(Step.of(engines, backend) for engines, backend in steps))


def barred_until(
    step: Step, failures: Iterable[Failure], now: datetime, rule: BarRule, *, deaths: int
) -> datetime | None:
    """Until when a step is not to be tried; None where it may be. `deaths`: how many bar it."""
    own = sorted((f for f in failures if f.step == step.key and now - f.at < CONSIDERED), key=lambda f: f.at)
    bars = 0
    until: datetime | None = None
    recent: list[Failure] = []
    for failure in own:
        recent = [known for known in recent if failure.at - known.at <= rule.together] + [failure]
        if failure.kind not in ENDINGS or _too_many(recent, 1 if bars else deaths):
            rest = min(rule.first_rest * 2 ** min(bars, 16), rule.longest_rest)
            bars, until, recent = bars + 1, failure.at + rest, []
    return until if until is not None and until > now else None


def _too_many(ends: Sequence[Failure], deaths: int) -> bool:
    died = sum(end.kind is FailureKind.DIED for end in ends)
    return died >= deaths or died + apart([end.jobs for end in ends if end.kind is FailureKind.CRASHED]) > deaths


def apart(groups: Iterable[frozenset[str]]) -> int:
    """How many of these groups of jobs have none in common, at least; as many jobs it takes to explain them."""
    seen: frozenset[str] = frozenset()
    found = 0
    for jobs in sorted(groups, key=len):  # a job that ran alone says most
        if not jobs & seen:
            seen, found = seen | jobs, found + 1
    return found


def free(steps: Sequence[Step], failures: Sequence[Failure], now: datetime, rule: BarRule) -> list[Step]:
    """The steps that are not barred, best first."""
    return [step for step in steps if barred_until(step, failures, now, rule, deaths=rule.deaths) is None]


def in_order(steps: Sequence[Step], failures: Sequence[Failure], now: datetime, rule: BarRule) -> list[Step]:
    """All steps: the free ones, then the barred ones, whose bar ends first. Who has nothing else serves with those."""
    bars = {step: barred_until(step, failures, now, rule, deaths=rule.deaths) for step in steps}
    return sorted(steps, key=lambda step: (bars[step] is not None, bars[step] or now))


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What an engine may do of its last `photographs`: `errors` is the largest share that it gives no finite numbers
    for, `photograph_ms` the largest median over batches of milliseconds a photograph; 0: no limit."""

    errors: float = 0.05
    photograph_ms: float = 0.0
    photographs: int = 200


@dataclass(slots=True)
class BudgetMeter:
    """Counts what one set of engines did. Owned by one thread."""

    budget: Budget
    _batches: deque[tuple[int, int, float]] = field(default_factory=deque)

    def add(self, photographs: int, failed: int, seconds: float) -> tuple[FailureKind, str] | None:
        """One batch more; what is over the budget, if anything is."""
        self._batches.append((photographs, failed, seconds))
        seen = sum(count for count, _, _ in self._batches)
        while len(self._batches) > LEAST_BATCHES and seen - self._batches[0][0] >= self.budget.photographs:
            seen -= self._batches.popleft()[0]
        if seen < self.budget.photographs or len(self._batches) < LEAST_BATCHES:
            return None
        share = sum(one[1] for one in self._batches) / seen
        if share > self.budget.errors:
            return FailureKind.ERRORS, f"no finite numbers for {share:.1%} of the last {seen} photographs"
        each_ms = median(took_s * 1e3 / count for count, _, took_s in self._batches if count)
        if self.budget.photograph_ms and each_ms > self.budget.photograph_ms:
            return FailureKind.SLOW, f"{each_ms:.1f} ms a photograph, allowed are {self.budget.photograph_ms:.1f}"
        return None
