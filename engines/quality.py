"""What a photograph is like before any encoder sees it: sharpness, exposure, glare, contrast, and a perceptual hash.
All are measured on the S px square, so that thresholds do not depend on the camera."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_DARK: Final = 5  # levels
_BRIGHT: Final = 250
BLOCK: Final = 8  # px
HASH_SIDE: Final = 32
_HASH_LOW: Final = 8


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class QualityMeasures:
    """`sharpness`: variance of the Laplacian of grey levels; `brightness`: mean grey level, 0 to 1; `clipped_low` and
    `clipped_high`: shares of pixels at the ends of the range; `glare`: share of the square covered by burnt-out blocks
    that no straight run of such blocks joins to an edge (a white background is not glare); `contrast`: standard
    deviation of grey levels, 0 to 1."""

    sharpness: float
    brightness: float
    clipped_low: float
    clipped_high: float
    glare: float
    contrast: float


def measured(square: Image.Image) -> QualityMeasures:
    """Measures of an RGB square."""
    grey = square.convert("L")
    (measures,) = measures_from(
        np.array([grey.histogram()]), np.array([_sharpness(np.asarray(grey))]), _burnt(np.asarray(square))[None]
    )
    return measures


def measures_from(
    counts: NDArray[np.integer[Any]], sharpness: NDArray[np.floating[Any]], burnt: NDArray[np.bool_]
) -> list[QualityMeasures]:
    """Measures of n squares, from how often each grey level occurs [n,256], the variances of their Laplacians [n], and
    which of their 8 px blocks [n,b,b] are burnt out."""
    levels = np.arange(256)
    total = counts.sum(axis=1)
    mean = counts @ levels / total
    spread = np.sqrt((counts * (levels - mean[:, None]) ** 2).sum(axis=1) / total)
    columns = (
        sharpness, mean / 255.0, counts[:, :_DARK].sum(axis=1) / total, counts[:, _BRIGHT:].sum(axis=1) / total,
        _glare(burnt), spread / 255.0,
    )  # fmt: skip
    return [
        QualityMeasures(sharpness=sharp, brightness=bright, clipped_low=low, clipped_high=high, glare=glare, contrast=c)
        for sharp, bright, low, high, glare, c in np.stack(columns, axis=1).tolist()
    ]


def _sharpness(grey: NDArray[np.uint8]) -> float:
    g = grey.astype(np.int16)
    laplacian = g[1:-1, :-2] + g[1:-1, 2:] + g[:-2, 1:-1] + g[2:, 1:-1] - 4 * g[1:-1, 1:-1]
    return float(laplacian.var(dtype=np.float32))


def _burnt(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    side = pixels.shape[0] // BLOCK * BLOCK
    # one pass over bytes: a block is burnt out when its darkest byte is
    rows = pixels[:side, :side].reshape(side // BLOCK, BLOCK, side * 3).min(axis=1)
    return np.asarray(rows.reshape(side // BLOCK, side // BLOCK, BLOCK * 3).min(axis=2) >= _BRIGHT)


def _glare(burnt: NDArray[np.bool_]) -> NDArray[np.float64]:
    if not burnt.any():
        return np.zeros(len(burnt))
    joined = np.zeros_like(burnt)
    for axis in (1, 2):
        joined |= np.logical_and.accumulate(burnt, axis=axis)
        joined |= np.flip(np.logical_and.accumulate(np.flip(burnt, axis), axis=axis), axis)
    return np.asarray((burnt & ~joined).mean(axis=(1, 2)))


def perceptual_hash(square: Image.Image) -> int:
    """64 bits, as an unsigned integer: the signs of the 8x8 lowest DCT frequencies against their median. Near copies
    (recompressed, resized) differ in few bits."""
    small = square.convert("L").resize((HASH_SIDE, HASH_SIDE), Image.Resampling.BOX)
    (found,) = hashes_from(np.asarray(small)[None])
    return found


def hashes_from(small: NDArray[np.uint8]) -> list[int]:
    """Perceptual hashes of squares that were shrunk to grey [n,32,32]."""
    low = (_DCT @ small.astype(np.float32) @ _DCT.T).reshape(len(small), -1)
    bits = low > np.median(low[:, 1:], axis=1, keepdims=True)
    return [int.from_bytes(row.tobytes(), "big") for row in np.packbits(bits, axis=1)]


def _dct_rows() -> NDArray[np.float32]:
    place = np.arange(HASH_SIDE) + 0.5
    return np.cos(np.pi / HASH_SIDE * np.outer(np.arange(_HASH_LOW), place)).astype(np.float32)


_DCT: Final = _dct_rows()
