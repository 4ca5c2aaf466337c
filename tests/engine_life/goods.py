"""Drawn goods: a SKU is a pattern of discs and bars on a gradient, a specimen moves and shades it, a forgery has other
discs. Small and quick, so that a whole life of engines fits into a test; encoders of random weights tell them apart."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance

SIDE = 48
CATEGORY = "bag"
VIEW = "logo"
SKUS = 6
ALPHA = 0.02
PROFILES = f'[{CATEGORY}]\nalpha_accept = {ALPHA}\nalpha_reject = {ALPHA}\n[[{CATEGORY}.views]]\nview = "{VIEW}"\n'
WEAR = 1.5  # far more than INT8 departs from FP32: few verdicts lie so near to a bound that they change
PALE = 0.25  # of the contrast of what jobs bring: photographs through fog
# Specimens are numbered; what one group of them is for, no other holds.
REFERENCES, LABELLED, GOLDEN, JOBS = range(2000, 2005), 1000, 3000, 10_000


def drawn(sku: int, specimen: int, *, forged: bool = False, side: int = SIDE, wear: float = 1.0) -> Image.Image:
    """`wear`: how far specimens of a SKU lie apart."""
    own, worn = np.random.default_rng([1, sku]), np.random.default_rng([2, sku, specimen, forged])
    low, high = own.integers(0, 256, 3), own.integers(0, 256, 3)
    ramp = np.linspace(0, 1, side)[:, None, None] * np.ones((1, side, 1))
    image = Image.fromarray(
        (low + (high - low) * ramp + worn.normal(0, 3, (side, side, 3))).clip(0, 255).astype(np.uint8)
    )
    pen, moved, shade = ImageDraw.Draw(image), wear * side / SIDE, round(8 * wear)
    shapes = np.random.default_rng([3, sku, specimen]) if forged else own
    for number in range(6):
        x, y, radius = (
            shapes.uniform(0.1, 0.9) * side,
            shapes.uniform(0.1, 0.9) * side,
            shapes.uniform(0.05, 0.25) * side,
        )
        x, y = x + worn.normal(0, moved), y + worn.normal(0, moved)
        colour = tuple(
            int(v) for v in np.clip(shapes.integers(0, 256, 3) + worn.integers(-shade, shade + 1, 3), 0, 255)
        )
        box = (x - radius, y - radius / (1 + number % 2), x + radius, y + radius / (1 + number % 2))
        (pen.ellipse if number % 3 else pen.rectangle)(box, fill=colour)
    return image


def photograph(sku: int, specimen: int, *, forged: bool = False, side: int = SIDE) -> bytes:
    """A JPEG of a worn item; the same arguments make the same bytes."""
    out = io.BytesIO()
    drawn(sku, specimen, forged=forged, side=side, wear=WEAR).save(out, "JPEG", quality=95)
    return out.getvalue()


def sku_of(number: int) -> str:
    return f"SKU-{number}"


def write_goods(folder: Path, side: int) -> None:
    """Everything but the encoders that docs/engine-life.sh takes. `side`: of the photographs, px."""
    (folder / "profiles.toml").write_text(PROFILES)
    for name, contrast in (("photographs", 1.0), ("unlike", PALE)):
        (folder / name).mkdir()
        for sku, specimen in ((sku, specimen) for sku in range(10) for specimen in range(10)):
            image = drawn(sku, specimen, forged=specimen % 2 == 1, side=side, wear=WEAR)  # forgeries too, as jobs are
            image = ImageEnhance.Contrast(image).enhance(contrast)
            image.save(folder / name / f"{sku}-{specimen}.jpg", quality=95)
    for sku, specimen in ((sku, specimen) for sku in range(SKUS) for specimen in REFERENCES):
        place = folder / "references" / sku_of(sku) / str(specimen)
        place.mkdir(parents=True)
        (place / f"{VIEW}.jpg").write_bytes(photograph(sku, specimen, side=side))
    (folder / "references" / "item.json").write_text(json.dumps({"category": CATEGORY}))
    _write_labelled(folder, "labelled", _specimens(LABELLED, genuine=30, forged=30), side)
    _write_labelled(folder, "golden", _specimens(GOLDEN, genuine=2, forged=1), side)


def _specimens(first: int, *, genuine: int, forged: int) -> Iterator[tuple[int, int, bool]]:
    for sku in range(SKUS):
        yield from ((sku, first + n, False) for n in range(genuine))
        yield from ((sku, first + n, True) for n in range(forged))


def _write_labelled(folder: Path, name: str, specimens: Iterator[tuple[int, int, bool]], side: int) -> None:
    (folder / name).mkdir()
    with (folder / f"{name}.jsonl").open("w") as manifest:
        for sku, specimen, forged in specimens:
            path = f"{name}/{sku}-{specimen}-{'forged' if forged else 'genuine'}.jpg"
            (folder / path).write_bytes(photograph(sku, specimen, forged=forged, side=side))
            label = "counterfeit" if forged else "genuine"
            line = {"sku": sku_of(sku), "category": CATEGORY, "label": label, "views": {VIEW: path}, "name": path}
            manifest.write(json.dumps(line) + "\n")
