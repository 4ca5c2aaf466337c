"""Drift: whether a category's jobs are still distributed as the items that their score calibration was fitted on.

A distribution of jobs is compared by the Kolmogorov-Smirnov distance. Jobs hold an unknown share of counterfeits, which
may change without anything being wrong: scores, similarities and deviations are therefore compared with the *nearest
mixture* of the calibration's genuine and counterfeit items. Quality does not depend on the class: both are pooled.

For a fixed mixture the distance is, asymptotically, the supremum of a Gaussian process whose covariance is dominated by
that of a Brownian bridge over 1/n + 1/m, where n are the jobs and m the items of the smaller class (the samples are
independent, and squared weights are at most the weights). By Anderson's inequality (1955) its tail is at most
Kolmogorov's, 2 exp(-2 t^2), and the nearest mixture is nearer still. Ties only lower it. So the threshold is
sqrt(ln(2 / level) / 2) * sqrt(1/n + 1/m), and the tests measure what it keeps.

The rate of false alarms is budgeted a year and shared equally (Bonferroni) among days and comparisons, so that it holds
however these depend on each other. A distance below `tolerance` never counts: with enough jobs any difference shows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray

from worker.core.policy import CategoryBaseline, MeasureKey
from worker.core.tails import more_often

DAYS_A_YEAR = 366
SCORE, ABSTENTION = "score", "abstention"
QUALITY = ("sharpness", "brightness", "clipped_low", "clipped_high", "glare")
_STEPS = 32  # of the search for the nearest mixture; each leaves two thirds, so the share is found to 2e-6

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftRule:
    """`false_alarms_a_year`: the probability that a category that has not drifted is called stale within a year."""

    false_alarms_a_year: float = 0.05
    tolerance: float = 0.15
    least_jobs: int = 50

    def level(self, comparisons: int) -> float:
        """Of one comparison on one day."""
        return self.false_alarms_a_year / DAYS_A_YEAR / max(1, comparisons)


@dataclass(frozen=True, slots=True, kw_only=True)
class DaySample:
    """The jobs of one category that one score calibration judged, from the day `since` to the day `day`.

    `scores` [n]: log-odds of genuine at even priors of the jobs that could be decided. `abstained` of `jobs` were
    inconclusive. `measures` by engine digest, view and measure: one value a job.
    """

    category: str
    calibration_id: str
    since: date
    day: date
    scores: Values
    abstained: int
    jobs: int
    measures: Mapping[MeasureKey, Values]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One comparison; `engine` (digest) and `view` are None where it is of whole jobs."""

    measure: str
    engine: str | None
    view: str | None
    jobs: int
    items: int
    distance: float
    threshold: float

    @property
    def departed(self) -> bool:
        return self.distance >= self.threshold


def compare_day(
    sample: DaySample, baseline: CategoryBaseline | None, scores: Sequence[Values], rule: DriftRule
) -> list[Compared]:
    """All comparisons that the calibration allows and that have enough jobs, the farthest beyond its threshold first.

    `scores` are the calibration's fused scores by class, mapped as the sample's are. Without a baseline (a calibration
    of an older build) the scores alone are compared.
    """
    found = list(_compared(sample, baseline, scores, rule))
    return sorted(found, key=lambda one: (one.threshold - one.distance, one.measure, one.view or "", one.engine or ""))


def _compared(
    sample: DaySample, baseline: CategoryBaseline | None, scores: Sequence[Values], rule: DriftRule
) -> Iterator[Compared]:
    known = baseline.measures if baseline else {}
    level = rule.level(len(known) + 2)
    candidates = [_distribution(SCORE, None, None, sample.scores, scores, level, rule)]
    if baseline is not None:
        candidates.append(_abstention(sample, baseline, level, rule))
    for key, by_class in known.items():
        values = sample.measures.get(key)
        if values is not None:
            engine, view, measure = key
            classes = [np.concatenate(by_class)] if measure in QUALITY else by_class
            candidates.append(_distribution(measure, engine, view, values, classes, level, rule))
    yield from (one for one in candidates if one is not None)


def _distribution(
    measure: str,
    engine: str | None,
    view: str | None,
    values: Values,
    classes: Sequence[Values],
    level: float,
    rule: DriftRule,
) -> Compared | None:
    values = values[np.isfinite(values)]
    filled = [known for known in classes if len(known)]
    if len(values) < rule.least_jobs or not filled:
        return None
    items = min(len(known) for known in filled)
    by_chance = chance_distance(len(values), items, level)
    if by_chance >= 1:
        return None
    return Compared(
        measure=measure,
        engine=engine,
        view=view,
        jobs=len(values),
        items=items,
        distance=distance_to_mixture(values, filled),
        threshold=max(by_chance, rule.tolerance),
    )


def chance_distance(jobs: int, items: int, level: float) -> float:
    """The Kolmogorov-Smirnov distance that chance exceeds with probability `level` at most; see the module."""
    return math.sqrt(math.log(2 / level) / 2) * math.sqrt(1 / jobs + 1 / items)


def distance_to_mixture(values: Values, classes: Sequence[Values]) -> float:
    """Kolmogorov-Smirnov distance of `values` [n] to the nearest mixture of one or two samples.

    The supremum is convex in the share, so that a ternary search finds the least.
    """
    places = np.unique(np.concatenate([values, *classes]))
    own = _shares_up_to(values, places)
    first, last = _shares_up_to(classes[0], places), _shares_up_to(classes[-1], places)

    def distance(share: float) -> float:
        return float(np.abs(own - share * first - (1 - share) * last).max())

    low, high = 0.0, 1.0
    for _ in range(_STEPS if len(classes) > 1 else 0):
        one, other = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, other) if distance(one) <= distance(other) else (one, high)
    return distance((low + high) / 2)


def _shares_up_to(values: Values, places: Values) -> Values:
    """The empirical distribution function of `values` at `places`."""
    return np.searchsorted(np.sort(values), places, side="right") / len(values)


def _abstention(sample: DaySample, baseline: CategoryBaseline, level: float, rule: DriftRule) -> Compared | None:
    """A rise of the share of inconclusive jobs beyond that of both classes: a mixture lies between them.

    Each class is compared by Fisher's exact test, and both must be exceeded; whichever is the true larger one keeps
    the level.
    """
    classes = [(abstained, items) for abstained, items in baseline.abstained if items]
    if sample.jobs < rule.least_jobs or not classes:
        return None
    needed = _first_unlikely(sample.jobs, classes, level)
    if needed is None:
        return None
    usual = max(abstained / items for abstained, items in classes)
    return Compared(
        measure=ABSTENTION,
        engine=None,
        view=None,
        jobs=sample.jobs,
        items=min(items for _, items in classes),
        distance=sample.abstained / sample.jobs - usual,
        threshold=max(needed / sample.jobs - usual, rule.tolerance),
    )


def _first_unlikely(jobs: int, classes: Sequence[tuple[int, int]], level: float) -> int | None:
    """The fewest abstentions of `jobs` that are too many for each class; None where even all would not be."""

    def unlikely(hits: int) -> bool:
        return all(more_often(hits, jobs, abstained, items) <= level for abstained, items in classes)

    if not unlikely(jobs):
        return None
    low, high = 0, jobs  # unlikely(high), and not unlikely(low): 0 hits are never too many
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if unlikely(middle) else (middle, high)
    return high
