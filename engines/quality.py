"""What a photograph is like before any encoder sees it: sharpness, exposure, glare, contrast, and a perceptual hash.
All are measured on the S px square, so that thresholds do not depend on the camera."""

from __future__ import annotations

import dataclasses
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_DARK: Final = 5  # levels
_BRIGHT: Final = 250
_BLOCK: Final = 8  # px
_HASH_SIDE: Final = 32
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
    counts = np.array(grey.histogram(), np.float64)
    levels = np.arange(256)
    total = counts.sum()
    mean = float(counts @ levels / total)
    spread = float(counts @ (levels - mean) ** 2 / total) ** 0.5
    return QualityMeasures(
        sharpness=_sharpness(np.asarray(grey)),
        brightness=mean / 255.0,
        clipped_low=float(counts[:_DARK].sum() / total),
        clipped_high=float(counts[_BRIGHT:].sum() / total),
        glare=_glare(np.asarray(square)),
        contrast=spread / 255.0,
    )


def _sharpness(grey: NDArray[np.uint8]) -> float:
    g = grey.astype(np.int16)
    laplacian = g[1:-1, :-2] + g[1:-1, 2:] + g[:-2, 1:-1] + g[2:, 1:-1] - 4 * g[1:-1, 1:-1]
    return float(laplacian.var(dtype=np.float32))


def _glare(pixels: NDArray[np.uint8]) -> float:
    side = pixels.shape[0] // _BLOCK * _BLOCK
    # one pass over bytes: a block is burnt out when its darkest byte is
    rows = pixels[:side, :side].reshape(side // _BLOCK, _BLOCK, side * 3).min(axis=1)
    burnt = rows.reshape(side // _BLOCK, side // _BLOCK, _BLOCK * 3).min(axis=2) >= _BRIGHT
    if not burnt.any():
        return 0.0
    joined = np.zeros_like(burnt)
    for axis in (0, 1):
        joined |= np.logical_and.accumulate(burnt, axis=axis)
        joined |= np.flip(np.logical_and.accumulate(np.flip(burnt, axis), axis=axis), axis)
    return float((burnt & ~joined).mean())


def perceptual_hash(square: Image.Image) -> int:
    """64 bits, as an unsigned integer: the signs of the 8x8 lowest DCT frequencies against their median. Near copies
    (recompressed, resized) differ in few bits."""
    small = square.convert("L").resize((_HASH_SIDE, _HASH_SIDE), Image.Resampling.BOX)
    grey = np.asarray(small, np.float32)
    low = (_DCT @ grey @ _DCT.T).ravel()
    bits = low > np.median(low[1:])
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _dct_rows() -> NDArray[np.float32]:
    place = np.arange(_HASH_SIDE) + 0.5
    return np.cos(np.pi / _HASH_SIDE * np.outer(np.arange(_HASH_LOW), place)).astype(np.float32)


_DCT: Final = _dct_rows()
