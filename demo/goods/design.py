"""What makes a SKU itself: its design, drawn once from its seed. A forgery is a changed design.

Lengths are in frames: 1.0 is the side of the photograph before the camera moves. Every value is hashable, so a
design is its own cache key, and a forgery of strength 0 is equal to the genuine design.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, replace

import numpy as np

from demo.goods.names import brand_word
from demo.goods.seeds import generator

Rgb = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tone:
    """A colour as hue, saturation and value, each 0 to 1."""

    hue: float
    saturation: float
    value: float

    def rgb(self, lightness: float = 1.0) -> Rgb:
        """8-bit RGB, the value scaled by `lightness`."""
        value = min(1.0, self.value * lightness)
        red, green, blue = colorsys.hsv_to_rgb(self.hue % 1.0, min(1.0, self.saturation), value)
        return round(red * 255), round(green * 255), round(blue * 255)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stitch:
    """A run of stitches: pitch and thickness in frames, length as a share of the pitch."""

    pitch: float
    length_share: float
    thickness: float
    angle_deg: float
    rows: int
    gap: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Lettering:
    """How the brand sets type: weight and tracking are shares of the letter height."""

    weight: float
    tracking: float
    stretch: float
    slant: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Emblem:
    """The mark: a closed curve of `lobes` swings inside a ring; all lengths are shares of its radius."""

    kind: str
    lobes: int
    swing: float
    inner: float
    ring: float
    stroke: float
    turn_deg: float
    initial: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """Metal: tint, how blurred its reflections are (0 polished, 1 brushed), where they lie, how wide the bevel is.

    `plating` is the share of cheap brass in the tint, 0 for the genuine.
    """

    tint: Tone
    plating: float
    roughness: float
    band: float
    bevel: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Grain:
    """The surface of the body: a material by name, its scale (1.0 as drawn by the material) and depth (0 to 1)."""

    material: str
    scale: float
    depth: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Serial:
    """The serial's format: letters in front, digits a group, what stands between, letter height in frames.

    `space` is the room added around a separator, as a share of the letter height.
    """

    prefix: str
    groups: tuple[int, ...]
    separator: str
    height: float
    space: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """The whole identity of a SKU, or of its forgery."""

    category: str
    seed: int
    word: str
    body: Tone
    accent: Tone
    thread: Tone
    lining: Tone
    grain: Grain
    weave: Grain
    stitch: Stitch
    lettering: Lettering
    emblem: Emblem
    finish: Finish
    serial: Serial
    engraving: float
    word_em: float
    form: tuple[float, float, float, float]
    style: int


BODY_MATERIALS = {
    "bag": ("pebble", "saffiano", "canvas"),
    "watch": ("pebble", "saffiano", "rubber"),
    "sneaker": ("canvas", "pebble", "rubber"),
}
TINTS = (
    Tone(hue=0.120, saturation=0.48, value=1.0),  # gold
    Tone(hue=0.600, saturation=0.05, value=0.98),  # steel
    Tone(hue=0.040, saturation=0.36, value=0.98),  # rose gold
    Tone(hue=0.620, saturation=0.10, value=0.62),  # gunmetal
)
PREFIXES = "ABCDEFGHKLMNPRSTVXZ"
GROUPS = ((4, 4), (3, 3, 2), (2, 4), (3, 4), (6,), (5, 2))


def design_of(category: str, seed: int) -> Design:
    """The genuine design of a SKU."""
    rng = generator("design", category, seed)
    body = _body(rng)
    accent = _accent(rng, body)
    materials = BODY_MATERIALS[category]
    word = brand_word(generator("brand", category, seed))
    lettering = _lettering(rng)
    return Design(
        category=category,
        seed=seed,
        word=word,
        body=body,
        accent=accent,
        thread=_thread(rng, body),
        lining=_lining(rng, accent),
        grain=_grain(rng, materials[int(rng.integers(len(materials)))]),
        weave=replace(_grain(rng, "twill"), depth=0.42),
        stitch=_stitch(rng),
        lettering=lettering,
        emblem=_emblem(rng, word[0]),
        finish=_finish(rng),
        serial=_serial(rng, lettering),
        engraving=_between(rng, 0.38, 0.55),
        word_em=round(1.0 / _ems(len(word), lettering), 5),
        form=(_between(rng, 0, 1), _between(rng, 0, 1), _between(rng, 0, 1), _between(rng, 0, 1)),
        style=int(rng.integers(3)),
    )


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    """Uniform, rounded so that designs print and compare plainly."""
    return round(low + (high - low) * float(rng.random()), 5)


def _body(rng: np.random.Generator) -> Tone:
    """A third of the goods in leather's own reds and browns, the others in any dye."""
    hue = _between(rng, 0.0, 0.12) if rng.random() < 0.35 else _between(rng, 0.0, 1.0)
    return Tone(hue=hue, saturation=_between(rng, 0.4, 0.75), value=_between(rng, 0.4, 0.76))


