"""Periodic random fields made in the frequency domain; every material begins with one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from demo.goods.seeds import generator

TILE = 512

Heights = npt.NDArray[np.float32]


def field(name: str, seed: int, *, cycles: float, width: float, stretch: float = 1.0) -> Heights:
    """Noise of about `cycles` blobs across the tile, `width` wide in octaves, unit variance; [TILE, TILE].

    `stretch` above 1 draws the blobs out along x.
    """
    rng = generator("field", name, seed)
    white = rng.standard_normal((TILE, TILE)).astype(np.float32)
    down = np.fft.fftfreq(TILE, 1 / TILE).astype(np.float32)[:, None]
    across = np.fft.rfftfreq(TILE, 1 / TILE).astype(np.float32)[None, :] * np.float32(stretch)
    radius = np.sqrt(down**2 + across**2) + np.float32(1e-3)
    band = np.exp(-((np.log2(radius / cycles) / width) ** 2))
    noise = np.fft.irfft2(np.fft.rfft2(white) * band, s=(TILE, TILE)).astype(np.float32)
    return np.asarray(noise / noise.std(), np.float32)


def waves(cycles_x: int, cycles_y: int, bend: Heights, amount: float) -> Heights:
    """A plane wave with whole cycles in both directions, bent by a field; [TILE, TILE] in -1 to 1."""
    steps = np.arange(TILE, dtype=np.float32) / TILE
    phase = cycles_x * steps[None, :] + cycles_y * steps[:, None] + amount * bend
    return np.asarray(np.sin(2 * np.pi * phase), np.float32)


def whole(cycles: float) -> int:
    """The nearest number of whole cycles, at least one."""
    return max(1, round(cycles))
