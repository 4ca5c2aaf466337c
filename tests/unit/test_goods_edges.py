"""How far a forgery moves the goods' edges: at strength 1 every family shows at the size that encoders look at, beyond
what photographs of genuine specimens differ by. The lengths are those that the scenes are drawn with."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

from demo.goods import CATEGORIES, FAMILIES, Sku, make_sku
from demo.goods.camera import Shot, _homography, shot_of
from demo.goods.design import Design, design_of
from demo.goods.materials import MATERIALS
from demo.goods.materials.spectrum import TILE
from demo.goods.scenes import SCENES, bag, parts, sneaker, watch
from demo.goods.sheet import Patch, Sheet

INPUT_PX = 448
NEEDED_PX = 2.0
STEM, GLYPH = 0.13, 0.72  # of the letter height: a stem of the plain font, and a letter's width
SHEET_PX = 64  # lengths are in frames: any sheet draws the same ones
SKUS = tuple(make_sku(category, 7_000 + n) for n in range(5) for category in CATEGORIES)
SPECIMENS = range(300, 324)

Lengths = dict[str, float]  # in frames, by what a caliper would be laid on


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """One length of one view: genuine, moved by the forgery, and between genuine photographs; px at the input."""

    what: str
    genuine_px: float
    moved_px: float
    spread_px: float

    @property
    def counts(self) -> float:
        """What is moved, if it stands out of what cameras do to the same length."""
        return self.moved_px if self.moved_px > self.spread_px else 0.0


def drawn(sku: Sku, view: str, design: Design) -> Lengths:
    """The lengths that a scene draws of a design."""
    lengths: Lengths = {}
    scene = SCENES[sku.category][view]
    with recorded(lengths):
        sheet = Sheet(SHEET_PX, (0, 0, 0))
        scene.draw(sheet, design)
        if scene.number is not None:
            scene.number(sheet, design, "A1-11")
    grain = scene.grain(design)
    lengths["grain, two waves"] = 2 * wave(grain.material, design.seed, grain.scale * scene.zoom)
    lengths["metal's bevel"] = design.finish.bevel
    return lengths


@contextmanager
def recorded(lengths: Lengths) -> Iterator[None]:
    """Notes what type, emblems, stitches and pressed edges are drawn with."""

    def type_line(sheet: Sheet, text: str, centre: tuple[float, float], height: float, *rest: object, **named: object):  # type: ignore[no-untyped-def]
        lettering = rest[0]
        space = named.get("space", 0.0)
        line = "number" if "-" in text else "word"
        wide = height * lettering.stretch  # type: ignore[attr-defined]
        lengths[f"{line}, from letter to letter"] = wide * (GLYPH + lettering.tracking + lettering.weight)  # type: ignore[attr-defined]
        lengths[f"{line}, stem"] = height * (STEM + 2 * lettering.weight)  # type: ignore[attr-defined]
        lengths[f"{line}, gap"] = wide * (0.2 + lettering.tracking - lettering.weight)  # type: ignore[attr-defined]
        lengths[f"{line}, height"] = height
        lengths[f"{line}, space"] = wide * (0.25 + float(space))  # type: ignore[arg-type]
        return bag_type(sheet, text, centre, height, *rest, **named)

    def emblem(sheet: Sheet, mark, centre, radius: float) -> Patch:  # type: ignore[no-untyped-def]
        lengths["emblem, ring"] = mark.ring * radius
        lengths["emblem, inner figure"] = mark.inner * radius
        return bag_emblem(sheet, mark, centre, radius)

    def stitches(sheet: Sheet, path, stitch, **named):  # type: ignore[no-untyped-def]
        lengths["stitches, pitch"] = stitch.pitch
        return parts_stitches(sheet, path, stitch, **named)

    def relief(sheet: Sheet, patch: Patch, *, width: float, gain: float, spill: bool = False) -> None:
        if pressing:
            lengths["pressed edge"] = width
        plain_relief(sheet, patch, width=width, gain=gain, spill=spill)

    def pressed(sheet: Sheet, patch: Patch, design: Design, *, darken: float = 0.32) -> None:
        pressing.append(True)
        plain_pressed(sheet, patch, design, darken=darken)
        pressing.pop()

    pressing: list[bool] = []
    bag_type, bag_emblem, parts_stitches = bag.type_line, bag.emblem, parts.stitches
    plain_relief, plain_pressed = Sheet.relief, parts.pressed
    with pytest.MonkeyPatch.context() as patched:
        for module in (bag, watch, sneaker):
            patched.setattr(module, "type_line", type_line)
            patched.setattr(module, "emblem", emblem)
            if hasattr(module, "pressed"):
                patched.setattr(module, "pressed", pressed)
        patched.setattr(parts, "stitches", stitches)
        patched.setattr(parts, "pressed", pressed)
        patched.setattr(Sheet, "relief", relief)
        yield


@cache
def wave(material: str, seed: int, scale: float) -> float:
    """The length of a material's typical wave, in frames: a tile is half a frame."""
    power = np.abs(np.fft.rfft2(MATERIALS[material](seed, scale))) ** 2
    down = np.fft.fftfreq(TILE, 1 / TILE)[:, None]
    radius = np.hypot(down, np.arange(power.shape[1])[None, :])
    power[radius < 3] = 0.0
    return float(0.5 * power.sum() / (power * radius).sum())


