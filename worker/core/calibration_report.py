"""What a score calibration promises and what it kept on items held out, by category and forgery family."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from schemas.codes import ReasonCode, Verdict
from worker.core.conformal import items_needed
from worker.core.decision import Judgement, judge, thresholds
from worker.core.labelled import LabelledEvidence
from worker.core.policy import POOLED, CategoryProfile, Policy, ScoreCalibration

UNNAMED_FAMILY = "unnamed"
Z_95 = 1.959963984540054
RELIABILITY_BINS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Held-out items of one kind and what was said of them."""

    items: int = 0
    authentic: int = 0
    counterfeit: int = 0

    @property
    def abstained(self) -> int:
        return self.items - self.authentic - self.counterfeit


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityBin:
    """Held-out items whose stated probability of genuine lies together: its mean, the share that is genuine and that
    share's 95 % interval, all at the category's declared prior. `n` counts items."""

    stated: float
    observed: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryReport:
    """One category: its conformal n and the n that its budgets need, and the held-out tallies.

    `families` splits the counterfeits; `reasons` counts the reasons given first where the verdict was inconclusive.
    """

    category: str
    level: str
    genuine_n: int
    counterfeit_n: int
    genuine_needed: int
    counterfeit_needed: int
    genuine: Tally
    counterfeit: Tally
    families: Mapping[str, Tally]
    reasons: Mapping[ReasonCode, int]
    alpha_accept: float
    alpha_reject: float
    reliability: tuple[ReliabilityBin, ...]

    @property
    def supported(self) -> bool:
        """False where a budget is refused: that class is never rejected, so its jobs stay inconclusive."""
        return self.genuine_n >= self.genuine_needed and self.counterfeit_n >= self.counterfeit_needed


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewCell:
    category: str
    view: str
    engine: str
    n: int
    level: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationReport:
    calibration_id: str
    categories: tuple[CategoryReport, ...]
    cells: tuple[ViewCell, ...]


def judge_held_out(
    folds: Iterable[tuple[Sequence[LabelledEvidence], Policy]],
) -> dict[str, list[tuple[LabelledEvidence, Judgement]]]:
    """Judge each fold under the policy that left it out; by category."""
    judged: dict[str, list[tuple[LabelledEvidence, Judgement]]] = defaultdict(list)
    for held_out, policy in folds:
        for item, judgement in zip(held_out, judge([i.evidence for i in held_out], policy), strict=True):
            judged[item.evidence.job.category].append((item, judgement))
    return judged


def measure(
    items: Sequence[LabelledEvidence],
    calibration: ScoreCalibration,
    judged: Mapping[str, Sequence[tuple[LabelledEvidence, Judgement]]],
    profiles: Mapping[str, CategoryProfile],
) -> CalibrationReport:
    """Count what was said of the items that were held out."""
    categories = sorted({item.evidence.job.category for item in items})
    return CalibrationReport(
        calibration_id=calibration.calibration_id,
        categories=tuple(_category(profiles[name], calibration, judged.get(name, ())) for name in categories),
        cells=_cells(calibration),
    )


def wilson_interval(hits: int, trials: int) -> tuple[float, float]:
    """The 95 % score interval of a rate (Wilson 1927); (0, 1) without trials."""
    if not trials:
        return 0.0, 1.0
    rate, square = hits / trials, Z_95**2
    centre = (rate + square / (2 * trials)) / (1 + square / trials)
    half = Z_95 / (1 + square / trials) * math.sqrt(rate * (1 - rate) / trials + square / (4 * trials**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def reliability(stated: Sequence[tuple[float, bool]], prior_genuine: float) -> tuple[ReliabilityBin, ...]:
    """Pairs of (stated probability of genuine, truth) in ten equal bins, those without an item left out.

    The items' own mixture is not the declared one, so each class is weighed to its share of the prior; the interval is
    Wilson's of the plain share, carried over by the same odds. Empty where a class is missing.
    """
    genuine = sum(truth for _, truth in stated)
    if not 0 < genuine < len(stated) or not 0 < prior_genuine < 1:
        return ()
    weights = {True: prior_genuine / genuine, False: (1 - prior_genuine) / (len(stated) - genuine)}
    bins: dict[int, list[tuple[float, bool]]] = defaultdict(list)
    for p, truth in stated:
        bins[min(int(p * RELIABILITY_BINS), RELIABILITY_BINS - 1)].append((p, truth))
    return tuple(_bin(bins[place], weights) for place in sorted(bins))


def _bin(pairs: Sequence[tuple[float, bool]], weights: Mapping[bool, float]) -> ReliabilityBin:
    genuine = sum(truth for _, truth in pairs)
    low, high = wilson_interval(genuine, len(pairs))
    total = sum(weights[truth] for _, truth in pairs)
    return ReliabilityBin(
        stated=sum(weights[truth] * p for p, truth in pairs) / total,
        observed=_weighed(genuine / len(pairs), weights),
        low=_weighed(low, weights),
        high=_weighed(high, weights),
        n=len(pairs),
    )


def _weighed(share: float, weights: Mapping[bool, float]) -> float:
    genuine, counterfeit = share * weights[True], (1 - share) * weights[False]
    return genuine / (genuine + counterfeit)


def _category(
    profile: CategoryProfile, calibration: ScoreCalibration, judged: Sequence[tuple[LabelledEvidence, Judgement]]
) -> CategoryReport:
    limits = thresholds(calibration, profile)
    fakes = [(item, judgement) for item, judgement in judged if not item.genuine]
    names = sorted({item.family or UNNAMED_FAMILY for item, _ in fakes})
    return CategoryReport(
        category=profile.category,
        level=calibration.levels.get(profile.category, "global"),
        genuine_n=len(limits.genuine) if limits else 0,
        counterfeit_n=len(limits.counterfeit) if limits else 0,
        genuine_needed=items_needed(profile.alpha_reject),
        counterfeit_needed=items_needed(profile.alpha_accept),
        genuine=_tally(judgement for item, judgement in judged if item.genuine),
        counterfeit=_tally(judgement for _, judgement in fakes),
        families={name: _tally(j for item, j in fakes if (item.family or UNNAMED_FAMILY) == name) for name in names},
        reasons=dict(Counter(j.reasons[0].code for _, j in judged if j.verdict is Verdict.INCONCLUSIVE)),
        alpha_accept=profile.alpha_accept,
        alpha_reject=profile.alpha_reject,
        reliability=reliability(
            [(j.p_genuine, item.genuine) for item, j in judged if j.p_genuine is not None], profile.prior_genuine
        ),
    )


def _tally(judgements: Iterable[Judgement]) -> Tally:
    said = Counter(judgement.verdict for judgement in judgements)
    return Tally(items=said.total(), authentic=said[Verdict.AUTHENTIC], counterfeit=said[Verdict.COUNTERFEIT])


def _cells(calibration: ScoreCalibration) -> tuple[ViewCell, ...]:
    return tuple(
        ViewCell(category=category, view=view, engine=digest, n=found.n, level=found.level)
        for (category, view, digest, _), found in sorted(calibration.views.items())
        if view != POOLED
    )
