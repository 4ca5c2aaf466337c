"""The bag: leather or canvas body with a flap, a handle, a metal lock and a patterned lining."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from demo.goods.design import Design
from demo.goods.marks import bezier, emblem, type_line
from demo.goods.metal import metal
from demo.goods.scenes.parts import branded, foil, ground, over_backdrop, pressed, screw, seam, studio
from demo.goods.scenes.scene import Scene, weave_grain
from demo.goods.sheet import EDGE, Patch, Pen, Point, Sheet


def _overview(sheet: Sheet, design: Design) -> None:
    studio(sheet)
    wide = 0.30 + 0.06 * design.form[0]
    top, bottom = -0.08 - 0.05 * design.form[1], 0.36
    _handles(sheet, design, wide, top)
    _body(sheet, design, wide, top, bottom)
    _flap(sheet, design, wide, top)


def _handles(sheet: Sheet, design: Design, wide: float, top: float) -> None:
    """Two handles behind each other on metal rings."""
    reach = wide * (0.5 + 0.25 * design.form[2])
    for dx, lightness in ((0.025, 0.55), (0.0, 0.9)):
        loop = bezier((-reach + dx, top), (-reach * 0.9 + dx, -0.52), (reach * 0.9 + dx, -0.52), (reach + dx, top))
        strip = sheet.patch((-wide, -0.5, wide, top), lambda pen, loop=loop: pen.line(loop, 0.03))
        sheet.panel(strip, design.body.rgb(lightness), grain=0.5, raised=0.008)
        over_backdrop(sheet, strip)
    for x in (-reach, reach):
        box = (x - 0.03, top - 0.04, x + 0.03, top + 0.02)
        ring = sheet.patch(box, lambda pen, x=x: pen.ring((x, top - 0.01), 0.03, 0.012))
        metal(sheet, ring, design.finish, raised=0.004)
        over_backdrop(sheet, ring)


def _body(sheet: Sheet, design: Design, wide: float, top: float, bottom: float) -> None:
    """The body, with a gusset of the accent colour at the base."""
    flare = 0.02 + 0.05 * design.form[3]
    outline = [(-wide, top), (wide, top), (wide + flare, bottom), (-wide - flare, bottom)]
    body = sheet.patch((-wide - flare, top, wide + flare, bottom), lambda pen: _soft(pen, outline, 0.03), pad=0.06)
    sheet.shadow(body, drop=0.025, blur=0.03, opacity=0.6)
    sheet.panel(body, design.body.rgb(0.92), grain=0.8, raised=0.022)
    over_backdrop(sheet, body)
    base = (-wide - flare, bottom - 0.07, wide + flare, bottom)
    foot = sheet.patch(base, lambda pen: pen.rounded((base[0] - 0.02, base[1], base[2] + 0.02, base[3] + 0.05), 0.02))
    sheet.panel(foot.within(body), design.accent.rgb(0.9), grain=0.5, raised=0.006)


def _soft(pen: Pen, outline: list[Point], radius: float) -> None:
    """A polygon with rounded corners."""
    pen.polygon(outline)
    pen.line([*outline, outline[0]], 2 * radius)
    for corner in outline:
        pen.disc(corner, radius)


def _flap(sheet: Sheet, design: Design, wide: float, top: float) -> None:
    """The flap with its edge, its stitched line, the emblem and the lock."""
    deep = 0.17 + 0.07 * design.form[1]
    edge = bezier((wide + 0.025, top), (wide, top + deep * 1.5), (-wide, top + deep * 1.5), (-wide - 0.025, top))
    flap = sheet.patch((-wide, top - 0.02, wide, top + deep * 1.2), lambda pen: pen.polygon(edge), pad=0.05)
    sheet.panel(flap, design.body.rgb(1.08), grain=0.8, raised=0.012)
    inner = [(x * 0.93, top + (y - top) * 0.92) for x, y in edge]
    line = sheet.patch((-wide, top, wide, top + deep * 1.2), lambda pen: pen.line(inner, 0.004))
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
    branded(sheet, type_line(sheet, design.word, (0.0, 0.28), _fitting(design, 0.14), design.lettering), design)


def _fitting(design: Design, height: float, room: float = 0.84) -> float:
    """The letter height at which the brand's word fits the frame. It is taken from the word alone."""
    return min(height, room / (0.95 * len(design.word)))