def magnification(shot: Shot) -> float:
    """The most that this camera makes a length longer or shorter, as a share, at nine places of the frame."""
    a, b, c, d, e, f, g, h = _homography(shot, SHEET_PX, SHEET_PX)
    steps = SHEET_PX * np.array([0.15, 0.5, 0.85])
    x, y = (grid.ravel() for grid in np.meshgrid(steps, steps))
    w = g * x + h * y + 1
    u, v = (a * x + b * y + c) / w, (d * x + e * y + f) / w
    across = np.hypot((a - g * u) / w, (d - g * v) / w)
    return float(np.abs(1 / across - 1).max())


@cache
def spread(sku: Sku, view: str) -> float:
    """By how much genuine photographs differ in a length, as a share: nineteen of twenty by less."""
    return float(np.quantile([magnification(shot_of(sku.sku_id, view, n)) for n in SPECIMENS], 0.95))


def moved(sku: Sku, view: str, family: str) -> list[Moved]:
    genuine = design_of(sku.category, sku.seed)
    forged = FAMILIES[family].forge(genuine, 1.0)
    before, after, share = drawn(sku, view, genuine), drawn(sku, view, forged), spread(sku, view)
    return [
        Moved(
            what=what,
            genuine_px=before[what] * INPUT_PX,
            moved_px=abs(after[what] - before[what]) * INPUT_PX,
            spread_px=before[what] * INPUT_PX * share,
        )
        for what in before
    ]


def hue_deg(rgb: np.ndarray) -> float:
    return 360 * colorsys.rgb_to_hsv(*(rgb / 255).clip(0, 1))[0]


def turned(first: float, second: float) -> float:
    return abs((first - second + 180) % 360 - 180)


LAID: dict[str, Callable[[str], bool]] = {
    "stitch_pitch": lambda what: what.startswith("stitches"),
    "type_weight": lambda what: what.startswith("word"),
    "grain_scale": lambda what: what.startswith("grain"),
    "hardware_finish": lambda what: what.startswith("metal"),
    "logo_geometry": lambda what: what.startswith("emblem"),
    "engraving_depth": lambda what: what.startswith("pressed"),
    "serial_format": lambda what: what.startswith("number"),
}


@pytest.mark.parametrize("family", LAID)
def test_a_forgery_moves_an_edge_that_shows(family: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows, best = [], []
    for view in FAMILIES[family].views:
        for sku in SKUS:
            lengths = [one for one in moved(sku, view, family) if LAID[family](one.what)]
            chosen = max(lengths, key=lambda one: one.counts)
            best.append(chosen.counts)
            rows.append((view, chosen))
    with capsys.disabled():
        for view in FAMILIES[family].views:
            own = [one for at, one in rows if at == view]
            shift, ratio = [one.moved_px for one in own], [one.moved_px / max(one.spread_px, 1e-9) for one in own]
            what = sorted({one.what for one in own})[0]
            print(  # noqa: T201
                f"\n{family:16} {view:10} {what:26} moved, px: least {min(shift):5.2f}, "
                f"median {np.median(shift):5.2f}; over the genuine spread: least {min(ratio):5.1f} times",
                end="",
            )
    assert min(best) >= NEEDED_PX


def test_a_forged_dye_lies_outside_of_what_lamps_do(capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for sku in SKUS:
        genuine = design_of(sku.category, sku.seed)
        plain, forged = (np.array(d.body.rgb(), float) for d in (genuine, FAMILIES["hue"].forge(genuine, 1.0)))
        shots = [shot_of(sku.sku_id, "logo", n) for n in SPECIMENS]
        seen = [hue_deg(plain * np.array(shot.gains) * 0.9) for shot in shots]
        spread_deg = float(np.quantile([turned(one, hue_deg(plain)) for one in seen], 0.95))
        found.append((turned(hue_deg(forged), hue_deg(plain)), spread_deg))
    ratios = [shift / spread_deg for shift, spread_deg in found]
    with capsys.disabled():
        print(  # noqa: T201
            f"\nhue: turned, degrees: least {min(s for s, _ in found):.1f}; over the genuine spread: least "
            f"{min(ratios):.1f} times, median {np.median(ratios):.1f}"
        )
    assert min(ratios) > 1.0


def test_every_family_is_measured() -> None:
    assert {*LAID, "hue"} == set(FAMILIES)
