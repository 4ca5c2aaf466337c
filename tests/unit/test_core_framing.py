"""Framing is what the fits of a view's own references say, however many views are asked about at once."""

from __future__ import annotations

import statistics
from math import hypot

import numpy as np
import pytest

from worker.core.alignment import (
    LOOSE_SHARE,
    MOST_FREE_ZOOM,
    MOST_SHIFT,
    MOST_ZOOM,
    Fits,
    Framing,
    framings,
)

COARSE = {(16, 16): 64, (14, 14): 196, (17, 23): 88, (9, 12): 108}  # a grid's coarse cells: pooled from 16 on


def alone(fits: Fits, grid: tuple[int, int]) -> Framing:
    """Of one view, in plain Python."""
    placed = max(fits.inliers.tolist()) / COARSE[grid]
    if placed >= LOOSE_SHARE:
        return Framing(placed=placed, off_frame=0.0)
    zoom, free = (statistics.median((m[0, 0] + m[1, 1]) / 2 for m in affine) for affine in (fits.affine, fits.free))
    moves = fits.affine[fits.inliers.tolist().index(max(fits.inliers.tolist()))]
    rows, cols = (grid[0] - 1) / 2, (grid[1] - 1) / 2
    down, over = (rows * moves[0, i] + cols * moves[1, i] + moves[2, i] for i in range(2))
    shift = hypot(down, over) / max(grid)
    return Framing(placed=placed, off_frame=max(0.0, -zoom / MOST_ZOOM, -free / MOST_FREE_ZOOM, shift / MOST_SHIFT))


def fits_of(rng: np.random.Generator, count: int, grid: tuple[int, int]) -> Fits:
    def affine() -> np.ndarray:
        return (rng.normal(size=(count, 3, 2)) * [[0.05], [0.05], [1.0]]).astype(np.float32)

    inliers = rng.integers(0, COARSE[grid], count)
    inliers[-1] = inliers[0]  # of equally near ones the first counts
    return Fits(inliers=inliers, affine=affine(), free=affine())


@pytest.mark.parametrize("counted", [np.int64, np.float32])
def test_each_view_lies_over_its_references_as_it_does_alone(counted: type[np.generic]) -> None:
    rng = np.random.default_rng(4)
    grids = [list(COARSE)[number % len(COARSE)] for number in range(60)]
    counts = [int(count) for count in rng.integers(1, 8, len(grids))]
    views = [fits_of(rng, count, grid) for count, grid in zip(counts, grids, strict=True)]
    together = Fits(
        inliers=np.concatenate([one.inliers for one in views]).astype(counted),
        affine=np.concatenate([one.affine for one in views]),
        free=np.concatenate([one.free for one in views]),
    )
    found = framings(together, counts, grids)
    for framing, one, grid in zip(found, views, grids, strict=True):
        want = alone(one, grid)
        assert framing.placed == want.placed
        assert framing.off_frame == pytest.approx(want.off_frame, rel=1e-5)
    loose = sum(one.off_frame > 0 for one in found)
    assert 10 < loose < 50, "both kinds are among them"


def one_view(zoom: float = 0.0, free_zoom: float = 0.0, shift: float = 0.0, inliers: int = 30) -> Framing:
    """Over one reference, on a grid of 16 x 16. Zooms keep the centre where it is."""

    def about_centre(by: float) -> np.ndarray:
        return np.array([[[by, 0], [0, by], [-7.5 * by, -7.5 * by]]], np.float32)

    affine = about_centre(zoom)
    affine[0, 2, 1] += shift
    fits = Fits(inliers=np.array([inliers]), affine=affine, free=about_centre(free_zoom))
    (found,) = framings(fits, [1], [(16, 16)])
    return found


def test_what_is_off_the_frame() -> None:
    assert one_view() == Framing(placed=30 / 64, off_frame=0.0)
    assert one_view(zoom=-0.06).off_frame == pytest.approx(2, rel=1e-5)
    assert one_view(free_zoom=-0.06).off_frame == pytest.approx(1, rel=1e-5)
    assert one_view(shift=-16 * 0.18).off_frame == pytest.approx(3, rel=1e-5)
    assert one_view(zoom=0.3, free_zoom=0.3).off_frame == pytest.approx(0, abs=1e-5), "a wider section shows all"
    assert one_view(zoom=-0.3, shift=9.0, inliers=39) == Framing(placed=39 / 64, off_frame=0.0)
