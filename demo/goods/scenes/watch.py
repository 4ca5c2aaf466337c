"""The watch: metal case, dial in the body's colour, stitched strap, engraved back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from demo.goods.design import Design
from demo.goods.marks import arc, emblem, type_line
from demo.goods.metal import metal
from demo.goods.scenes.parts import foil, ground, over_backdrop, pressed, screw, seam, studio
from demo.goods.scenes.scene import Scene
from demo.goods.sheet import Pen, Point, Sheet

CENTRE = (0.0, 0.0)


def _overview(sheet: Sheet, design: Design) -> None:
    studio(sheet)
    case = 0.215 + 0.035 * design.form[0]
    _straps(sheet, design, case)
    _case(sheet, design, case)
    _dial(sheet, design, case * (0.78 + 0.06 * design.form[1]))


def _straps(sheet: Sheet, design: Design, case: float) -> None:
    """The strap above and below, tapering."""
    near, far = case * 0.62, case * 0.5
    for way in (-1, 1):
        outline = [(-near, way * case * 0.8), (near, way * case * 0.8), (far, way * 0.7), (-far, way * 0.7)]
        strap = sheet.shape(outline)
        sheet.shadow(strap, drop=0.02, blur=0.025)
        sheet.panel(strap, design.body.rgb(), grain=0.8, raised=0.016)
        over_backdrop(sheet, strap)
        for side in (-1, 1):
            ends = ((side * near * 0.82, way * case), (side * far * 0.82, way * 0.68))
            line = sheet.stroke(ends, 0.004)
            sheet.fill(line, design.thread.rgb(), 0.8)


def _case(sheet: Sheet, design: Design, case: float) -> None:
    """Lugs, crown and the round case with its bezel."""

    def paint(pen: Pen) -> None:
        pen.disc(CENTRE, case)
        for x in (-1, 1):
            for y in (-1, 1):
                pen.line(((x * case * 0.6, y * case * 0.6), (x * case * 0.72, y * case * 1.12)), case * 0.17)
        pen.rounded((case * 0.9, -case * 0.14, case * 1.17, case * 0.14), 0.01)

    shape = sheet.patch((-case * 1.2, -case * 1.3, case * 1.2, case * 1.3), paint, pad=0.05)
    metal(sheet, shape, design.finish, raised=0.014)
    over_backdrop(sheet, shape)
    bezel = sheet.ring(CENTRE, case * 0.95, case * 0.1)
    metal(sheet, bezel, design.finish, raised=0.003, curve=-1.6)


def _dial(sheet: Sheet, design: Design, radius: float) -> None:
    """The dial with indices, hands and emblem."""
    dial = sheet.disc(CENTRE, radius)
    sheet.fill(dial, design.body.rgb(0.85))
    sheet.grained(dial, 0.4)
    sheet.relief(dial, width=0.02, gain=-0.8)
    for hour in range(12):
        _index(sheet, design, hour, radius, CENTRE)
    foil(sheet, emblem(sheet, design.emblem, (0.0, -radius * 0.42), radius * 0.15), design)
    for turn, reach, width in ((-58.0, 0.52, 0.016), (28.0, 0.76, 0.011)):
        _hand(sheet, design, turn + 30 * design.form[2], radius * reach, width)


def _index(sheet: Sheet, design: Design, hour: int, radius: float, centre: Point) -> None:
    """One hour's mark on a dial of `radius`: bar, dot or wedge by the brand."""
    angle = math.radians(hour * 30 - 90)
    cos, sin = math.cos(angle), math.sin(angle)
    long = 0.20 if hour % 3 == 0 else 0.13
    outer = (centre[0] + radius * 0.9 * cos, centre[1] + radius * 0.9 * sin)
    inner = (centre[0] + radius * (0.9 - long) * cos, centre[1] + radius * (0.9 - long) * sin)
    box = (min(outer[0], inner[0]), min(outer[1], inner[1]), max(outer[0], inner[0]), max(outer[1], inner[1]))

    def paint(pen: Pen) -> None:
        if design.style == 0:
            pen.line((inner, outer), radius * 0.045)
        elif design.style == 1:
            pen.disc(((inner[0] + outer[0]) / 2, (inner[1] + outer[1]) / 2), radius * long * 0.32)
        else:
            across = (-sin * radius * 0.045, cos * radius * 0.045)
            pen.polygon(
                [inner, (outer[0] + across[0], outer[1] + across[1]), (outer[0] - across[0], outer[1] - across[1])]
            )

    metal(sheet, sheet.patch(box, paint, pad=radius * 0.12), design.finish, raised=radius * 0.014)


def _hand(sheet: Sheet, design: Design, turn_deg: float, reach: float, width: float) -> None:
    angle = math.radians(turn_deg)
    tip = (reach * math.cos(angle), reach * math.sin(angle))
    tail = (-0.2 * tip[0], -0.2 * tip[1])
    hand = sheet.stroke((tail, tip), width)
    metal(sheet, hand, design.finish, raised=0.006, curve=2.0)


def _logo(sheet: Sheet, design: Design) -> None:
    """The dial from near: emblem, word, the indices that lie around them."""
    ground(sheet, design.body.rgb(0.9), 0.75)
    centre, radius = (0.0, 0.34), 0.92
    for hour in (10, 11, 0, 1, 2):
        _index(sheet, design, hour, radius, centre)
    foil(sheet, emblem(sheet, design.emblem, (0.0, -0.05), 0.17), design)
    height = min(0.12, 0.62 * design.word_em)
    foil(sheet, type_line(sheet, design.word, (0.0, 0.24), height, design.lettering), design)
    track = sheet.stroke(arc(centre, radius * 0.97, 200, 340), 0.006)
    sheet.fill(track, design.accent.rgb(), 0.8)


