"""The goods' renderer: the same pixels everywhere, twins that differ by the forgery alone, masks that say where."""

from __future__ import annotations

import io
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps

from demo.goods import (
    CATEGORIES,
    FAMILIES,
    Sku,
    catalogue,
    heldout_skus,
    jpeg,
    make_sku,
    render,
    training_skus,
)
from demo.goods.design import design_of
from demo.goods.skus import CATALOGUE_SEEDS, HELDOUT_SEEDS, TRAINING_SEEDS
from engines.decoder import PillowDecoder

SIZE = 192
SKUS = tuple(make_sku(category, seed) for category, seed in (("bag", 1000), ("watch", 1001), ("sneaker", 1002)))
EVERY_VIEW = [(sku, view) for sku in SKUS for view in CATEGORIES[sku.category]]
TOUCHED = [(sku, view, f.name) for sku, view in EVERY_VIEW for f in FAMILIES.values() if view in f.views]

DIGESTS = """
import hashlib
from demo.goods import CATEGORIES, catalogue, render
total = hashlib.sha256()
for sku in catalogue(3):
    for view in CATEGORIES[sku.category]:
        shown = render(sku, view, specimen=5, family="type_weight", size=192)
        total.update(shown.image.tobytes() + shown.mask.tobytes())
print(total.hexdigest())
"""


def _label(value: object) -> str | None:
    return value.sku_id if isinstance(value, Sku) else None


def test_two_processes_render_the_same_pixels() -> None:
    runs = [
        subprocess.run([sys.executable, "-c", DIGESTS], capture_output=True, text=True, check=True) for _ in range(2)
    ]
    assert runs[0].stdout == runs[1].stdout
    assert len(runs[0].stdout.strip()) == 64


def test_order_of_rendering_does_not_matter() -> None:
    first = render(SKUS[0], "serial", specimen=1, size=SIZE).image
    render(SKUS[0], "serial", specimen=1, family="engraving_depth", size=SIZE)
    assert np.array_equal(first, render(SKUS[0], "serial", specimen=1, size=SIZE).image)


@pytest.mark.parametrize(("sku", "view"), EVERY_VIEW, ids=_label)
def test_every_view_renders_and_specimens_vary(sku: Sku, view: str) -> None:
    first, second = (render(sku, view, specimen=n, size=SIZE) for n in (1, 2))
    assert first.image.shape == (SIZE, SIZE, 3) and first.image.dtype == np.uint8
    assert first.image.std() > 10
    assert not first.mask.any()
    assert not np.array_equal(first.image, second.image)


@pytest.mark.parametrize(("sku", "view", "family"), TOUCHED, ids=_label)
def test_twins_differ_inside_the_mask_alone(sku: Sku, view: str, family: str) -> None:
    genuine = render(sku, view, specimen=3, size=SIZE)
    forged = render(sku, view, specimen=3, family=family, size=SIZE)
    assert forged.mask.any()
    changed = (genuine.image != forged.image).any(axis=2)
    around = Image.fromarray(forged.mask).convert("L").filter(ImageFilter.BoxBlur(3))
    assert not (changed & (np.asarray(around) == 0)).any()
    assert changed[forged.mask].mean() > 0.15


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_leaves_other_views_alone(family: str) -> None:
    for sku, view in EVERY_VIEW:
        if view not in FAMILIES[family].views:
            forged = render(sku, view, specimen=3, family=family, size=96)
            assert not forged.mask.any()
            assert np.array_equal(forged.image, render(sku, view, specimen=3, size=96).image)


@pytest.mark.parametrize("family", FAMILIES)
def test_strength_nought_is_genuine_and_strength_grows(family: str) -> None:
    design = design_of("bag", 1000)
    assert FAMILIES[family].forge(design, 0.0) == design
    view = FAMILIES[family].views[0]
    genuine = render(SKUS[0], view, specimen=3, size=SIZE).image.astype(np.int16)
    shots = [render(SKUS[0], view, specimen=3, family=family, strength=s, size=SIZE) for s in (0.0, 0.1, 1.0)]
    moved = [float(np.abs(shot.image - genuine).sum()) for shot in shots]
    assert moved[0] == 0.0
    assert moved[1] < moved[2]


