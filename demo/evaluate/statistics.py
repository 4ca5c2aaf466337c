"""The measures of an evaluation as plain functions of arrays: ROC areas, intervals over SKUs, pointing. NumPy alone;
tests compare them with scikit-learn and with counting."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engines import ranking

Doubles = NDArray[np.float64]
Flags = NDArray[np.bool_]
RESAMPLES = 2_000
PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A value and its 95 % interval; NaN where there is nothing to estimate it from."""

    value: float
    low: float
    high: float
    n: int


def auc(scores: Doubles, positive: Flags) -> float:
    """The area under the ROC curve; NaN where a class is missing."""
    return ranking.auc(scores[positive], scores[~positive])


def auc_estimate(scores: Doubles, positive: Flags, clusters: NDArray[np.intp], *, seed: int = 0) -> Estimate:
    """The area with a percentile bootstrap over `clusters` (SKUs): jobs of one SKU share its references."""
    wins = _wins(scores[positive], scores[~positive])
    weights = _resampled(clusters, seed)
    areas = _auc_of(wins, weights[:, positive], weights[:, ~positive])
    return _estimate(auc(scores, positive), areas, len(scores))


def rate_estimate(hits: Doubles, clusters: NDArray[np.intp], *, seed: int = 0) -> Estimate:
    """A mean of `hits` (0 to 1 each) with a percentile bootstrap over clusters."""
    if not len(hits):
        return Estimate(value=float("nan"), low=float("nan"), high=float("nan"), n=0)
    weights = _resampled(clusters, seed)
    with np.errstate(invalid="ignore"):
        rates = (weights @ hits) / weights.sum(axis=1)
    return _estimate(float(hits.mean()), rates, len(hits))


def permuted_auc(scores: Doubles, positive: Flags, *, seed: int = 0, times: int = 1_000) -> Estimate:
    """What the area is when labels are dealt anew: its mean and the middle 95 %. Should be 0.5, or the harness errs."""
    rng = np.random.default_rng(seed)
    areas = np.array([auc(scores, rng.permutation(positive)) for _ in range(times)])
    low, high = np.nanpercentile(areas, PERCENTILES)
    return Estimate(value=float(areas.mean()), low=float(low), high=float(high), n=len(scores))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointed:
    """Whether a map's peak lies where the forgery is, and how often a random cell would."""

    hit: float
    chance: float


def pointed(cells: NDArray[np.uint8], changed: Flags) -> Pointed | None:
    """`cells` [h, w] is a deviation map, `changed` [side, side] the pixels that the forgery changed; None where those
    are none. The peak must lie in the changed cells dilated by one cell; of several equal peaks (8-bit maps end at
    255), the share that does."""
    truth = touched_cells(changed, (cells.shape[0], cells.shape[1]))
    if not truth.any():
        return None
    allowed = dilated(truth)
    return Pointed(hit=float(allowed[cells == cells.max()].mean()), chance=float(allowed.mean()))


def touched_cells(changed: Flags, grid: tuple[int, int]) -> Flags:
    """[h, w]: cells that any changed pixel lies in."""
    found = np.zeros(grid, np.bool_)
    rows, cols = np.nonzero(changed)
    found[rows * grid[0] // changed.shape[0], cols * grid[1] // changed.shape[1]] = True
    return found


def dilated(cells: Flags) -> Flags:
    """Grown by one cell in all eight directions."""
    padded = np.pad(cells, 1)
    height, width = cells.shape
    grown = np.zeros_like(cells)
    for row in range(3):
        for col in range(3):
            grown |= padded[row : row + height, col : col + width]
    return grown


def _wins(positive: Doubles, negative: Doubles) -> Doubles:
    """[p, n]: 1 where the positive is above, 0.5 where equal."""
    return np.asarray((positive[:, None] > negative) + 0.5 * (positive[:, None] == negative), np.float64)


def _auc_of(wins: Doubles, positive: Doubles, negative: Doubles) -> Doubles:
    """Weighted areas [b] from weights [b, p] and [b, n]."""
    with np.errstate(invalid="ignore", divide="ignore"):
        total = positive.sum(axis=1) * negative.sum(axis=1)
        return np.asarray(np.einsum("bp,bp->b", positive, negative @ wins.T) / total, np.float64)


def _resampled(clusters: NDArray[np.intp], seed: int) -> Doubles:
    """[resamples, items]: how often each item's cluster was drawn."""
    names, place = np.unique(clusters, return_inverse=True)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=RESAMPLES)
    return drawn[:, place].astype(np.float64)


def _estimate(value: float, resampled: Doubles, n: int) -> Estimate:
    known = resampled[np.isfinite(resampled)]
    low, high = np.percentile(known, PERCENTILES) if len(known) else (float("nan"), float("nan"))
    return Estimate(value=value, low=float(low), high=float(high), n=n)
