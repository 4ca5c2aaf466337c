"""Where a probe departs from its references, patch by patch (DESIGN section 6, "Deviation").

Each probe patch is compared with the aligned references' patches within +-2 cells, and each reference patch with the
probe's, so that missing parts show; the larger of the two distances (1 - cosine) stands. Divided by the references'
own leave-one-out distance, the mean over the view: 1 is a typical cell of a genuine item. Not place by place: of a
handful of references the spread at one place is mostly chance, and it is widest at the very edges that forgers move.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from worker.core.alignment import Alignment, align
from worker.core.policy import Rectangle

Floats = NDArray[np.float32]
Int8s = NDArray[np.int8]

REACH = 2  # cells searched to each side
BLOCK = 4  # columns of one matrix product
TOP_SHARE = 0.05  # the scalar deviation is the mean of this share of the cells, the largest
INT8_ONE = 127.0
SPREAD_FLOOR = 0.02  # distance; below it, differences are numerical and not of the goods
SPREAD_UNKNOWN = 0.15  # distance assumed typical where one reference gives no spread


@dataclass(frozen=True, slots=True, kw_only=True)
class Deviation:
    """`cells` [h, w], 1 is typical of genuine, 0 where masked; `scalar` is the mean of its largest 5 %.

    `mean_distance` is the mean of the distances themselves, masked cells and all; `placed` and `off_frame` are as
    core.alignment's.
    """

    cells: Floats
    scalar: float
    aligned: bool
    mean_distance: float
    placed: float
    off_frame: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """`cells` [h, w]: the references' mean leave-one-out distance, floored, the same for every cell.

    `typical_distance` is that mean before the floor; None where one reference gives no spread.
    """

    cells: Floats
    typical_distance: float | None


def deviation(
    probe: Floats, references: Int8s, grid: tuple[int, int], spread: Floats, masked: Sequence[Rectangle] = ()
) -> Deviation:
    """Compare `probe` [h*w, d] (rows L2-normalised) with `references` [n, h*w, d] (int8, value / 127)."""
    distances, alignment = patch_distances(probe, references, grid)
    cells = distances / spread
    kept = ~mask_of(grid, masked)
    cells = np.where(kept, cells, np.float32(0))
    mean_distance = float(distances.mean(dtype=np.float64))
    return Deviation(
        cells=cells,
        scalar=_top_mean(cells[kept]),
        aligned=bool(alignment.aligned.any()),
        mean_distance=mean_distance,
        placed=alignment.placed,
        off_frame=alignment.off_frame,
    )


class SpreadLater:
    """`spread_of` of a set, measured when it is first asked for: a gallery has thousands of sets, and a job needs six.
    Any thread; two that ask at once measure the same."""

    def __init__(self, references: Int8s, grid: tuple[int, int]) -> None:
        self._references = references
        self._grid = grid
        self._found: Spread | None = None

    @property
    def spread(self) -> Spread:
        found = self._found
        if found is None:
            found = self._found = spread_of(self._references, self._grid)
        return found


def spread_of(references: Int8s, grid: tuple[int, int]) -> Spread:
    """The leave-one-out patch distance among `references` [n, h*w, d]."""
    count = len(references)
    if count < 2:
        return Spread(cells=np.full(grid, SPREAD_UNKNOWN, np.float32), typical_distance=None)
    total = 0.0
    for left_out in range(count):
        probe = references[left_out].astype(np.float32) / np.float32(INT8_ONE)
        distances, _ = patch_distances(probe, np.delete(references, left_out, axis=0), grid)
        total += float(distances.mean(dtype=np.float64))
    typical = total / count
    return Spread(cells=np.full(grid, max(SPREAD_FLOOR, typical), np.float32), typical_distance=typical)


def patch_distances(probe: Floats, references: Int8s, grid: tuple[int, int]) -> tuple[Floats, Alignment]:
    """Distances [h, w] (1 - cosine, not normalised by spread), free ones where no reference could be aligned."""
    alignment = align(probe, references, grid)
    if not alignment.aligned.any():
        return _free_distances(probe, references, grid), alignment
    return _aligned_distances(probe, references, grid, alignment), alignment


def mask_of(grid: tuple[int, int], masked: Sequence[Rectangle]) -> NDArray[np.bool_]:
    """[h, w]: True for cells that a masked rectangle touches."""
    mask = np.zeros(grid, np.bool_)
    for left, top, right, bottom in masked:
        rows = slice(int(np.floor(top * grid[0])), int(np.ceil(bottom * grid[0])))
        mask[rows, int(np.floor(left * grid[1])) : int(np.ceil(right * grid[1]))] = True
    return mask


def _aligned_distances(probe: Floats, references: Int8s, grid: tuple[int, int], alignment: Alignment) -> Floats:
    cosines = _local_cosines(probe, references, grid, alignment)
    forward = cosines.max(axis=(2, 3))
    return _distances(np.minimum(forward, _backward_cosines(cosines)))


def _local_cosines(probe: Floats, references: Int8s, grid: tuple[int, int], alignment: Alignment) -> Floats:
    """[h, w, 5, 5]: cosine of each probe patch with the best reference's patches up to two cells around its place.

    Small matrix products: four columns of a row of the probe against the eight columns of references around them, for
    each of the five rows; the diagonal band is then read through strides. That wastes three products of eight and is
    still several times as fast as a gather or as products of whole rows.
    """
    (height, width), window = grid, 2 * REACH + 1
    blocks = -(-width // BLOCK)
    warped = _warped(references, grid, alignment, blocks * BLOCK)
    count, depth = warped.shape[2:]
    row, col, one, last = warped.strides
    shape = (height, blocks, window, (BLOCK + 2 * REACH) * count, depth)
    around = as_strided(warped, shape, (row, BLOCK * col, row, one, last))
    padded = np.zeros((height, blocks * BLOCK, depth), np.float32)
    padded[:, :width] = (probe / np.float32(INT8_ONE)).reshape(height, width, depth)
    products = padded.reshape(height, blocks, 1, BLOCK, depth) @ around.transpose(0, 1, 2, 4, 3)
    return _band(products, count).reshape(height, blocks * BLOCK, window, window)[:, :width]


def _band(products: Floats, count: int) -> Floats:
    """[h, blocks, 4, 5, 5] from products [h, blocks, 5 rows, 4 columns, 8 columns * n]: column i's are i to i + 4."""
    height, blocks, window = products.shape[:3]
    row, block, line, column, one = products.strides
    shape = (height, blocks, BLOCK, window, window, count)
    strides = (row, block, column + count * one, line, count * one, one)
    band = as_strided(products, shape, strides)
    return reduce(np.maximum, (band[..., reference] for reference in range(count)))


