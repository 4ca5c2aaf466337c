"""The bag: leather or canvas body with a flap, a handle, a metal lock and a patterned lining."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from demo.goods.design import Design
from demo.goods.marks import bezier, emblem, offset, type_line
from demo.goods.metal import metal
from demo.goods.scenes.parts import branded, foil, ground, over_backdrop, pressed, screw, seam, studio
from demo.goods.scenes.scene import Scene, weave_grain
from demo.goods.sheet import Pen, Point, Sheet


def _overview(sheet: Sheet, design: Design) -> None:
    studio(sheet)
    wide = 0.25 + 0.12 * design.form[0]
    top, bottom = -0.15 + 0.12 * design.form[1], 0.36
    _handles(sheet, design, wide, top)
    _body(sheet, design, wide, top, bottom)
    _flap(sheet, design, wide, top)


def _handles(sheet: Sheet, design: Design, wide: float, top: float) -> None:
    """Two handles behind each other on metal rings."""
    reach = wide * (0.5 + 0.25 * design.form[2])
    for dx, lightness in ((0.025, 0.55), (0.0, 0.9)):
        loop = bezier((-reach + dx, top), (-reach * 0.9 + dx, -0.52), (reach * 0.9 + dx, -0.52), (reach + dx, top))
        strip = sheet.stroke(loop, 0.03)
        sheet.panel(strip, design.body.rgb(lightness), grain=0.5, raised=0.008)
        over_backdrop(sheet, strip)
    for x in (-reach, reach):
        ring = sheet.ring((x, top - 0.01), 0.03, 0.012)
        metal(sheet, ring, design.finish, raised=0.004)
        over_backdrop(sheet, ring)


def _body(sheet: Sheet, design: Design, wide: float, top: float, bottom: float) -> None:
    """The body, with a gusset of the accent colour at the base."""
    flare = -0.01 + 0.08 * design.form[3]
    outline = [(-wide, top), (wide, top), (wide + flare, bottom), (-wide - flare, bottom)]
    body = sheet.patch((-wide - flare, top, wide + flare, bottom), lambda pen: _soft(pen, outline, 0.03), pad=0.06)
    sheet.shadow(body, drop=0.025, blur=0.03, opacity=0.6)
    sheet.panel(body, design.body.rgb(0.92), grain=0.8, raised=0.022)
    over_backdrop(sheet, body)
    foot = sheet.oblong((-wide - flare - 0.04, bottom - 0.07, wide + flare + 0.04, bottom + 0.06), 0.02)
    sheet.panel(foot.within(body), design.accent.rgb(0.9), grain=0.5, raised=0.006)


def _soft(pen: Pen, outline: list[Point], radius: float) -> None:
    """A polygon with rounded corners."""
    pen.polygon(outline)
    pen.line([*outline, outline[0]], 2 * radius)
    for corner in outline:
        pen.disc(corner, radius)


def _flap(sheet: Sheet, design: Design, wide: float, top: float) -> None:
    """The flap with its edge, its stitched line, the emblem and the lock."""
    deep = 0.15 + 0.12 * design.form[2]
    edge = bezier((wide + 0.025, top), (wide, top + deep * 1.5), (-wide, top + deep * 1.5), (-wide - 0.025, top))
    flap = sheet.shape(edge)
    sheet.panel(flap, design.body.rgb(1.08), grain=0.8, raised=0.012)
    inner = [(x * 0.93, top + (y - top) * 0.92) for x, y in edge]
    line = sheet.stroke(inner, 0.004)
    sheet.fill(line, design.thread.rgb(), 0.8)
    lock = (0.0, top + deep * 1.12)
    plate = sheet.patch((-0.05, lock[1] - 0.04, 0.05, lock[1] + 0.04), lambda pen: _plate(pen, design, lock, 0.055))
    metal(sheet, plate, design.finish, raised=0.006)
    foil(sheet, emblem(sheet, design.emblem, (0.0, top + deep * 0.48), 0.055), design)


def _plate(pen: Pen, design: Design, centre: Point, reach: float) -> None:
    """The outline of the lock: oblong, round or a shield, by the brand."""
    x, y = centre
    if design.style == 0:
        pen.rounded((x - reach, y - reach * 0.7, x + reach, y + reach * 0.7), reach * (0.15 + 0.4 * design.form[2]))
    elif design.style == 1:
        pen.disc(centre, reach * 0.9)
    else:
        tip = (x, y + reach * 1.1)
        pen.polygon(
            [
                (x - reach * 0.85, y - reach * 0.75),
                (x + reach * 0.85, y - reach * 0.75),
                (x + reach * 0.7, y + reach * 0.4),
                tip,
                (x - reach * 0.7, y + reach * 0.4),
            ]
        )


def _logo(sheet: Sheet, design: Design) -> None:
    ground(sheet, design.body.rgb(), 1.0)
    branded(sheet, emblem(sheet, design.emblem, (0.0, -0.12), 0.24), design)
    branded(
        sheet, type_line(sheet, design.word, (0.0, 0.28), min(0.14, 0.8 * design.word_em), design.lettering), design
    )


def _stitching(sheet: Sheet, design: Design) -> None:
    """A flap's rounded corner over the body, its rows of stitches along the edge."""
    ground(sheet, design.body.rgb(0.78), 1.0)
    bend = 0.24 + 0.2 * design.form[0]
    corner = bezier((0.29 - bend, 0.22), (0.29 - bend * 0.4, 0.22), (0.29, 0.22 - bend * 0.4), (0.29, 0.22 - bend))
    edge = [(-0.7, 0.22), *corner, (0.29, -0.7)]
    flap = sheet.shape([*edge, (-0.7, -0.7)])
    sheet.shadow(flap, drop=0.03, blur=0.03)
    sheet.panel(flap, design.body.rgb(1.05), grain=1.0, raised=0.022)
    rim = sheet.stroke(edge, 0.012)
    sheet.fill(rim, design.accent.rgb(0.7), 0.85)
    sheet.grained(rim, 0.1)
    sheet.relief(rim, width=0.006, gain=0.8)
    for row in range(design.stitch.rows):
        inset = 0.065 + row * design.stitch.gap
        seam(sheet, offset(edge, -inset), design.stitch, design.thread.rgb())


