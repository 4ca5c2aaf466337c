"""What a launch of the kernels answers, taken apart: each view its own numbers, and how it lies over its references."""

from __future__ import annotations

import numpy as np

from engines.gpu.deviating import OVERLAY, answer_floats, read_answer
from worker.adapters.device_matcher import deviations_of

GRID = (16, 17)
COUNTS = (2, 1, 3)
COARSE = 64


def answer(overlays: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """As compare.cu lays it out; the map of view n is all n."""
    maps = np.repeat(np.arange(len(COUNTS), dtype=np.float32), GRID[0] * GRID[1])
    return np.concatenate([totals.ravel(), maps, overlays.ravel()]).astype(np.float32)


def test_each_view_gets_its_own_numbers() -> None:
    totals = np.array([[4.5, 0.25, 0, 1], [1.5, 0.125, 1, 1], [2.5, 0.5, 1, 0]])
    overlays = np.zeros((sum(COUNTS), OVERLAY))
    overlays[:, 0] = [8, 16, 48, 1, 2, 3]
    overlays[0, [1, 4]] = -0.5  # of the first view's pairs one is nearer and does not move: the median zoom is -0.25
    overlays[0, [5, 6]] = 0.5 * 7.5, 0.5 * 8
    numbers = answer(overlays, totals)
    assert len(numbers) == answer_floats(len(COUNTS), GRID[0] * GRID[1], sum(COUNTS))
    read = read_answer(numbers, COUNTS, GRID)
    assert [len(one.overlays) for one in read] == list(COUNTS)
    first, second, broken = deviations_of(read)
    assert first is not None and second is not None
    assert broken is None, "its patches are no numbers"
    assert (first.scalar, first.mean_distance, first.aligned, first.placed) == (4.5, 0.25, False, 16 / COARSE)
    assert (second.scalar, second.mean_distance, second.aligned, second.placed) == (1.5, 0.125, True, 48 / COARSE)
    assert first.cells.shape == GRID and (first.cells == 0).all() and (second.cells == 1).all()
    assert np.isclose(first.off_frame, 0.25 / 0.03) and second.off_frame == 0


def test_the_two_affines_are_told_apart() -> None:
    """Rows: row, col, 1; columns: displacement of the row and of the column."""
    totals = np.array([[1.0, 0.1, 0, 1]] * len(COUNTS))
    overlays = np.zeros((sum(COUNTS), OVERLAY))
    overlays[2, 5] = 17 * 0.12  # the second view lies twice what is allowed too low
    overlays[3:, [7, 10]] = -0.18  # the third shows a section that only the other fit finds
    first, second, third = deviations_of(read_answer(answer(overlays, totals), COUNTS, GRID))
    assert first is not None and second is not None and third is not None
    assert first.off_frame == 0
    assert np.isclose([second.off_frame, third.off_frame], [2, 3]).all()