def _stitching(sheet: Sheet, design: Design) -> None:
    """A flap's rounded corner over the body, its rows of stitches along the edge."""
    ground(sheet, design.body.rgb(0.78), 1.0)
    bend = 0.10 + 0.16 * design.form[0]
    edge = [(-0.7, 0.20), *bezier((0.05, 0.20), (0.2 + bend, 0.20), (0.27, 0.20 - bend), (0.27, -0.05)), (0.27, -0.7)]
    flap = sheet.patch((-0.7, -0.7, 0.27, 0.2), lambda pen: pen.polygon([*edge, (-0.7, -0.7)]), pad=0.06)
    sheet.shadow(flap, drop=0.03, blur=0.03)
    sheet.panel(flap, design.body.rgb(1.05), grain=1.0, raised=0.022)
    rim = sheet.patch((-0.7, -0.7, 0.29, 0.22), lambda pen: pen.line(edge, 0.012), pad=0.06)
    sheet.fill(rim, design.accent.rgb(0.7), 0.85)
    sheet.grained(rim, 0.1)
    sheet.relief(rim, width=0.006, gain=0.8)
    for row in range(design.stitch.rows):
        inset = 0.065 + row * design.stitch.gap
        seam(sheet, _inset(edge, inset), design.stitch, design.thread.rgb())


def _inset(edge: list[Point], by: float) -> list[Point]:
    """The edge moved up and left, its corner kept."""
    return [(x - by, y - by) for x, y in edge]


def _hardware(sheet: Sheet, design: Design) -> None:
    """The lock from near: plate, turning bar, screws; the strap runs under it."""
    ground(sheet, design.body.rgb(0.85), 1.0)
    half = 0.20 + 0.05 * design.form[0]
    strap = sheet.patch((-half, -EDGE, half, EDGE), lambda pen: pen.rounded((-half, -0.8, half, 0.8), 0.02))
    sheet.panel(strap, design.body.rgb(1.08), grain=1.0, raised=0.018)
    plate = sheet.patch((-0.36, -0.4, 0.36, 0.42), lambda pen: _plate(pen, design, (0.0, 0.0), 0.34))
    metal(sheet, plate, design.finish, raised=0.02)
    _bar(sheet, design)
    turns = [(math.cos(a), math.sin(a)) for a in (0.3 + design.form[3], 1.4 + design.form[1])]
    for x, turn in zip((-0.2, 0.2), turns, strict=True):
        screw(sheet, design, (x, -0.13), 0.032, turn)


def _bar(sheet: Sheet, design: Design) -> None:
    """The turning bar, with the slot it turns in."""
    slot = sheet.patch((-0.2, -0.06, 0.2, 0.16), lambda pen: pen.rounded((-0.17, 0.0, 0.17, 0.1), 0.05))
    sheet.fill(slot, (14, 12, 12), 0.82)
    sheet.relief(slot, width=0.006, gain=-1.2, spill=True)
    lean = 0.10 * (design.form[1] - 0.5)
    ends = ((-0.13, 0.05 - lean), (0.13, 0.05 + lean))
    bar = sheet.patch((-0.2, -0.1, 0.2, 0.2), lambda pen: pen.line(ends, 0.065 + 0.03 * design.form[2]))
    metal(sheet, bar, design.finish, raised=0.014, curve=2.2)


def _serial(sheet: Sheet, design: Design) -> None:
    """A leather tab sewn into the lining."""
    ground(sheet, design.lining.rgb(0.8), 0.0)
    tab = sheet.patch((-0.44, -0.28, 0.44, 0.28), lambda pen: pen.rounded((-0.44, -0.28, 0.44, 0.28), 0.05))
    sheet.panel(tab, design.body.rgb(1.02), grain=0.55, raised=0.014)
    pressed(sheet, type_line(sheet, design.word, (0.0, -0.13), _fitting(design, 0.105, 0.7), design.lettering), design)
    rule = sheet.patch((-0.34, -0.02, 0.34, 0.0), lambda pen: pen.line(((-0.34, -0.03), (0.34, -0.03)), 0.006))
    pressed(sheet, rule, design)


def _number(sheet: Sheet, design: Design, text: str) -> None:
    """The serial pressed into the tab."""
    serial = design.serial
    pressed(sheet, type_line(sheet, text, (0.0, 0.11), serial.height, design.lettering, space=serial.space), design)


def _lining(sheet: Sheet, design: Design) -> None:
    """The monogrammed lining with the maker's label."""
    ground(sheet, design.lining.rgb(), 1.0)
    step = 0.29 + 0.06 * design.form[0]
    for row in range(-2, 3):
        for column in range(-2, 3):
            x = (column + (0.5 if row % 2 else 0.0)) * step
            foil(sheet, _monogram(sheet, design, (x, row * step * 0.9)), design)
    label = sheet.patch((-0.34, 0.08, 0.34, 0.33), lambda pen: pen.rounded((-0.34, 0.08, 0.34, 0.33), 0.012))
    sheet.panel(label, design.body.rgb(1.1), grain=0.3, raised=0.008)
    foil(sheet, type_line(sheet, design.word, (0.0, 0.205), _fitting(design, 0.12, 0.56), design.lettering), design)


def _monogram(sheet: Sheet, design: Design, centre: Point) -> Patch:
    return emblem(sheet, design.emblem, centre, 0.098)


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
