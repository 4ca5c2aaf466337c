"""What the resampling kernels are told of a ragged batch: one row of integers a photograph."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

FIELDS: Final = 8  # the kernels' struct Photograph: eight 64-bit integers
_ROW_HEAD: Final = 2  # first tap and number of taps, before the weights


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A decoded photograph on the device: `address` of its RGB bytes, `pitch` bytes a row, size in px before
    `orientation` (EXIF's, 1 to 8) is applied, and the `row` of the batch of squares that it becomes."""

    address: int
    pitch: int
    width: int
    height: int
    orientation: int
    row: int


def described(sources: Sequence[Source], side: int) -> tuple[NDArray[np.int64], int]:
    """The kernels' table, int64 [n,8], and how many integers the weights of all of them take. At once for the batch:
    the device waits meanwhile."""
    table = np.array([(s.address, s.pitch, s.width, s.height, s.orientation, 0, 0, s.row) for s in sources], np.int64)
    most = taps(table[:, 2], table[:, 3], side)
    lengths = 2 * side * (most + _ROW_HEAD)
    table[:, 5] = np.cumsum(lengths) - lengths
    table[:, 6] = most
    return table, int(lengths.sum())


def taps(widths: NDArray[np.int64], heights: NDArray[np.int64], side: int) -> NDArray[np.int64]:
    """The most taps that an output pixel of each photograph has."""
    shorter = np.minimum(widths, heights)
    return np.asarray(np.maximum(-(-shorter // side), 1) * 2 + 1)