def test_families_name_known_views() -> None:
    assert len(FAMILIES) >= 8
    for name, family in FAMILIES.items():
        assert family.name == name
        assert family.views and all(set(family.views) <= set(views) for views in CATEGORIES.values())


def test_skus_are_clearly_different() -> None:
    same = np.abs(_small(SKUS[0], 1) - _small(SKUS[0], 2)).mean()
    other = np.abs(_small(SKUS[0], 1) - _small(make_sku("bag", 1003), 1)).mean()
    assert other > 2 * same


def _small(sku: Sku, specimen: int) -> np.ndarray:
    shown = Image.fromarray(render(sku, "lining", specimen=specimen, size=SIZE).image)
    return np.asarray(shown.resize((12, 12), Image.Resampling.BOX), np.float32)


def test_a_smaller_size_is_the_same_scene() -> None:
    large = Image.fromarray(render(SKUS[1], "lining", specimen=4, size=512).image).resize((64, 64))
    small = Image.fromarray(render(SKUS[1], "lining", specimen=4, size=256).image).resize((64, 64))
    apart = np.abs(np.asarray(large, np.float32) - np.asarray(small, np.float32))
    assert apart.mean() < 4.0


def test_seed_ranges_are_disjoint_and_the_catalogue_is_balanced() -> None:
    ranges = (CATALOGUE_SEEDS, HELDOUT_SEEDS, TRAINING_SEEDS)
    assert all(before.stop <= after.start for before, after in pairwise(ranges))
    for skus, seeds in zip((catalogue(), heldout_skus(200), training_skus(500)), ranges, strict=True):
        assert all(sku.seed in seeds for sku in skus)
        assert len({sku.sku_id for sku in skus}) == len(skus)
    assert [sum(sku.category == c for sku in catalogue()) for c in CATEGORIES] == [8, 8, 8]


def test_jpegs_are_baseline_and_of_a_photographs_size() -> None:
    data = jpeg(render(SKUS[0], "hardware", specimen=1).image)
    assert Image.open(io.BytesIO(data)).size == (1024, 1024)
    assert b"\xff\xc0" in data and b"\xff\xc2" not in data
    assert 60_000 < len(data) < 320_000


def test_a_camera_held_otherwise_says_so_in_the_file() -> None:
    shots = [render(SKUS[0], "logo", specimen=n, size=64) for n in range(1, 41)]
    assert {shot.orientation for shot in shots} == {1, 3, 6, 8}
    assert all(
        shot.orientation == render(SKUS[0], "logo", specimen=n, family="hue", size=64).orientation
        for n, shot in enumerate(shots[:6], start=1)
    )
    upright = shots[0].image.astype(np.int16)
    decoder = PillowDecoder(64, 1)
    for orientation in (1, 3, 6, 8):
        seen = np.asarray(ImageOps.exif_transpose(_opened(jpeg(shots[0].image, orientation=orientation))), np.int16)
        assert np.abs(seen - upright).mean() < 6  # a turned one is at 20 and more
        decoded = decoder.decode([jpeg(shots[0].image, orientation=orientation)])[0].result()
        assert np.abs(decoded.pixels - upright).mean() < 6
    decoder.close()


def _opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [({"view": "sole"}, "sole"), ({"view": "logo", "family": "smell"}, "smell"), ({"view": "logo", "size": 8}, "8")],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        render(SKUS[0], specimen=1, **arguments)  # type: ignore[arg-type]


def test_unknown_categories_are_named() -> None:
    with pytest.raises(ValueError, match="hat"):
        make_sku("hat", 1)