def _warped(references: Int8s, grid: tuple[int, int], alignment: Alignment, width: int) -> Floats:
    """[h + 4, width + 4, n, d]: the aligned references in the probe's frame, the edge cells repeated outwards."""
    used = np.flatnonzero(alignment.aligned)
    cells = used[:, None, None] * (grid[0] * grid[1]) + alignment.rows[used] * grid[1] + alignment.cols[used]
    right = REACH + width - grid[1]
    padded = np.pad(cells, ((0, 0), (REACH, REACH), (REACH, right)), mode="edge").transpose(1, 2, 0)
    return references.reshape(-1, references.shape[2])[padded].astype(np.float32)


def _backward_cosines(cosines: Floats) -> Floats:
    """[h, w]: for each place, how well the best reference's patch there is found again in the probe around it."""
    height, width, window, _ = cosines.shape
    best = np.full((height + window - 1, width + window - 1), -1, np.float32)
    for i in range(window):
        for j in range(window):
            place = best[i : i + height, j : j + width]
            np.maximum(place, cosines[:, :, i, j], out=place)
    return best[REACH : REACH + height, REACH : REACH + width]


def _free_distances(probe: Floats, references: Int8s, grid: tuple[int, int]) -> Floats:
    """Each patch against all patches of each reference, both ways, where no alignment was found."""
    (height, width), (count, cells, depth) = grid, references.shape
    scaled = (probe / np.float32(INT8_ONE)).reshape(height, 1, width, depth)
    lines = references.reshape(1, height, count * width, depth).astype(np.float32)  # small products, as in alignment
    cosines = scaled @ lines.transpose(0, 1, 3, 2)  # [h, h, w, n * w]
    forward = cosines.max(axis=(1, 3)).ravel()
    backward = cosines.max(axis=(0, 2)).reshape(count, cells).max(axis=0)
    return _distances(np.minimum(forward, backward)).reshape(grid)


def _distances(cosines: Floats) -> Floats:
    """1 - cosine, kept at 0 or more against the rounding of int8 references."""
    return np.asarray(np.maximum(1 - cosines, 0), np.float32)


def _top_mean(values: Floats) -> float:
    if not values.size:
        return 0.0
    count = max(1, round(TOP_SHARE * values.size))
    return float(np.sort(np.partition(values, values.size - count)[-count:]).mean(dtype=np.float64))
