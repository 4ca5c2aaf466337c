"""The judge of releases: what it decides, and that it errs no more often than it says, however often it is asked."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from worker.core.release_judge import GOLDEN, TESTS, JudgeRule, ReleaseCounts, ReleaseJudgement, judge_release
from worker.core.sequential import Rates, log_ratio, sequential_test

RULE = JudgeRule()
STREAMS = 1000
GOOD = {
    "hard": 0.002,
    "abstention": 0.02,
    "slow": 0.5,
    "failed": 0.001,
    "golden_worse": 0.01,
}  # H0 of each, to the edge
FLAWLESS = dict.fromkeys(GOOD, 0.0)
HARMS = {"hard": 0.01, "abstention": 0.05, "slow": 0.6, "failed": 0.01, "golden_worse": 0.05}
QUIET = ReleaseCounts(jobs=700, answered=580, timed=700, golden=120)


def outcome(name: str, **counts: int) -> str:
    judgement = judge_release(replace(QUIET, **counts), RULE)
    return next(test.outcome for test in judgement.tests if test.name == name)


def totals(rates: dict[str, float], seed: int, jobs: int, every: int) -> dict[str, NDArray[np.int64]]:
    """By what is counted, its total [streams, looks] at every `every`-th job; one job in eight is golden."""
    drawn = np.random.default_rng(seed)
    looks = jobs // every
    each = {name: every // 8 if name == "golden_worse" else every for name in rates}
    return {name: drawn.binomial(each[name], rate, (STREAMS, looks)).cumsum(axis=1) for name, rate in rates.items()}


def decisions(rates: dict[str, float], seed: int, *, jobs: int = 5200, every: int = 40) -> list[str]:
    """What each of the streams comes to, asked after every `every`-th job."""
    found = totals(rates, seed, jobs, every)
    ends = [one_stream({name: found[name][row] for name in found}, every) for row in range(STREAMS)]
    print(f"\n{rates}: {dict(Counter(ends))} of {STREAMS} streams")  # noqa: T201 (the documents quote it)
    return ends


def one_stream(counted: dict[str, NDArray[np.int64]], every: int) -> str:
    for look in range(len(counted["hard"])):
        jobs = (look + 1) * every
        golden = jobs // 8
        counts = ReleaseCounts(
            jobs=jobs, answered=jobs, timed=jobs, golden=golden, **{name: int(c[look]) for name, c in counted.items()}
        )
        decision = judge_release(counts, RULE).decision
        if decision != "continue":
            return decision
    raise AssertionError("there is a largest number of jobs")


def at_most(count: int, rate: float) -> bool:
    """Whether `count` of the streams are what `rate` would bring, to three standard deviations."""
    expected = STREAMS * rate
    return count <= expected + 3 * (expected * (1 - rate)) ** 0.5


class TestErrorRates:
    def test_a_harmless_candidate_is_rarely_taken_back(self) -> None:
        """At the very edge of what is harmless, in all five respects at once."""
        assert at_most(decisions(GOOD, 1).count("take_back"), RULE.false_take_back)

    def test_a_flawless_candidate_is_always_promoted_and_soon(self) -> None:
        assert set(decisions(FLAWLESS, 2, jobs=1600)) == {"promote"}

    @pytest.mark.parametrize("harm", list(HARMS))
    def test_a_harmful_candidate_is_rarely_promoted(self, harm: str) -> None:
        found = decisions({**FLAWLESS, harm: HARMS[harm]}, 3)
        assert at_most(found.count("promote"), RULE.false_promote)
        assert found.count("take_back") > 0.95 * STREAMS

    def test_looking_after_every_single_job_costs_nothing(self) -> None:
        rates, alpha = Rates(h0=0.01, h1=0.05), 0.05
        n = np.arange(1.0, 1501.0)
        for true, fails in ((rates.h0, True), (rates.h1, False)):
            events = (np.random.default_rng(4).random((STREAMS, len(n))) < true).cumsum(axis=1).astype(np.float64)
            ratio = log_ratio(n[None, :].repeat(STREAMS, axis=0), events, rates)
            wrong = ratio.max(axis=1) >= -np.log(alpha) if fails else ratio.min(axis=1) <= np.log(alpha)
            assert at_most(int(wrong.sum()), alpha)
            assert wrong.any(), "or it tests nothing"


class TestDecision:
    def test_all_tests_passed_promotes(self) -> None:
        judgement = judge_release(QUIET, RULE)
        assert judgement.decision == "promote"
        assert [test.name for test in judgement.tests] == list(TESTS)
        assert "golden 0 of 120" in judgement.why

    @pytest.mark.parametrize(
        ("name", "counts"),
        [
            ("hard_disagreement", {"hard": 12}),
            ("abstention", {"abstention": 60}),
            ("latency", {"slow": 500}),
            ("error", {"failed": 12}),
            ("golden", {"golden_worse": 12}),
        ],
    )
    def test_one_failed_test_takes_back_whatever_the_others_say(self, name: str, counts: dict[str, int]) -> None:
        judgement = judge_release(replace(QUIET, **counts), RULE)
        assert judgement.decision == "take_back"
        assert judgement.why.startswith(f"{name}: {next(iter(counts.values()))} of ")
        assert [test.name for test in judgement.tests if test.outcome != "passed"] == [name]

    @pytest.mark.parametrize(("ordinary", "golden", "why"), [(572, 112, "hard_disagreement"), (573, 111, "golden")])
    def test_the_fewest_jobs_that_promote_one_without_any_fault(self, ordinary: int, golden: int, why: str) -> None:
        """The documents quote them."""

        def judged(ordinary: int, golden: int) -> ReleaseJudgement:
            jobs = ordinary + golden
            counts = ReleaseCounts(jobs=jobs, answered=ordinary, timed=jobs, golden=golden)
            return judge_release(counts, RULE)

        assert judged(573, 112).decision == "promote"
        short = judged(ordinary, golden)
        assert (short.decision, short.why.endswith(f"these are open: {why}")) == ("continue", True)

    def test_too_few_jobs_go_on(self) -> None:
        judgement = judge_release(ReleaseCounts(jobs=10, answered=10, timed=10), RULE)
        assert (judgement.decision, {test.outcome for test in judgement.tests}) == ("continue", {"open"})

    def test_what_stays_open_is_held_at_the_largest_number(self) -> None:
        between = ReleaseCounts(jobs=5000, answered=5000, timed=5000, golden=600, hard=25)
        assert judge_release(between, RULE).decision == "hold"
        assert judge_release(replace(between, jobs=4999), RULE).decision == "continue"

    def test_agreement_alone_does_not_promote(self) -> None:
        """However many jobs agree: without golden ones the candidate may be wrong as often as the current engine."""
        alike = ReleaseCounts(jobs=5000, answered=5000, timed=5000)
        held = judge_release(alike, RULE)
        assert (held.decision, "assay engine golden" in held.why) == ("hold", True)
        assert judge_release(alike, replace(RULE, golden_needed=False)).decision == "promote"

    def test_golden_jobs_count_even_where_none_are_needed(self) -> None:
        lenient = replace(RULE, golden_needed=False)
        assert judge_release(replace(QUIET, golden=20), lenient).decision == "continue"
        assert judge_release(replace(QUIET, golden=20, golden_worse=5), lenient).decision == "take_back"

    def test_golden_jobs_that_got_better_do_not_pay_for_those_that_got_worse(self) -> None:
        assert outcome(GOLDEN, golden_worse=12, golden_better=50) == "failed"

    def test_it_is_written_down_whole(self) -> None:
        told = json.loads(json.dumps(judge_release(replace(QUIET, hard=12), RULE).to_json()))
        assert (told["decision"], told["counts"]["hard"], told["rule"]["most_jobs"]) == ("take_back", 12, 5000)
        hard = told["tests"][0]
        assert (hard["n"], hard["alpha"], hard["outcome"]) == (580, 0.002, "failed")
        assert hard["log_ratio"] >= hard["fails_at"]


def test_impossible_counts_and_rates_are_refused() -> None:
    with pytest.raises(ValueError, match="7 events of 3"):
        sequential_test("x", 3, 7, RULE.hard, alpha=0.01, beta=0.01)
    with pytest.raises(ValueError, match="below the second"):
        Rates(h0=0.02, h1=0.01)
