"""What jobs are compared with to see drift: how the score calibration's own items were distributed.

Taken from the items that gave the conformal scores, judged as they were when held out. Kept small: one value an item,
four digits, at most MOST_ITEMS a class, chosen by a hash of their photograph.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from schemas.codes import ReasonCode, Verdict
from worker.core.decision import Judgement, job_log_odds
from worker.core.drift import QUALITY
from worker.core.evidence import ViewMatch
from worker.core.labelled import LabelledEvidence
from worker.core.policy import POOLED, ByClass, CategoryBaseline, MeasureKey, ScoreCalibration

MOST_ITEMS = 500  # a class, view and measure
SCORE_DIGITS = 9  # what both sides are rounded to, so that scores at the posterior's limit are equal
# The first reason of a job that no calibration item can stand for: what was sent, or what is enrolled, is to blame.
NOT_COMPARABLE = frozenset(
    {
        ReasonCode.NO_CATEGORY_PROFILE,
        ReasonCode.NO_CALIBRATION,
        ReasonCode.NO_REFERENCES,
        ReasonCode.TOO_FEW_REFERENCES,
        ReasonCode.MISSING_REQUIRED_VIEW,
        ReasonCode.IMAGE_REUSED,
    }
)
# The first reason of an inconclusive job that was scored and that nothing stood in the way of.
UNDECIDED = frozenset(
    {
        ReasonCode.AMBIGUOUS,
        ReasonCode.UNLIKE_ANYTHING_KNOWN,
        ReasonCode.SCORE_NEAR_THRESHOLD,
        ReasonCode.TOO_FEW_CALIBRATION_SAMPLES,
    }
)

Judged = tuple[LabelledEvidence, Judgement]


def is_comparable(first_reason: str | None) -> bool:
    """Whether a job with this first reason may stand beside the calibration's items."""
    return first_reason is not None and first_reason not in NOT_COMPARABLE


def was_decidable(verdict: str, first_reason: str | None) -> bool:
    """Whether its score is exchangeable with the calibration's conformal scores."""
    return verdict != Verdict.INCONCLUSIVE or first_reason in UNDECIDED


def baselines_of(judged: Mapping[str, Sequence[Judged]]) -> dict[str, CategoryBaseline]:
    """By category, from the held-out items and what was said of them."""
    return {category: _baseline(items) for category, items in sorted(judged.items())}


def score_classes(calibration: ScoreCalibration, category: str) -> tuple[NDArray[np.float64], ...]:
    """The conformal scores of both classes as a job's p_genuine gives them back; empty where it holds none."""
    known = category in calibration.genuine_scores and category in calibration.counterfeit_scores
    key = category if known else POOLED
    classes = (calibration.genuine_scores.get(key), calibration.counterfeit_scores.get(key))
    return tuple(
        np.round([job_log_odds(calibration, category, float(score)) for score in scores], SCORE_DIGITS)
        for scores in classes
        if scores is not None and len(scores)
    )


def scores_from(p_genuine: NDArray[np.float64], prior_genuine: float) -> NDArray[np.float64]:
    """Log-odds of genuine at even priors, from probabilities [n] at the category's declared prior."""
    inside = np.clip(p_genuine, 1e-12, 1 - 1e-12)
    prior = min(max(prior_genuine, 1e-6), 1 - 1e-6)
    odds = np.log(inside / (1 - inside)) - math.log(prior / (1 - prior))
    return np.asarray(np.round(odds, SCORE_DIGITS))


def measures_of(similarity: float | None, deviation: float | None, quality: Mapping[str, float]) -> dict[str, float]:
    """A view's measures by name, those that are finite numbers."""
    named = {"similarity": similarity, "deviation": deviation} | {name: quality.get(name) for name in QUALITY}
    return {name: float(value) for name, value in named.items() if value is not None and math.isfinite(value)}


def _baseline(judged: Sequence[Judged]) -> CategoryBaseline:
    usable = [(item, said) for item, said in judged if is_comparable(said.reasons[0].code)]
    genuine = [said for item, said in usable if item.genuine]
    fakes = [said for item, said in usable if not item.genuine]
    return CategoryBaseline(abstained=(_abstained(genuine), _abstained(fakes)), measures=_measures(usable))


def _abstained(said: Sequence[Judgement]) -> tuple[int, int]:
    return sum(judgement.verdict is Verdict.INCONCLUSIVE for judgement in said), len(said)


def _measures(judged: Iterable[Judged]) -> dict[MeasureKey, ByClass]:
    found: dict[MeasureKey, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    taken: dict[tuple[str, str, bool], int] = defaultdict(int)
    for match, genuine in _shuffled(judged):
        cell = match.probe.engine.digest, match.probe.view, genuine
        taken[cell] += 1
        if taken[cell] <= MOST_ITEMS:
            for name, value in measures_of(match.similarity, match.deviation, match.probe.quality).items():
                found[(*cell[:2], name)][0 if genuine else 1].append(float(f"{value:.4g}"))
    return {key: (_sorted(genuine), _sorted(fakes)) for key, (genuine, fakes) in sorted(found.items())}


def _shuffled(judged: Iterable[Judged]) -> Iterator[tuple[ViewMatch, bool]]:
    """Every view with its item's class, in an order that depends on nothing but the photographs."""
    views = [(match, item.genuine) for item, _ in judged for match in item.evidence.matches]
    ranked = sorted(views, key=lambda view: hashlib.sha256(view[0].probe.sha256.encode()).digest())
    return iter(ranked)


def _sorted(values: Sequence[float]) -> NDArray[np.float64]:
    return np.sort(np.asarray(values, np.float64))
