"""What the resampling kernels are told of a ragged batch: one row of integers a photograph."""

from __future__ import annotations

import dataclasses
import math
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


def taps(source: Source, side: int) -> int:
    """The most taps that an output pixel of this photograph has."""
    return math.ceil(max(min(source.width, source.height) / side, 1.0)) * 2 + 1


def described(sources: Sequence[Source], side: int) -> tuple[NDArray[np.int64], int]:
    """The kernels' table, int64 [n,8], and how many integers the weights of all of them take."""
    table = np.empty((len(sources), FIELDS), np.int64)
    used = 0
    for line, source in zip(table, sources, strict=True):
        most = taps(source, side)
        line[:] = (
            source.address, source.pitch, source.width, source.height, source.orientation, used, most, source.row,
        )  # fmt: skip
        used += 2 * side * (most + _ROW_HEAD)
    return table, used
