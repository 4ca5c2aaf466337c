"""A view and references of one item, drawn: near enough to lie over each other, each with noise of its own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worker.core.deviation import Floats, spread_of
from worker.core.gallery import int8_patches

GRID = (28, 28)
REFERENCES = 5


def genuine_view(rng: np.random.Generator, depth: int) -> tuple[Floats, NDArray[np.int8], Floats]:
    """Patches [h*w, depth] of the view, those of its references [n, h*w, depth], and their spread [h, w]."""
    field = rng.standard_normal((GRID[0] + 4, GRID[1] + 4, depth), np.float32)
    probe, *others = [_seen(rng, field) for _ in range(REFERENCES + 1)]
    references = int8_patches(np.stack(others))
    return probe, references, spread_of(references, GRID).cells


def unit(rows: Floats) -> Floats:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def _seen(rng: np.random.Generator, field: Floats) -> Floats:
    """The field from a place nearby."""
    down, over = rng.integers(0, 5, 2)
    cells = field[down : down + GRID[0], over : over + GRID[1]]
    return unit((cells + 0.3 * rng.standard_normal(cells.shape, np.float32)).reshape(-1, field.shape[2]))
