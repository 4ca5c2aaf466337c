"""Deviation: alignment is found, forged and missing parts show where they are, and the search is what it says."""

from __future__ import annotations

import numpy as np
import pytest
from core_goods import DEPTH, GRID, Goods, unit

from worker.core import deviation as module
from worker.core.alignment import Alignment, align
from worker.core.deviation import REACH, SPREAD_UNKNOWN, deviation, mask_of, patch_distances, spread_of

GOODS = Goods(noise=0.15)


def references(count: int = 4) -> np.ndarray:
    return np.stack([GOODS.reference("a", "logo", n).patches for n in range(count)])


def test_a_shift_is_recovered() -> None:
    probe = GOODS.photo("a", "logo", "shifted", shift=(2, -1))
    found = align(probe.patches, references(), GRID)
    inner = (slice(None), slice(4, 12), slice(4, 12))
    rows, cols = np.mgrid[4:12, 4:12]
    assert found.aligned.all()
    assert np.abs(found.rows[inner] - (rows + 2)).max() <= 1
    assert np.abs(found.cols[inner] - (cols - 1)).max() <= 1


def zoomed(section: slice) -> np.ndarray:
    """Patches of a fresh specimen as if the camera had come nearer: a section of its cells, each seen twice."""
    cells = GOODS.photo("a", "logo", "fresh").patches.reshape(*GRID, DEPTH)[section, section]
    return np.repeat(np.repeat(cells, 2, axis=0), 2, axis=1).reshape(-1, DEPTH)


def test_a_section_of_the_references_is_told_from_a_forgery() -> None:
    refs = references()
    fresh = align(GOODS.photo("a", "logo", "fresh").patches, refs, GRID)
    forged = align(GOODS.photo("a", "logo", "s", forged=3.0).patches, refs, GRID)
    near, corner = (align(zoomed(part), refs, GRID) for part in (slice(4, 12), slice(7, 15)))
    assert fresh.placed > 0.6 > max(near.placed, corner.placed)
    assert fresh.off_frame == 0.0
    assert min(near.off_frame, corner.off_frame) > 1 > forged.off_frame


def test_a_genuine_specimen_is_typical_and_a_shifted_one_too() -> None:
    refs = references()
    spread = spread_of(refs, GRID).cells
    for shift in ((0, 0), (2, 1)):
        probe = GOODS.photo("a", "logo", "fresh", shift=shift).patches
        found = deviation(probe, refs, GRID, spread)
        assert found.aligned
        assert 0.5 < np.median(found.cells) < 1.5


def test_a_forged_block_is_the_peak() -> None:
    refs = references()
    spread = spread_of(refs, GRID).cells
    forged = deviation(GOODS.photo("a", "logo", "s", forged=2.0).patches, refs, GRID, spread)
    genuine = deviation(GOODS.photo("a", "logo", "s").patches, refs, GRID, spread)
    row, col = np.unravel_index(forged.cells.argmax(), GRID)
    assert 4 <= row <= 9 and 4 <= col <= 9
    assert forged.scalar > 2 * genuine.scalar


def test_a_part_missing_from_the_probe_shows() -> None:
    """The probe's filler patches all exist in the references nearby: only the way back can tell."""
    rng = np.random.default_rng(0)
    cells = np.tile(unit(rng.normal(size=(1, 1, DEPTH))), (*GRID, 1))
    part = cells.copy()
    part[8, 8] = unit(rng.normal(size=DEPTH))
    reference = np.rint(part.reshape(1, -1, DEPTH) * 127).astype(np.int8)
    distances, _ = patch_distances(cells.reshape(-1, DEPTH), reference, GRID)
    assert np.unravel_index(distances.argmax(), GRID) == (8, 8)
    assert distances[8, 8] > 0.3


def test_masked_rectangles_do_not_count() -> None:
    refs = references()
    spread = spread_of(refs, GRID).cells
    probe = GOODS.photo("a", "logo", "s", forged=3.0).patches
    masked = deviation(probe, refs, GRID, spread, [(0.25, 0.25, 0.65, 0.65)])
    assert masked.cells[4:10, 4:10].max() == 0
    assert masked.scalar < deviation(probe, refs, GRID, spread).scalar
    assert deviation(probe, refs, GRID, spread, [(0, 0, 1, 1)]).scalar == 0
    assert mask_of((4, 4), [(0.0, 0.5, 0.5, 1.0)]).tolist() == [[False] * 4] * 2 + [[True, True, False, False]] * 2


def test_an_unrelated_photograph_is_not_aligned_and_deviates() -> None:
    refs = references()
    noise = unit(np.random.default_rng(3).normal(size=(GRID[0] * GRID[1], DEPTH)))
    found = deviation(noise, refs, GRID, spread_of(refs, GRID).cells)
    genuine = deviation(GOODS.photo("a", "logo", "s").patches, refs, GRID, spread_of(refs, GRID).cells)
    assert not found.aligned
    assert found.scalar > 2 * genuine.scalar


def test_local_search_equals_a_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    refs = references(2)
    probe = GOODS.photo("a", "logo", "loop", forged=1.0).patches
    rows, cols = np.mgrid[0 : GRID[0], 0 : GRID[1]]
    both = np.array([True, True])
    still = Alignment(rows=np.stack([rows] * 2), cols=np.stack([cols] * 2), aligned=both, placed=1.0, off_frame=0.0)
    monkeypatch.setattr(module, "align", lambda *_: still)
    distances, _ = patch_distances(probe, refs, GRID)
    assert np.allclose(distances, plain(probe, refs), atol=1e-5)


def plain(probe: np.ndarray, refs: np.ndarray) -> np.ndarray:
    """Each way by loops, the edge cells repeated outwards as the docstring of _warped says."""
    height, width = GRID
    cells, others = probe.reshape(*GRID, -1), refs.reshape(-1, *GRID, DEPTH) / 127
    result = np.zeros(GRID)
    reach = range(-REACH, REACH + 1)
    for y, x in np.ndindex(*GRID):
        near = [(min(max(y + i, 0), height - 1), min(max(x + j, 0), width - 1)) for i in reach for j in reach]
        forward = max(float(cells[y, x] @ o[place]) for o in others for place in near)
        inside = [(y + i, x + j) for i in reach for j in reach if 0 <= y + i < height and 0 <= x + j < width]
        backward = max(float(cells[place] @ o[y, x]) for o in others for place in inside)
        result[y, x] = max(0.0, 1 - min(forward, backward))
    return result


def test_spread_is_floored_and_assumed_for_one_reference() -> None:
    refs = references()
    assert (spread_of(refs[:1], GRID).cells == np.float32(SPREAD_UNKNOWN)).all()
    same = np.stack([refs[0]] * 3)
    assert spread_of(same, GRID).cells.min() >= np.float32(module.SPREAD_FLOOR)
    noisy = Goods(noise=0.6)
    found = spread_of(np.stack([noisy.reference("a", "logo", n).patches for n in range(4)]), GRID)
    assert found.typical_distance is not None and found.typical_distance > module.SPREAD_FLOOR
    assert (found.cells == np.float32(found.typical_distance)).all()


def test_grids_of_odd_and_small_shapes_work() -> None:
    rng = np.random.default_rng(1)
    for grid in ((7, 7), (17, 19), (3, 30)):
        refs = np.rint(unit(rng.normal(size=(2, grid[0] * grid[1], 8))) * 127).astype(np.int8)
        found = deviation(refs[0].astype(np.float32) / 127, refs, grid, np.ones(grid, np.float32))
        assert found.cells.shape == grid
        assert found.scalar < 0.02