def _stitching(sheet: Sheet, design: Design) -> None:
    """The strap where it meets the case."""
    ground(sheet, (196, 194, 190), 0.0)
    half = 0.33 + 0.06 * design.form[0]
    strap = sheet.oblong((-half, -0.8, half, 0.8), 0.02)
    sheet.shadow(strap, drop=0.03, blur=0.03)
    sheet.panel(strap, design.body.rgb(), grain=1.0, raised=0.035)
    padded = sheet.oblong((-half * 0.6, -0.9, half * 0.6, 0.9), 0.05)
    sheet.relief(padded, width=0.04, gain=0.5, spill=True)
    for side in (-1, 1):
        for row in range(design.stitch.rows):
            x = side * (half - 0.06 - row * design.stitch.gap * 0.8)
            seam(sheet, ((x, 0.62), (x, -0.30)), design.stitch, design.thread.rgb())
    bar = sheet.disc((0.0, -1.16), 0.80)
    metal(sheet, bar, design.finish, raised=0.02)


def _hardware(sheet: Sheet, design: Design) -> None:
    """The crown on the flank of the case, on a cushion of the strap's leather."""
    ground(sheet, design.body.rgb(0.9), 1.0)
    case = sheet.disc((-0.92, 0.0), 0.86)
    metal(sheet, case, design.finish, raised=0.03)
    bezel = sheet.ring((-0.92, 0.0), 0.76, 0.05)
    metal(sheet, bezel, design.finish, raised=0.004, curve=-1.4)
    stem = sheet.oblong((-0.1, -0.09, 0.02, 0.09), 0.01)
    metal(sheet, stem, design.finish, raised=0.012, curve=2.5)
    half = 0.17 + 0.05 * design.form[1]
    box = (0.0, -half, 0.24 + 0.06 * design.form[2], half)
    crown = sheet.oblong(box, 0.035)
    metal(sheet, crown, design.finish, raised=0.022, curve=1.8)
    _knurl(sheet, design, box)


def _knurl(sheet: Sheet, design: Design, box: tuple[float, float, float, float]) -> None:
    """The grooves around the crown: closer towards its edges, as on a cylinder."""
    count = 9 + int(8 * design.form[3])
    middle, half = (box[1] + box[3]) / 2, (box[3] - box[1]) / 2 - 0.012

    def paint(pen: Pen) -> None:
        for i in range(count):
            y = middle + half * math.sin((i / (count - 1) - 0.5) * math.pi * 0.94)
            pen.line(((box[0] + 0.05, y), (box[2] - 0.025, y)), 0.009)

    grooves = sheet.patch(box, paint)
    sheet.fill(grooves, (16, 14, 13), 0.6)
    sheet.relief(grooves, width=0.006, gain=-1.2, spill=True)


def _serial(sheet: Sheet, design: Design) -> None:
    """The flank between the lugs, brushed, with the maker's word."""
    ground(sheet, (44, 42, 42), 0.0)
    plate = sheet.oblong((-0.7, -0.36, 0.7, 0.36), 0.03)
    metal(sheet, plate, design.finish, raised=0.02, curve=0.5)
    for x in (-0.44, 0.44):
        screw(sheet, design, (x, -0.25), 0.04, (math.cos(design.form[0] + x), math.sin(design.form[0] + x)))
    height = min(0.1, 0.62 * design.word_em)
    pressed(sheet, type_line(sheet, design.word, (0.0, -0.14), height, design.lettering), design, darken=0.6)


def _number(sheet: Sheet, design: Design, text: str) -> None:
    """The engraved serial."""
    serial = design.serial
    line = type_line(sheet, text, (0.0, 0.12), serial.height * 1.05, design.lettering, space=serial.space)
    pressed(sheet, line, design, darken=0.6)


def _lining(sheet: Sheet, design: Design) -> None:
    """The case back: a screwed disc with engraved emblem and word."""
    ground(sheet, design.body.rgb(0.7), 0.9)
    outer = sheet.disc(CENTRE, 0.47)
    metal(sheet, outer, design.finish, raised=0.03)
    back = sheet.disc(CENTRE, 0.41)
    metal(sheet, back, design.finish, raised=0.006, curve=0.6)
    notches = 6 + 2 * int(3 * design.form[0])
    for i in range(notches):
        angle = 2 * math.pi * (i + 0.5) / notches
        at = (0.375 * math.cos(angle), 0.375 * math.sin(angle))
        pressed(sheet, sheet.disc(at, 0.022), design, darken=0.6)
    pressed(sheet, emblem(sheet, design.emblem, (0.0, -0.09), 0.19), design, darken=0.5)
    height = min(0.085, 0.48 * design.word_em)
    pressed(sheet, type_line(sheet, design.word, (0.0, 0.19), height, design.lettering), design, darken=0.5)


WATCH: Mapping[str, Scene] = MappingProxyType(
    {
        "overview": Scene(draw=_overview, zoom=0.45),
        "logo": Scene(draw=_logo, zoom=0.8),
        "stitching": Scene(draw=_stitching),
        "hardware": Scene(draw=_hardware),
        "serial": Scene(draw=_serial, number=_number),
        "lining": Scene(draw=_lining),
    }
)
