"""What the resampling kernels are told of a ragged batch: one row of integers a photograph."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

FIELDS: Final = 8  # the kernels' struct Photograph: eight 64-bit integers
_WEIGHTS_AT, _TAPS = 5, 6
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


def taps(source: Source, side: int) -> int:
    """The most taps that an output pixel of this photograph has."""
    return math.ceil(max(min(source.width, source.height) / side, 1.0)) * 2 + 1


def described(sources: Sequence[Source], side: int) -> tuple[NDArray[np.int64], int]:
    """The kernels' table, int64 [n,8], and how many integers the weights of all of them take."""
    table = np.array(
        [(s.address, s.pitch, s.width, s.height, s.orientation, 0, taps(s, side), s.row) for s in sources], np.int64
    ).reshape(len(sources), FIELDS)
    ends = np.cumsum(2 * side * (table[:, _TAPS] + _ROW_HEAD))
    table[1:, _WEIGHTS_AT] = ends[:-1]
    return table, int(ends[-1]) if sources else 0
