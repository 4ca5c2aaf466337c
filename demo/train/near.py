"""Near misses: the same goods with one detail changed that no family of forgeries changes, for training alone.

Beside a forged photograph they say that any detail may be the one that tells. None touches what the unseen families
forge: the scale of a grain, the depth of an engraving, the size and the spacing of a serial.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from demo.goods.design import Design, Tone
from demo.goods.families.family import Family, lean
from demo.goods.seeds import generator

Forge = Callable[[Design, float], Design]

LETTERS = "ABCDEFGHIKLMNOPRSTUVXZ"


def _toned(tone: Tone, way: float) -> Tone:
    return replace(tone, hue=tone.hue + 0.06 * way, value=min(1.0, tone.value * (1 - 0.12 * way)))


def _thread(design: Design, way: float) -> Design:
    stitch = design.stitch
    changed = replace(
        stitch, thickness=stitch.thickness * (1 + 0.35 * way), length_share=stitch.length_share - 0.12 * way
    )
    return replace(design, stitch=changed)


def _slanted(design: Design, way: float) -> Design:
    return replace(design, stitch=replace(design.stitch, angle_deg=design.stitch.angle_deg + 14.0 * way))


def _row(design: Design, way: float) -> Design:
    return replace(design, stitch=replace(design.stitch, gap=design.stitch.gap * (1 + 0.3 * way)))


def _yarn(design: Design, way: float) -> Design:
    return replace(design, thread=_toned(design.thread, way))


def _accent(design: Design, way: float) -> Design:
    return replace(design, accent=_toned(design.accent, way))


def _lining(design: Design, way: float) -> Design:
    return replace(design, lining=_toned(design.lining, way))


def _stroke(design: Design, way: float) -> Design:
    return replace(design, emblem=replace(design.emblem, stroke=design.emblem.stroke * (1 + 0.4 * way)))


def _lobes(design: Design, way: float) -> Design:
    """One lobe more or less, whatever the strength."""
    more = 1 if way > 0 or design.emblem.lobes <= 3 else -1
    return replace(design, emblem=replace(design.emblem, lobes=design.emblem.lobes + more))


def _letter(design: Design, way: float) -> Design:
    """One letter of the brand's word is another, whatever the strength."""
    rng = generator("misspelt", design.category, design.seed)
    place = int(rng.integers(len(design.word)))
    others = LETTERS.replace(design.word[place], "")
    letter = others[int(rng.integers(len(others)))]
    return replace(design, word=design.word[:place] + letter + design.word[place + 1 :])


def _height(design: Design, way: float) -> Design:
    return replace(design, word_em=design.word_em * (1 - 0.14 * abs(way)))


def _metal(design: Design, way: float) -> Design:
    return replace(design, finish=replace(design.finish, tint=_toned(design.finish.tint, way)))


def _brushing(design: Design, way: float) -> Design:
    finish = design.finish
    return replace(design, finish=replace(finish, roughness=finish.roughness + 0.3 * abs(way)))


def _bevel(design: Design, way: float) -> Design:
    finish = design.finish
    return replace(design, finish=replace(finish, bevel=finish.bevel * (1 + 0.45 * way), band=finish.band + 0.06 * way))


def _form(design: Design, way: float) -> Design:
    a, b, c, d = (min(1.0, max(0.0, share + 0.3 * way)) for share in design.form)
    return replace(design, form=(a, b, c, d))


CHANGES: tuple[tuple[str, tuple[str, ...], Forge], ...] = (
    ("thread", ("stitching",), _thread),
    ("slant", ("stitching",), _slanted),
    ("row", ("stitching",), _row),
    ("yarn", ("stitching", "overview"), _yarn),
    ("accent", ("logo", "lining", "overview"), _accent),
    ("lining", ("serial", "lining"), _lining),
    ("stroke", ("logo", "lining"), _stroke),
    ("lobes", ("logo", "lining"), _lobes),
    ("letter", ("logo", "serial", "lining"), _letter),
    ("height", ("logo", "serial", "lining"), _height),
    ("metal", ("overview", "hardware"), _metal),
    ("brushing", ("overview", "hardware"), _brushing),
    ("bevel", ("overview", "hardware"), _bevel),
    ("form", ("overview", "stitching", "hardware"), _form),
)


def _family(name: str, views: tuple[str, ...], change: Forge) -> Family:
    titled = f"near_{name}"

    def forge(design: Design, strength: float) -> Design:
        return change(design, lean(titled, design) * strength) if strength else design

    return Family(name=titled, views=views, local=True, forge=forge)


NEAR_MISSES: tuple[Family, ...] = tuple(_family(*change) for change in CHANGES)
