"""Drawn goods: a SKU is a pattern of discs and bars on a gradient, a specimen moves and shades it, a forgery has other
discs. Small and quick, so that a whole life of an engine fits into a test."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIDE = 48


def drawn(sku: int, specimen: int, *, forged: bool = False, side: int = SIDE) -> Image.Image:
    own, worn = np.random.default_rng([1, sku]), np.random.default_rng([2, sku, specimen, forged])
    low, high = own.integers(0, 256, 3), own.integers(0, 256, 3)
    ramp = np.linspace(0, 1, side)[:, None, None] * np.ones((1, side, 1))
    image = Image.fromarray(
        (low + (high - low) * ramp + worn.normal(0, 3, (side, side, 3))).clip(0, 255).astype(np.uint8)
    )
    pen = ImageDraw.Draw(image)
    shapes = np.random.default_rng([3, sku, specimen]) if forged else own
    for number in range(6):
        x, y, radius = (
            shapes.uniform(0.1, 0.9) * side,
            shapes.uniform(0.1, 0.9) * side,
            shapes.uniform(0.05, 0.25) * side,
        )
        x, y = x + worn.normal(0, 1.0), y + worn.normal(0, 1.0)
        colour = tuple(int(v) for v in np.clip(shapes.integers(0, 256, 3) + worn.integers(-8, 9, 3), 0, 255))
        box = (x - radius, y - radius / (1 + number % 2), x + radius, y + radius / (1 + number % 2))
        (pen.ellipse if number % 3 else pen.rectangle)(box, fill=colour)
    return image


def photographs(folder: Path, specimens: Iterable[tuple[int, int]]) -> Path:
    """A flat folder of genuine photographs."""
    folder.mkdir(parents=True, exist_ok=True)
    for sku, specimen in specimens:
        drawn(sku, specimen).save(folder / f"{sku}-{specimen}.jpg", quality=95)
    return folder


def labelled(folder: Path, skus: int, genuine: int, forged: int) -> Path:
    """`genuine/SKU/specimen/logo.jpg` and `counterfeit/...`."""
    for label, count in (("genuine", genuine), ("counterfeit", forged)):
        for sku in range(skus):
            for specimen in range(count):
                place = folder / label / f"SKU-{sku}" / str(specimen)
                place.mkdir(parents=True)
                drawn(sku, 1000 + specimen, forged=label == "counterfeit").save(place / "logo.jpg", quality=95)
    return folder
