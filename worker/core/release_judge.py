"""Whether a candidate engine is promoted, taken back or held, from jobs that ran on it and on the current engine. Pure.

Five tests look at the same jobs, each for one harm. A candidate is taken back when one of them fails, so their chances
of failing a harmless one add up (Bonferroni): each has a fifth of `false_take_back`. It is promoted only when all have
passed, so a harm must get past its own test: each may have the whole of `false_promote`.

That two engines agree proves neither right. Golden jobs, whose truth is known, are counted apart from the others.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from worker.core.sequential import Rates, Tested, sequential_test

Decision = Literal["promote", "hold", "take_back", "continue"]
HARD, ABSTENTION, LATENCY, ERROR, GOLDEN = TESTS = ("hard_disagreement", "abstention", "latency", "error", "golden")
HARMS = {
    HARD: "turned authentic into counterfeit or back",
    ABSTENTION: "became or ceased to be inconclusive",
    LATENCY: "took longer than the current engine allows",
    ERROR: "failed on the candidate",
    GOLDEN: "are golden and were wrong on the candidate alone",
}
_HARD, _ABSTENTION = Rates(h0=0.002, h1=0.01), Rates(h0=0.02, h1=0.05)
_LATENCY, _ERROR, _GOLDEN = Rates(h0=0.5, h1=0.6), Rates(h0=0.001, h1=0.01), Rates(h0=0.01, h1=0.05)


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeRule:
    """`slower`: a job counts as slow where the candidate takes more than so many times the current engine's time."""

    hard: Rates = _HARD
    abstention: Rates = _ABSTENTION
    latency: Rates = _LATENCY
    error: Rates = _ERROR
    golden: Rates = _GOLDEN
    slower: float = 1.2
    false_take_back: float = 0.01
    false_promote: float = 0.01
    most_jobs: int = 5000
    golden_needed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseCounts:
    """What a release came to so far. `jobs` ran on both engines; `answered` of them have both verdicts and are not
    golden, `golden` have both and are; `timed` have both times. `golden_worse`: the candidate alone was wrong, which is
    authentic for a counterfeit or counterfeit for a genuine item; `golden_better`: the current engine alone was."""

    jobs: int = 0
    failed: int = 0
    answered: int = 0
    hard: int = 0
    abstention: int = 0
    timed: int = 0
    slow: int = 0
    golden: int = 0
    golden_worse: int = 0
    golden_better: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseJudgement:
    """A decision with everything that it rests on."""

    decision: Decision
    why: str
    counts: ReleaseCounts
    tests: tuple[Tested, ...]
    rule: JudgeRule

    def to_json(self) -> dict[str, Any]:
        """For JSON: names as here, tuples as lists."""
        return {**asdict(self), "tests": [asdict(test) for test in self.tests]}


def judge_release(counts: ReleaseCounts, rule: JudgeRule) -> ReleaseJudgement:
    """May be asked after any number of jobs, as often as one likes: the error rates hold over all times together."""
    tests = _tests(counts, rule)
    decision, why = _decide(counts, tests, rule)
    return ReleaseJudgement(decision=decision, why=why, counts=counts, tests=tests, rule=rule)


def _tests(counts: ReleaseCounts, rule: JudgeRule) -> tuple[Tested, ...]:
    seen = {
        HARD: (counts.answered, counts.hard, rule.hard),
        ABSTENTION: (counts.answered, counts.abstention, rule.abstention),
        LATENCY: (counts.timed, counts.slow, rule.latency),
        ERROR: (counts.jobs, counts.failed, rule.error),
        GOLDEN: (counts.golden, counts.golden_worse, rule.golden),
    }
    alpha, beta = rule.false_take_back / len(TESTS), rule.false_promote
    return tuple(sequential_test(name, *seen[name], alpha=alpha, beta=beta) for name in TESTS)


def _decide(counts: ReleaseCounts, tests: tuple[Tested, ...], rule: JudgeRule) -> tuple[Decision, str]:
    failed = [test for test in tests if test.outcome == "failed"]
    if failed:
        return "take_back", "; ".join(_told(test) for test in failed)
    unpassed = [test for test in tests if test.outcome == "open" and (test.name != GOLDEN or _counts(counts, rule))]
    if not unpassed:
        return "promote", f"after {counts.jobs} jobs all tests have passed: {_passed(tests)}"
    names = ", ".join(test.name for test in unpassed)
    if counts.jobs >= rule.most_jobs:
        return "hold", f"after {counts.jobs} jobs these are still open: {names}{_golden_fix(counts, rule)}"
    return "continue", f"after {counts.jobs} of at most {rule.most_jobs} jobs these are open: {names}"


def _counts(counts: ReleaseCounts, rule: JudgeRule) -> bool:
    """Whether the golden test takes part: where it is needed, and where there are golden jobs anyway."""
    return rule.golden_needed or counts.golden > 0


def _told(test: Tested) -> str:
    rates = f"{test.rates.h1:.2%} rather than {test.rates.h0:.2%}"
    return f"{test.name}: {test.events} of {test.n} jobs {HARMS[test.name]}, which speaks for {rates}"


def _passed(tests: tuple[Tested, ...]) -> str:
    return ", ".join(f"{test.name} {test.events} of {test.n}" for test in tests if test.outcome == "passed")


def _golden_fix(counts: ReleaseCounts, rule: JudgeRule) -> str:
    if rule.golden_needed and not counts.golden:
        return "; no golden job was compared: assay engine golden MANIFEST, then release it again"
    return ""
