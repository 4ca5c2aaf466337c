"""Drift: the distance and its threshold against SciPy, the stated rate of false alarms, and what is seen.

`pytest -s` prints the rates that were counted.
"""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest
from scipy.stats import ks_2samp, kstwobign

from worker.core.drift import (
    ABSTENTION,
    Compared,
    DaySample,
    DriftRule,
    chance_distance,
    compare_day,
    distance_to_mixture,
)
from worker.core.policy import CategoryBaseline

DAY = date(2026, 3, 14)
RULE = DriftRule()
ENGINE = "e" * 64
VIEWS = ("logo", "stitching", "hardware")
MEASURES = ("similarity", "deviation", "sharpness", "brightness")
MEAN = {  # of genuine and of counterfeit items, in standard deviations; quality is the same for both
    "similarity": (1.0, -1.0),
    "deviation": (-1.0, 1.0),
    "sharpness": (0.0, 0.0),
    "brightness": (0.0, 0.0),
}
ABSTAINS = (0.1, 0.3)


class World:
    """Jobs of a category, exchangeable with its calibration's items unless a shift is put on a measure."""

    def __init__(self, seed: int, *, genuine: int = 70, fakes: int = 130) -> None:
        self.rng = np.random.default_rng(seed)
        self.baseline = CategoryBaseline(
            abstained=(
                (int(self.rng.binomial(genuine, ABSTAINS[0])), genuine),
                (int(self.rng.binomial(fakes, ABSTAINS[1])), fakes),
            ),
            measures={
                (ENGINE, view, measure): (
                    np.sort(self.rng.normal(MEAN[measure][0], 1, genuine)),
                    np.sort(self.rng.normal(MEAN[measure][1], 1, fakes)),
                )
                for view in VIEWS
                for measure in MEASURES
            },
        )
        self.scores = (self.rng.normal(2, 1, genuine), self.rng.normal(-2, 1, fakes))

    def day(self, jobs: int, *, fake_share: float, shifts: dict[str, float] | None = None) -> list[Compared]:
        return compare_day(self.sample(jobs, fake_share, shifts or {}), self.baseline, self.scores, RULE)

    def sample(self, jobs: int, fake_share: float, shifts: dict[str, float]) -> DaySample:
        fakes = self.rng.random(jobs) < fake_share
        kind = fakes.astype(int)
        measures = {
            (ENGINE, view, measure): self.rng.normal(np.array(MEAN[measure])[kind] + shifts.get(measure, 0.0), 1)
            for view in VIEWS
            for measure in MEASURES
        }
        return DaySample(
            category="bag",
            calibration_id="cal-1",
            since=DAY,
            day=DAY,
            scores=self.rng.normal(np.array([2.0, -2.0])[kind] + shifts.get("score", 0.0), 1),
            abstained=int((self.rng.random(jobs) < np.array(ABSTAINS)[kind] + shifts.get(ABSTENTION, 0.0)).sum()),
            jobs=jobs,
            measures=measures,
        )


def departed(compared: list[Compared]) -> set[str]:
    return {one.measure for one in compared if one.departed}


def test_the_distance_to_one_sample_equals_scipys() -> None:
    rng = np.random.default_rng(0)
    for n, m in ((5, 9), (50, 80), (200, 33)):
        values, known = rng.normal(0.3, 1, n), np.round(rng.normal(size=m), 1)
        assert distance_to_mixture(values, [known]) == pytest.approx(ks_2samp(values, known).statistic)


def test_the_nearest_mixture_is_found() -> None:
    """Against every share in steps of 0.1 %; and the distance of a sample to a mixture of itself is nothing."""
    rng = np.random.default_rng(1)
    genuine, fakes = rng.normal(2, 1, 80), rng.normal(-2, 1, 50)
    values = np.concatenate([rng.normal(2, 1, 70), rng.normal(-2, 1, 30)])
    places = np.unique(np.concatenate([values, genuine, fakes]))
    own, first, last = (np.searchsorted(np.sort(x), places, side="right") / len(x) for x in (values, genuine, fakes))
    least = min(np.abs(own - share * first - (1 - share) * last).max() for share in np.linspace(0, 1, 1001))
    assert distance_to_mixture(values, [genuine, fakes]) == pytest.approx(least, abs=1e-3)
    assert distance_to_mixture(np.concatenate([genuine, fakes]), [genuine, fakes]) == pytest.approx(0, abs=1e-5)


def test_the_threshold_is_kolmogorovs_tail() -> None:
    """Where the first term of the series is all: a level of 5 % and less."""
    for level in (0.05, 0.001, 1e-6):
        scaled = chance_distance(300, 100, level) / np.sqrt(1 / 300 + 1 / 100)
        assert kstwobign.sf(scaled) == pytest.approx(level, rel=1e-4)


@pytest.mark.parametrize("fake_share", [0.0, 0.02, 0.5, 1.0])
def test_a_comparison_is_wrong_no_more_often_than_its_level(fake_share: float) -> None:
    """500 days, each against a calibration of its own, at a level of 5 %: at most 8 % (a binomial's upper 0.3 %)."""
    rng = np.random.default_rng(int(fake_share * 100))
    wrong, days = {"mixture": 0, "pooled": 0}, 500
    for _ in range(days):
        genuine, fakes = rng.normal(2, 1, 70), rng.normal(-2, 1, 130)
        values = rng.normal(np.where(rng.random(120) < fake_share, -2.0, 2.0), 1)
        wrong["mixture"] += distance_to_mixture(values, [genuine, fakes]) >= chance_distance(120, 70, 0.05)
        known, fresh = rng.normal(size=200), rng.normal(size=120)
        wrong["pooled"] += distance_to_mixture(fresh, [known]) >= chance_distance(120, 200, 0.05)
    rates = {kind: count / days for kind, count in wrong.items()}
    print(f"\nfalse alarms at a level of 5 %, {fake_share:.0%} counterfeits: {rates}")  # noqa: T201
    assert max(rates.values()) <= 0.08


