"""From matches to one score a job, over arrays of many jobs at once (DESIGN section 6, "Fuse").

Views give log-odds of genuine by a logistic map; a job's score is their weighted mean pulled half-way to its lowest
view (disagreement is evidence: a real logo on a fake bag), scaled down by what was not shown, and vetoed by a critical
view. Log-odds are at even priors; the declared prior enters in core.decision only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.core.evidence import ViewMatch
from worker.core.policy import ViewCalibration, ViewRequirement

Doubles = NDArray[np.float64]
Flags = NDArray[np.bool_]

# Not the margin to the nearest other SKU: it shrinks with every SKU enrolled, and a calibration would age with it.
VIEW_FEATURES = ("similarity", "log_deviation", "log_mean_deviation", "counterfeit_margin")
NEEDED_FEATURES = 3  # the first three must be finite; a missing margin counts as an average one
LOG_ODDS_LIMIT = 8.0  # no single view says more
PULL_TO_LOWEST = 0.5
VETO_LOG_ODDS = -4.0  # a critical view below p = 0.018 decides
CRITICAL_WEIGHT, REQUIRED_WEIGHT, OPTIONAL_WEIGHT = 2.0, 1.0, 0.5
_SMALLEST_DEVIATION = 1e-3
_LARGEST = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Fused:
    """By job: `scores` [j] (NaN where no view counts), `coverage` [j] of the profile's weight, `vetoed` [j, v]."""

    scores: Doubles
    coverage: Doubles
    vetoed: Flags


def features_of(match: ViewMatch) -> tuple[float, ...]:
    """VIEW_FEATURES of one match; NaN where a comparison is missing."""
    similarity = _or_nan(match.similarity)
    return (
        similarity,
        _log(_or_nan(match.deviation)),
        _log(float(match.deviation_map.mean()) if match.deviation_map is not None else math.nan),
        similarity - _or_nan(match.counterfeit_similarity),
    )


def is_comparable(features: Sequence[float]) -> bool:
    """As `comparable`, for the features of one match and without an array."""
    return all(math.isfinite(feature) for feature in features[:NEEDED_FEATURES])


def comparable(features: Doubles) -> Flags:
    """[v]: rows of `features` [v, f] whose needed features are finite."""
    return np.asarray(np.isfinite(features[:, :NEEDED_FEATURES]).all(axis=1))


def view_log_odds(features: Doubles, calibrations: Sequence[ViewCalibration | None]) -> Doubles:
    """Log-odds [v] of `features` [v, f], a calibration a row; NaN where there is none or a needed feature is missing.

    Sums run along the features of one row, so a row's result does not depend on its neighbours.
    """
    odds = np.full(len(features), np.nan)
    rows = [row for row, calibration in enumerate(calibrations) if calibration is not None]
    known = [calibration for calibration in calibrations if calibration is not None]
    if not known:
        return odds
    compared = comparable(features[rows])
    bounded = np.where(compared[:, None], np.clip(features[rows], -_LARGEST, _LARGEST), np.nan)
    standard = (bounded - np.stack([c.mean for c in known])) / np.stack([c.scale for c in known])
    standard[:, NEEDED_FEATURES:] = np.nan_to_num(standard[:, NEEDED_FEATURES:], nan=0.0)
    total = (standard * np.stack([c.weights for c in known])).sum(axis=1) + [c.bias for c in known]
    odds[rows] = np.clip(total, -LOG_ODDS_LIMIT, LOG_ODDS_LIMIT)
    return odds


def weight_of(requirement: ViewRequirement) -> float:
    if requirement.critical:
        return CRITICAL_WEIGHT
    return REQUIRED_WEIGHT if requirement.required else OPTIONAL_WEIGHT


def fuse(log_odds: Doubles, weights: Doubles, critical: Flags) -> Fused:
    """Fuse `log_odds` [j, v] (NaN: does not count) with the profiles' `weights` [j, v] (0: not of the profile)."""
    counted = np.isfinite(log_odds) & (weights > 0)
    used = np.where(counted, weights, 0.0)
    known = np.where(counted, log_odds, 0.0)
    some = used.sum(axis=1)
    mean = (used * known).sum(axis=1) / np.where(some > 0, some, np.nan)
    lowest = np.where(counted, log_odds, np.inf).min(axis=1, initial=np.inf)
    score = mean + PULL_TO_LOWEST * (lowest - mean)
    coverage = some / np.maximum(weights.sum(axis=1), 1e-12)
    score = np.where(score > 0, score * coverage, score)  # what was not shown cannot speak for the item
    vetoed = counted & critical & (log_odds <= VETO_LOG_ODDS)
    ceiling = np.where(vetoed, log_odds, np.inf).min(axis=1, initial=np.inf)
    return Fused(scores=np.minimum(score, ceiling), coverage=coverage, vetoed=vetoed)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _log(deviation: float) -> float:
    return math.log(max(deviation, _SMALLEST_DEVIATION)) if math.isfinite(deviation) else math.nan
