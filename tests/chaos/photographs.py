"""Tiny photographs for delivery runs: 32 px, a kilobyte, each of its own, with goods in their colours.

Brightness is noise, so that no two photographs look alike to a perceptual hash; the colours of a 4x4 grid tell the SKU,
and a forgery's colours are off. tests.chaos.standin's encoder reads the colours alone.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE_PX = 32
GRID = 4
CELL_PX = SIDE_PX // GRID
SKUS = ("bag-1", "bag-2", "bag-3")
CATEGORY = "bag"
VIEWS = ("logo", "lining")
WEAR = 4.0  # levels that a genuine specimen's colours vary by
FORGED = 18.0


def photograph(sku: str, view: str, seed: int, *, forged: bool = False) -> bytes:
    """A JPEG; the same arguments make the same bytes."""
    rng = np.random.default_rng([seed, forged, *f"{sku}/{view}".encode()])
    colours = _colours(sku, view) + rng.normal(0.0, WEAR + forged * FORGED, (GRID, GRID, 2))
    brightness = np.kron(rng.uniform(90.0, 165.0, (8, 8)), np.ones((SIDE_PX // 8, SIDE_PX // 8)))
    red, blue = (np.kron(colours[..., n], np.ones((CELL_PX, CELL_PX))) for n in range(2))
    pixels = np.stack([brightness + red, brightness - (red + blue) / 2, brightness + blue], axis=-1)
    out = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(out, "JPEG", quality=92, subsampling=0)
    return out.getvalue()


def colours_of(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """float32 [n, GRID, GRID, 2] of uint8 [n, S, S, 3]: red and blue less green, the mean of each cell."""
    count = len(pixels)
    cells = pixels.astype(np.float32).reshape(count, GRID, CELL_PX, GRID, CELL_PX, 3).mean(axis=(2, 4))
    return np.asarray(cells[..., (0, 2)] - cells[..., 1:2], np.float32)


def _colours(sku: str, view: str) -> NDArray[np.float64]:
    return np.random.default_rng(list(f"{sku}/{view}".encode())).normal(0.0, 22.0, (GRID, GRID, 2))