def test_unshifted_months_raise_nothing() -> None:
    """12 calibrations, each with 30 days whose share of counterfeits wanders from none to half: no alarm at all.

    At 5 % a year a month has 0.4 %, so that 12 months have 5 % at most by the bound; the seeds are fixed.
    """
    compared = 0
    for seed in range(12):
        world = World(seed)
        for day in range(30):
            found = world.day(int(world.rng.integers(50, 400)), fake_share=0.5 * day / 29)
            compared += len(found)
            assert departed(found) == set()
    print(f"\n12 unshifted months of {compared} comparisons: no alarm")  # noqa: T201
    assert compared > 12 * 30 * 10


def test_a_shifted_camera_is_seen_on_its_first_day() -> None:
    """Blur: sharpness falls by 1.5 standard deviations, similarity by 1, deviation rises by 1."""
    world = World(100)
    shifts = {"sharpness": -1.5, "similarity": -1.0, "deviation": 1.0}
    found = world.day(200, fake_share=0.05, shifts=shifts)
    assert "sharpness" in departed(found)
    assert "brightness" not in departed(found)
    worst = found[0]
    assert worst.departed and worst.distance > worst.threshold
    assert (worst.engine, worst.view in VIEWS) == (ENGINE, True)


def test_scores_that_no_mixture_explains_are_seen() -> None:
    world = World(101)
    assert "score" in departed(world.day(400, fake_share=0.05, shifts={"score": 3.0}))


def test_more_counterfeits_are_no_drift() -> None:
    world = World(102)
    assert departed(world.day(400, fake_share=1.0)) == set()
    assert departed(world.day(400, fake_share=0.0)) == set()


def test_a_rise_of_abstention_is_seen_and_a_fall_is_not() -> None:
    world = World(103)
    assert departed(world.day(300, fake_share=0.1, shifts={ABSTENTION: 0.6})) == {ABSTENTION}
    assert departed(world.day(300, fake_share=0.1, shifts={ABSTENTION: -0.3})) == set()


def test_abstention_keeps_its_level() -> None:
    """500 days at a level of 5 %, abstaining as the class that does so more: some, and 5 % at most but for chance."""
    rng = np.random.default_rng(5)
    rule = DriftRule(false_alarms_a_year=0.05 * 366 * 2, tolerance=0.0)  # two comparisons share a day's level
    wrong, days = 0, 500
    for _ in range(days):
        genuine, fakes = int(rng.binomial(70, 0.1)), int(rng.binomial(130, 0.3))
        baseline = CategoryBaseline(abstained=((genuine, 70), (fakes, 130)), measures={})
        abstained = int(rng.binomial(120, 0.3))
        nothing = np.empty(0)
        sample = DaySample(
            category="bag", calibration_id="c", since=DAY, day=DAY, scores=nothing, abstained=abstained, jobs=120,
            measures={},
        )  # fmt: skip
        wrong += departed(compare_day(sample, baseline, (), rule)) == {ABSTENTION}
    print(f"\nfalse alarms of abstention at a level of 5 %: {wrong / days:.1%}")  # noqa: T201
    assert 0.004 <= wrong / days <= 0.08


def test_a_difference_below_the_tolerance_is_none_however_many_jobs() -> None:
    rng = np.random.default_rng(6)
    values, known = rng.normal(0.2, 1, 20_000), rng.normal(size=20_000)
    assert distance_to_mixture(values, [known]) > chance_distance(20_000, 20_000, RULE.level(1))
    baseline = CategoryBaseline(abstained=((0, 0), (0, 0)), measures={(ENGINE, "logo", "sharpness"): (known, known)})
    sample = DaySample(
        category="bag", calibration_id="c", since=DAY, day=DAY, scores=np.empty(0), abstained=0, jobs=0,
        measures={(ENGINE, "logo", "sharpness"): values},
    )  # fmt: skip
    (compared,) = compare_day(sample, baseline, (), RULE)
    assert (compared.departed, compared.threshold) == (False, RULE.tolerance)


def test_too_few_jobs_items_or_no_baseline_are_not_compared() -> None:
    world = World(104)
    assert world.day(49, fake_share=0.1) == []
    small = World(105, genuine=3, fakes=3)
    assert small.day(400, fake_share=0.1) == []
    sample = world.sample(100, 0.1, {})
    assert [one.measure for one in compare_day(sample, None, world.scores, RULE)] == ["score"]
    assert compare_day(sample, None, (), RULE) == []


def test_values_that_are_no_numbers_are_left_out() -> None:
    world = World(106)
    sample = world.sample(100, 0.1, {})
    sample.measures[ENGINE, "logo", "sharpness"][:60] = np.nan
    found = {(one.view, one.measure) for one in compare_day(sample, world.baseline, world.scores, RULE)}
    assert ("logo", "sharpness") not in found
    assert ("hardware", "sharpness") in found