def _ems(letters: int, lettering: Lettering) -> float:
    """About how many letter heights wide a line of so many letters is."""
    return letters * (0.72 + lettering.tracking + lettering.weight) * lettering.stretch


def _accent(rng: np.random.Generator, body: Tone) -> Tone:
    """A second colour that stands off the body."""
    hue = round((body.hue + _between(rng, -0.5, 0.5)) % 1.0, 5)
    return Tone(hue=hue, saturation=_between(rng, 0.1, 0.5), value=0.26 if body.value > 0.6 else 0.86)


def _lining(rng: np.random.Generator, accent: Tone) -> Tone:
    """A quiet colour on which the accent is read."""
    value = _between(rng, 0.58, 0.86) if accent.value < 0.5 else _between(rng, 0.28, 0.46)
    return Tone(hue=_between(rng, 0, 1), saturation=_between(rng, 0.12, 0.5), value=value)


def _thread(rng: np.random.Generator, body: Tone) -> Tone:
    """Thread is seen against the body: cream or bright on dark, deep on light."""
    hue = round((body.hue + _between(rng, -0.08, 0.08)) % 1.0, 5)
    if body.value < 0.66:
        return Tone(hue=hue, saturation=_between(rng, 0.05, 0.3), value=_between(rng, 0.85, 0.97))
    return Tone(hue=hue, saturation=_between(rng, 0.3, 0.7), value=_between(rng, 0.18, 0.32))


def _grain(rng: np.random.Generator, material: str) -> Grain:
    return Grain(material=material, scale=_between(rng, 0.8, 1.45), depth=_between(rng, 0.6, 1.0))


def _stitch(rng: np.random.Generator) -> Stitch:
    return Stitch(
        pitch=_between(rng, 0.050, 0.085),
        length_share=_between(rng, 0.62, 0.78),
        thickness=_between(rng, 0.011, 0.017),
        angle_deg=_between(rng, -24, 24),
        rows=int(rng.integers(1, 3)),
        gap=_between(rng, 0.05, 0.08),
    )


def _lettering(rng: np.random.Generator) -> Lettering:
    return Lettering(
        weight=_between(rng, 0.0, 0.045),
        tracking=_between(rng, 0.0, 0.22),
        stretch=_between(rng, 0.72, 1.3),
        slant=float(rng.choice([0.0, 0.0, 0.22, -0.15])),
    )


def _emblem(rng: np.random.Generator, initial: str) -> Emblem:
    return Emblem(
        kind=str(rng.choice(["rosette", "lattice", "crest", "orbit"])),
        lobes=int(rng.integers(3, 8)),
        swing=_between(rng, 0.14, 0.34),
        inner=_between(rng, 0.56, 0.74),
        ring=_between(rng, 0.05, 0.11),
        stroke=_between(rng, 0.06, 0.11),
        turn_deg=_between(rng, 0, 60),
        initial=initial,
    )


def _finish(rng: np.random.Generator) -> Finish:
    return Finish(
        tint=TINTS[int(rng.integers(len(TINTS)))],
        plating=0.0,
        roughness=_between(rng, 0.1, 0.5),
        band=_between(rng, 0, 1),
        bevel=_between(rng, 0.010, 0.018),
    )


def _serial(rng: np.random.Generator, lettering: Lettering) -> Serial:
    letters = "".join(PREFIXES[int(rng.integers(len(PREFIXES)))] for _ in range(int(rng.integers(1, 3))))
    groups = GROUPS[int(rng.integers(len(GROUPS)))]
    room = 0.62 / _ems(len(letters) + sum(groups) + len(groups), lettering)
    return Serial(
        prefix=letters,
        groups=groups,
        separator=str(rng.choice([" ", "-", "."])),
        height=round(min(_between(rng, 0.08, 0.1), room), 5),
        space=_between(rng, 0.0, 0.15),
    )