def _hardware(sheet: Sheet, design: Design) -> None:
    """The lock from near: plate, turning bar, screws; the strap runs under it."""
    ground(sheet, design.body.rgb(0.85), 1.0)
    half = 0.20 + 0.05 * design.form[0]
    strap = sheet.oblong((-half, -0.8, half, 0.8), 0.02)
    sheet.panel(strap, design.body.rgb(1.08), grain=1.0, raised=0.018)
    plate = sheet.patch((-0.36, -0.4, 0.36, 0.42), lambda pen: _plate(pen, design, (0.0, 0.0), 0.34))
    metal(sheet, plate, design.finish, raised=0.02)
    _bar(sheet, design)
    turns = [(math.cos(a), math.sin(a)) for a in (0.3 + design.form[3], 1.4 + design.form[1])]
    for x, turn in zip((-0.2, 0.2), turns, strict=True):
        screw(sheet, design, (x, -0.13), 0.032, turn)


def _bar(sheet: Sheet, design: Design) -> None:
    """The turning bar, with the slot it turns in."""
    slot = sheet.oblong((-0.17, 0.0, 0.17, 0.1), 0.05)
    sheet.fill(slot, (14, 12, 12), 0.82)
    sheet.relief(slot, width=0.006, gain=-1.2, spill=True)
    lean = 0.10 * (design.form[1] - 0.5)
    ends = ((-0.13, 0.05 - lean), (0.13, 0.05 + lean))
    bar = sheet.stroke(ends, 0.065 + 0.03 * design.form[2])
    metal(sheet, bar, design.finish, raised=0.014, curve=2.2)


def _serial(sheet: Sheet, design: Design) -> None:
    """A leather tab sewn into the lining."""
    ground(sheet, design.lining.rgb(0.8), 0.0)
    tab = sheet.oblong((-0.44, -0.28, 0.44, 0.28), 0.05)
    sheet.panel(tab, design.body.rgb(1.02), grain=0.55, raised=0.014)
    pressed(
        sheet, type_line(sheet, design.word, (0.0, -0.13), min(0.105, 0.66 * design.word_em), design.lettering), design
    )
    pressed(sheet, sheet.stroke(((-0.34, -0.03), (0.34, -0.03)), 0.006), design)


def _number(sheet: Sheet, design: Design, text: str) -> None:
    """The serial pressed into the tab."""
    serial = design.serial
    pressed(sheet, type_line(sheet, text, (0.0, 0.11), serial.height, design.lettering, space=serial.space), design)


def _lining(sheet: Sheet, design: Design) -> None:
    """The monogrammed lining with the maker's label."""
    ground(sheet, design.lining.rgb(), 1.0)
    step = 0.29 + 0.06 * design.form[0]
    cells = [(column, row) for row in range(-2, 3) for column in range(-3, 3)]
    places = [((column + (0.5 if row % 2 else 0.0)) * step, row * step * 0.9) for column, row in cells]
    foil(sheet, sheet.scattered(emblem(sheet, design.emblem, (0.0, 0.0), 0.098), places), design)
    label = sheet.oblong((-0.36, 0.08, 0.36, 0.33), 0.012)
    sheet.panel(label, design.body.rgb(1.1), grain=0.3, raised=0.008)
    foil(sheet, type_line(sheet, design.word, (0.0, 0.205), min(0.12, 0.56 * design.word_em), design.lettering), design)


BAG: Mapping[str, Scene] = MappingProxyType(
    {
        "overview": Scene(draw=_overview, zoom=0.45),
        "logo": Scene(draw=_logo),
        "stitching": Scene(draw=_stitching),
        "hardware": Scene(draw=_hardware),
        "serial": Scene(draw=_serial, number=_number),
        "lining": Scene(draw=_lining, grain=weave_grain),
    }
)
