"""What the device measured of squares, made into what the CPU tells of a photograph."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from engines.quality import QualityMeasures, hashes_from, measures_from


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One photograph's measures and perceptual hash."""

    quality: QualityMeasures
    phash: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The kernels' numbers of n squares, on the host: how often each grey level occurs, uint32 [n,256]; the sums of
    their Laplacians and of its squares, int64 [n,2]; burnt-out blocks, uint8 [n,b,b]; grey thumbnails, uint8
    [n,32,32]."""

    levels: NDArray[np.uint32]
    edges: NDArray[np.int64]
    burnt: NDArray[np.uint8]
    small: NDArray[np.uint8]


def sharpness(edges: NDArray[np.int64], side: int) -> NDArray[np.float64]:
    """Variances [n] from sums [n,2] over the inner pixels of squares of `side`; exact but for the last division."""
    count = max((side - 2) ** 2, 1)
    mean = edges[:, 0] / count
    return np.asarray(edges[:, 1] / count - mean * mean)


def looks_of(measured: Measured, side: int) -> list[Look]:
    """Of every square, as engines.decode tells it of a photograph."""
    qualities = measures_from(measured.levels, sharpness(measured.edges, side), measured.burnt.astype(bool))
    hashes = hashes_from(measured.small)
    return [Look(quality=quality, phash=phash) for quality, phash in zip(qualities, hashes, strict=True)]
