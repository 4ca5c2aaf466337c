"""What decides: category profiles and score calibrations, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Rectangle = tuple[float, float, float, float]  # left, top, right, bottom as fractions of the view
CellKey = tuple[str, str, str, str]  # category, view, engine digest, backend
MeasureKey = tuple[str, str, str]  # engine digest, view, measure
ByClass = tuple[NDArray[np.float64], NDArray[np.float64]]  # of genuine and of counterfeit items
POOLED = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityLimits:
    """A view outside these is named in the reasons and asked for again. Units: see engines.decode.QualityMeasures."""

    min_sharpness: float = 0.0
    min_brightness: float = 0.0
    max_brightness: float = 1.0
    max_clipped: float = 1.0
    max_glare: float = 1.0
    min_placed: float = 0.0  # see core.alignment


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewRequirement:
    """One role of a category. `masked` regions vary by nature (serial digits) and do not count as deviation.
    `quality` takes the place of the category's limits: a plain lining is never as sharp as a seam."""

    view: str
    required: bool
    critical: bool = False
    masked: tuple[Rectangle, ...] = ()
    quality: QualityLimits | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryProfile:
    """`alpha_accept` bounds fakes called genuine, `alpha_reject` genuine called fake; `prior_genuine` is declared."""

    category: str
    views: tuple[ViewRequirement, ...]
    alpha_accept: float = 0.01
    alpha_reject: float = 0.02
    prior_genuine: float = 0.5
    min_references: int = 2
    quality: QualityLimits = QualityLimits()

    def limits_of(self, view: str) -> QualityLimits:
        """The view's own where it has some."""
        own = next((requirement.quality for requirement in self.views if requirement.view == view), None)
        return own or self.quality


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewCalibration:
    """Logistic map from a view's features to log-odds of genuine, fitted for one cell (score calibration).

    `weights` [f] and `bias` act on features standardised by `mean` [f] and `scale` [f]; the features and their order
    are core.fusion.VIEW_FEATURES. `level` says what was pooled: cell, category or global.
    """

    weights: NDArray[np.float64]
    bias: float
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    n: int
    level: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Posterior:
    """log-odds of genuine at even priors = `slope` * fused score + `intercept`, kept within +-`limit`.

    `limit` is log(n + 1) of the smaller class: n items attest to no more than that.
    """

    slope: float = 1.0
    intercept: float = 0.0
    limit: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryBaseline:
    """How the calibration's items of one category were distributed, for core.drift to compare jobs with.

    `abstained`: how many were inconclusive when held out, and of how many; genuine items first, as in `measures`, which
    has one value an item, unordered.
    """

    abstained: tuple[tuple[int, int], tuple[int, int]]
    measures: Mapping[MeasureKey, ByClass]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreCalibration:
    """The score calibration of one set of engines.

    Category and view "*" stand for what was pooled over them; a look-up tries the cell, the category, then global.

    `genuine_scores` and `counterfeit_scores` by category are the fused scores of the conformal calibration items,
    ascending, disjoint from the references and from the items that fitted `views`. `jitter` is the measured spread of
    a fused score over batch sizes and neighbours: a score that close to a threshold is inconclusive.
    """

    calibration_id: str
    backend: str
    engine_digests: frozenset[str]
    views: Mapping[CellKey, ViewCalibration]
    genuine_scores: Mapping[str, NDArray[np.float64]]
    counterfeit_scores: Mapping[str, NDArray[np.float64]]
    levels: Mapping[str, str] = field(default_factory=dict)  # category -> category | global
    min_references: int = 0
    jitter: float = 0.0
    posteriors: Mapping[str, Posterior] = field(default_factory=dict)  # by category, as the scores
    baselines: Mapping[str, CategoryBaseline] = field(default_factory=dict)  # by category; empty in older ones


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Profiles by category and the active calibrations; empty means that every verdict is inconclusive."""

    profiles: Mapping[str, CategoryProfile] = field(default_factory=dict)
    calibrations: tuple[ScoreCalibration, ...] = ()
