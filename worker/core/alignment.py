"""Coarse alignment of a probe's patch grid to each of its references.

Mutual nearest patches on the grid pooled by two give correspondences; an affine displacement is fitted to them by
iteratively reweighted least squares (Cauchy weights, fixed number of rounds), so there is no random sampling and the
same input gives the same answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Int8s = NDArray[np.int8]
Doubles = NDArray[np.float64]

POOL_FROM_CELLS = 16  # grids with a side shorter than this are matched as they are
POSITION_PENALTY = 0.1  # taken off the cosine of patches a quarter of the grid apart: repeated texture matches nearby
ROUNDS = 4
INLIER_CELLS = 3.0  # residual, in cells of the full grid
MIN_INLIER_SHARE = 0.35  # of the coarse cells; unrelated photographs reach 0.23 by chance
MIN_INLIERS = 8
MAX_DISTORTION = 0.35  # largest entry of the affine's departure from the identity
# Chosen on the demo's goods with the encoders before the shipped ones: undegraded photographs placed 0.59 of their
# cells or more, crops to six tenths of the side 0.40 at most; forged ones, which placed as few as 0.25, stayed within
# half of what is allowed here in zoom and shift. What the shipped ones make of it: `python -m demo.framing`.
LOOSE_SHARE = 0.6  # above, the framing is not looked into
MOST_ZOOM = 0.03  # of the fit that prefers near matches
MOST_FREE_ZOOM = 0.06  # of the fit that does not, which finds a section far off the centre
MOST_SHIFT = 0.06  # of the grid's side


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """`rows` and `cols` [n, h, w]: the reference cell under each probe cell, rounded and clipped to the grid.

    `aligned` [n]: False where too few mutual patches agree on one affine; the cells are then the identity.
    `placed` is the share of coarse cells that agree, with the best reference. `off_frame`: how far the probe shows
    another section than the references do, 1 is more than photographers vary; 0 where most cells are placed.
    """

    rows: NDArray[np.intp]
    cols: NDArray[np.intp]
    aligned: NDArray[np.bool_]
    placed: float
    off_frame: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Framing:
    """How a probe lies over its references: `placed` and `off_frame` of its Alignment."""

    placed: float
    off_frame: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fits:
    """Of each pair of a probe and one of its references, wherever it was computed: on how many coarse cells one affine
    agrees [p], that affine [p, 3, 2], and the one of the fit that does not prefer near matches [p, 3, 2]."""

    inliers: NDArray[np.integer] | Floats
    affine: Floats
    free: Floats


def align(probe: Floats, references: Int8s, grid: tuple[int, int]) -> Alignment:
    """Align `probe` [h*w, d] to each of `references` [n, h*w, d]; rows need not be normalised."""
    fits = _fitted(probe, references, grid)
    enough = fits.inliers >= max(MIN_INLIERS, MIN_INLIER_SHARE * _coarse_count(grid))
    aligned = enough & (np.abs(fits.affine[:, :2]).max(axis=(1, 2)) <= MAX_DISTORTION)
    rows, cols = _cells_under(fits.affine * aligned[:, None, None], grid)
    (framing,) = framings(fits, [len(references)], [grid])
    return Alignment(rows=rows, cols=cols, aligned=aligned, placed=framing.placed, off_frame=framing.off_frame)


def framings(fits: Fits, counts: Sequence[int], grids: Sequence[tuple[int, int]]) -> list[Framing]:
    """How each of many views lies over its references: the first `counts[0]` of the pairs are the first view's, whose
    patches lie on `grids[0]`, and so on. Each view has at least one."""
    view = np.arange(len(counts)).repeat(counts)
    first = np.cumsum([0, *counts[:-1]])
    placed = np.maximum.reduceat(fits.inliers, first) / np.array([_coarse_count(grid) for grid in grids])
    nearest = fits.affine[np.lexsort((-fits.inliers, view))[first]]
    zoom, free_zoom = (-_zooms(affine, view, first, counts) for affine in (fits.affine, fits.free))
    shift = _shifts(nearest, np.array(grids))
    off_frame = np.maximum.reduce([zoom / MOST_ZOOM, free_zoom / MOST_FREE_ZOOM, shift / MOST_SHIFT]).clip(0)
    off_frame[placed >= LOOSE_SHARE] = 0
    pairs = zip(placed.tolist(), off_frame.tolist(), strict=True)
    return [Framing(placed=share, off_frame=departure) for share, departure in pairs]


def _fitted(probe: Floats, references: Int8s, grid: tuple[int, int]) -> Fits:
    factor = _pooled_by(grid)
    points, penalty = _coarse_cells(grid, factor)
    cosines = _cosines(_pooled(probe[None], grid, factor)[0], _pooled(references, grid, factor), grid[1] // factor)
    cosines -= penalty
    affine, inlier = _fit_mutual(points, cosines)
    inliers = inlier.sum(axis=1)
    loose = inliers.max() / len(points) < LOOSE_SHARE
    free = _fit_mutual(points, cosines + penalty)[0] if loose else affine  # which is not looked at
    return Fits(inliers=inliers, affine=affine, free=free)


def _fit_mutual(points: Floats, cosines: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """The affines [n, 3, 2] of the mutual nearest cells of `cosines` [n, c, c], and which cells are inliers [n, c]."""
    target, mutual = _mutual_nearest(cosines)
    affine, residual = _fit(points, points[target], mutual)
    return affine, mutual & (residual < INLIER_CELLS)


def _zooms(affine: Floats, view: NDArray[np.intp], first: NDArray[np.intp], counts: Sequence[int]) -> Doubles:
    """The median scale [v], less 1, over each view's references: below 0 where the probe shows a smaller section."""
    scales = (affine[:, 0, 0] + affine[:, 1, 1]) / 2
    ordered = scales[np.lexsort((scales, view))]
    last = np.array(counts) - 1
    return np.asarray((ordered[first + last // 2] + ordered[first + (last + 1) // 2]) / 2, np.float64)


def _shifts(affine: Floats, grids: NDArray[np.intp]) -> Doubles:
    """How far each affine [v, 3, 2] moves its grid's centre, over the grid's side [v]."""
    centres = (grids - 1) / 2
    moved = (centres[:, :, None] * affine[:, :2]).sum(axis=1) + affine[:, 2]
    return np.asarray(np.hypot(moved[:, 0], moved[:, 1]) / grids.max(axis=1), np.float64)


@lru_cache(maxsize=16)
def _coarse_count(grid: tuple[int, int]) -> int:
    factor = _pooled_by(grid)
    return (grid[0] // factor) * (grid[1] // factor)


def _pooled_by(grid: tuple[int, int]) -> int:
    return 2 if min(grid) >= POOL_FROM_CELLS else 1


@lru_cache(maxsize=16)
def _coarse_cells(grid: tuple[int, int], factor: int) -> tuple[Floats, Floats]:
    """Centres [c, 2] of the pooled cells in cells of the full grid (row, col), and the penalty [c, c] on distance."""
    height, width = grid[0] // factor, grid[1] // factor
    rows, cols = np.mgrid[0:height, 0:width]
    points = (np.stack([rows.ravel(), cols.ravel()], axis=1) * factor + (factor - 1) / 2).astype(np.float32)
    squared = ((points[:, None] - points[None]) ** 2).sum(axis=2)
    return points, (POSITION_PENALTY * squared / (max(grid) / 4) ** 2).astype(np.float32)


def _pooled(patches: Floats | Int8s, grid: tuple[int, int], factor: int) -> Floats:
    """Mean of factor x factor cells, L2-normalised: [n, h*w, d] -> [n, c, d]."""
    count, _, depth = patches.shape
    cells = patches.reshape(count, *grid, depth)
    height, width = grid[0] // factor * factor, grid[1] // factor * factor
    total = np.zeros((count, height // factor, width // factor, depth), np.float32)
    for i, j in np.ndindex(factor, factor):
        total += cells[:, i:height:factor, j:width:factor]
    flat = total.reshape(count, -1, depth)
    flat /= np.sqrt(np.einsum("ncd,ncd->nc", flat, flat)).clip(1e-12)[..., None]
    return flat


def _cosines(probe: Floats, references: Floats, width: int) -> Floats:
    """[n, c, c] from [c, d] and [n, c, d], one row of the grid at a time: a product that small stays on the calling
    thread, while a large one waits for BLAS threads that the encoder's cores are busy for."""
    count, cells, depth = references.shape
    products = probe.reshape(-1, width, depth) @ references[:, None].transpose(0, 1, 3, 2)
    return products.reshape(count, cells, -1)


def _mutual_nearest(scores: Floats) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """For scores [n, probe cells, reference cells]: the best reference cell of each probe cell, and if mutual."""
    forward = scores.argmax(axis=2)
    backward = scores.argmax(axis=1)
    references = np.arange(len(scores))[:, None]
    return forward, backward[references, forward] == np.arange(scores.shape[1])


def _fit(points: Floats, targets: Floats, mutual: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Affine displacements [n, 3, 2] (rows: row, col, 1) from `points` [c, 2] to `targets` [n, c, 2], and residuals.

    Cauchy weights; a ridge pulls the linear part to the identity so that few matches give a plain shift.
    """
    centre = points.mean(axis=0)
    design = np.concatenate([points - centre, np.ones((len(points), 1), np.float32)], axis=1)
    shift = targets - points
    ridge = np.diag(np.array([np.square(design[:, 0]).mean(), np.square(design[:, 1]).mean(), 1e-3], np.float32))
    weights = mutual.astype(np.float32)
    for scale in np.linspace(8.0, 2.0, ROUNDS, dtype=np.float32):
        weighted = design * weights[..., None]
        affine = np.linalg.solve(design.T @ weighted + ridge, weighted.transpose(0, 2, 1) @ shift)
        off = shift - design @ affine
        squared = off[..., 0] ** 2 + off[..., 1] ** 2
        weights = mutual / (1 + squared / scale**2)
    affine[:, 2] -= np.einsum("k,nkj->nj", centre, affine[:, :2])
    return affine.astype(np.float32), np.sqrt(squared, dtype=np.float32)


def _cells_under(affine: Floats, grid: tuple[int, int]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    rows, cols = np.mgrid[0 : grid[0], 0 : grid[1]].astype(np.float32)
    moved = np.stack([rows, cols, np.ones_like(rows)], axis=-1) @ affine[:, None]
    under_rows = np.rint(rows + moved[..., 0]).clip(0, grid[0] - 1).astype(np.intp)
    under_cols = np.rint(cols + moved[..., 1]).clip(0, grid[1] - 1).astype(np.intp)
    return under_rows, under_cols
