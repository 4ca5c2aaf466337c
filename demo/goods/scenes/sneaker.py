"""The sneaker: sole, upper of overlaid panels, laces, printed size label and insole."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from demo.goods.design import Design
from demo.goods.marks import bezier, emblem, offset, type_line
from demo.goods.metal import metal
from demo.goods.scenes.parts import branded, foil, ground, over_backdrop, pressed, seam, studio
from demo.goods.scenes.scene import Scene, weave_grain
from demo.goods.seeds import generator
from demo.goods.sheet import Pen, Point, Sheet, bounds

CREAM = (232, 228, 218)
INK = (34, 32, 34)


def _overview(sheet: Sheet, design: Design) -> None:
    studio(sheet)
    _sole(sheet, design)
    _upper(sheet, design)
    _panels(sheet, design)
    _eyestay(sheet, design)


def _sole(sheet: Sheet, design: Design) -> None:
    """Outsole and midsole, thicker at the heel."""
    heel = 0.10 + 0.05 * design.form[0]
    top = bezier((-0.43, 0.25 - heel * 0.4), (-0.1, 0.27 - heel * 0.3), (0.2, 0.25), (0.44, 0.20))
    bottom = bezier((0.445, 0.235), (0.36, 0.30), (0.1, 0.31), (-0.41, 0.31))
    sole = sheet.patch(bounds([*top, *bottom]), lambda pen: _rounded(pen, [*top, *bottom]))
    sheet.shadow(sole, drop=0.02, blur=0.03, opacity=0.7)
    sheet.panel(sole, CREAM, grain=0.0, raised=0.012)
    over_backdrop(sheet, sole)
    line = sheet.stroke([(x, y + 0.04) for x, y in top], 0.008)
    sheet.fill(line.within(sole), design.accent.rgb(), 0.95)
    tread = sheet.stroke([(x, y - 0.004) for x, y in bottom[6:]], 0.02)
    sheet.panel(tread.within(sole), design.accent.rgb(0.55), raised=0.004)


def _rounded(pen: Pen, outline: list[Point]) -> None:
    """A polygon with softened corners."""
    pen.polygon(outline)
    pen.line([*outline, outline[0]], 0.024)


def _outline(design: Design) -> list[Point]:
    """The upper's side: heel, collar, tongue, vamp, toe."""
    collar = -0.10 - 0.20 * design.form[1]
    return [
        (-0.42, 0.23),
        *bezier((-0.42, 0.23), (-0.46, 0.05), (-0.40, collar + 0.05), (-0.38, collar)),
        *bezier((-0.38, collar), (-0.28, collar + 0.06), (-0.20, collar + 0.08), (-0.13, collar - 0.05)),
        *bezier((-0.06, collar - 0.07), (0.08, 0.02), (0.18, 0.06), (0.29, 0.08)),
        *bezier((0.29, 0.08), (0.40, 0.10), (0.45, 0.15), (0.44, 0.22)),
        *bezier((0.44, 0.22), (0.2, 0.27), (-0.1, 0.26), (-0.42, 0.23)),
    ]


def _upper(sheet: Sheet, design: Design) -> None:
    collar = -0.10 - 0.20 * design.form[1]
    tongue = [
        (-0.36, collar + 0.03),
        *bezier((-0.2, collar + 0.0), (-0.12, collar - 0.1), (-0.06, collar - 0.1), (0.0, 0.0)),
    ]
    behind = sheet.patch(bounds(tongue), lambda pen: _rounded(pen, tongue))
    sheet.panel(behind, design.lining.rgb(0.7), grain=0.2, raised=0.01)
    over_backdrop(sheet, behind)
    upper = sheet.patch(bounds(_outline(design)), lambda pen: _rounded(pen, _outline(design)))
    sheet.panel(upper, design.body.rgb(), grain=0.85, raised=0.028)
    over_backdrop(sheet, upper)


def _panels(sheet: Sheet, design: Design) -> None:
    """Toe cap, heel counter, the side stripe and the emblem."""
    upper = sheet.shape(_outline(design))
    toe = [*bezier((0.27, 0.06), (0.22, 0.14), (0.22, 0.2), (0.25, 0.3)), (0.6, 0.3), (0.6, 0.0)]
    heel = [*bezier((-0.30, -0.36), (-0.26, 0.0), (-0.30, 0.16), (-0.20, 0.3)), (-0.6, 0.3), (-0.6, -0.36)]
    for outline, colour in ((toe, design.accent.rgb(0.95)), (heel, design.accent.rgb(0.95))):
        piece = sheet.shape(outline)
        sheet.panel(piece.within(upper), colour, grain=0.5, raised=0.007)
    swing = 0.24 * design.form[2]
    stripe = bezier((-0.18, 0.2), (-0.08, 0.02 + swing), (0.02, 0.2 - swing), (0.12, 0.06), 30)
    band = sheet.stroke(stripe, 0.03 + 0.03 * design.form[3])
    sheet.panel(band.within(upper), design.lining.rgb(), raised=0.006)
    foil(sheet, emblem(sheet, design.emblem, (-0.33, 0.06), 0.045), design)


def _eyestay(sheet: Sheet, design: Design) -> None:
    """Laces and eyelets up the throat."""
    collar = -0.10 - 0.20 * design.form[1]
    row = bezier((-0.09, collar + 0.03), (0.02, collar + 0.14), (0.1, 0.04), (0.2, 0.09), 5)
    for x, y in row[:6]:
        lace = sheet.stroke(((x, y), (x + 0.055, y - 0.06)), 0.017)
        sheet.panel(lace, CREAM, raised=0.004)
        over_backdrop(sheet, lace)
        metal(sheet, sheet.ring((x, y), 0.016, 0.008), design.finish, raised=0.003)


def _logo(sheet: Sheet, design: Design) -> None:
    """A moulded badge on the upper."""
    ground(sheet, design.body.rgb(), 1.0)
    high, wide = 0.40, 0.40 + 0.05 * design.form[0]
    box = (-wide, -high, wide, high)
    badge = sheet.oblong(box, 0.04 + 0.2 * design.form[1])
    sheet.panel(badge, design.lining.rgb(0.95), grain=0.0, raised=0.02)
    branded(sheet, emblem(sheet, design.emblem, (0.0, -0.10), 0.21), design)
    height = min(0.13, 0.68 * design.word_em)
    branded(sheet, type_line(sheet, design.word, (0.0, 0.25), height, design.lettering), design)


def _stitching(sheet: Sheet, design: Design) -> None:
    """Two overlays meeting on the upper, each sewn along its curved edge."""
    ground(sheet, design.body.rgb(), 1.0)
    sag = 0.16 + 0.2 * design.form[0]
    lower = bezier((-0.75, 0.0), (-0.2, sag), (0.2, -sag + 0.2), (0.75, 0.12))
    _overlay(sheet, design, [*lower, (0.75, 0.8), (-0.75, 0.8)], design.body.rgb(1.12))
    _sewn(sheet, design, lower, 1.0)
    rise = 0.1 + 0.2 * design.form[1]
    upper = bezier((-0.75, -0.30 - rise), (-0.2, -0.18), (0.2, -0.34 + rise * 0.5), (0.75, -0.22))
    _overlay(sheet, design, [*upper, (0.75, -0.8), (-0.75, -0.8)], design.body.rgb(0.72))
    _sewn(sheet, design, upper, -1.0)


def _overlay(sheet: Sheet, design: Design, outline: list[Point], colour: tuple[int, int, int]) -> None:
    piece = sheet.shape(outline)
    sheet.panel(piece, colour, grain=0.8, raised=0.016)


def _sewn(sheet: Sheet, design: Design, edge: list[Point], way: float) -> None:
    """Rows of stitches inside an overlay's edge; `way` is 1.0 below it and -1.0 above."""
    for row in range(design.stitch.rows):
        inset = way * (0.05 + row * design.stitch.gap)
        seam(sheet, offset(edge, inset), design.stitch, design.thread.rgb())


def _hardware(sheet: Sheet, design: Design) -> None:
    """Eyelets with a flat lace crossing between them."""
    ground(sheet, design.body.rgb(0.7), 1.0)
    half = 0.13 + 0.04 * design.form[0]
    for side in (-1, 1):
        box = (min(side * half, side * 0.8), -0.8, max(side * half, side * 0.8), 0.8)
        stay = sheet.oblong(box, 0.05)
        sheet.panel(stay, design.body.rgb(1.05), grain=1.0, raised=0.02)
    rows = (-0.33, 0.02, 0.37)
    eyes = [(side * (half + 0.14), y) for y in rows for side in (-1, 1)]
    for eye in eyes:
        _eyelet(sheet, design, eye)
    for index, y in enumerate(rows[:-1]):
        way = 1 if index % 2 == 0 else -1
        _lace(sheet, design, (-way * (half + 0.14), y), (way * (half + 0.14), rows[index + 1]))


def _eyelet(sheet: Sheet, design: Design, eye: Point) -> None:
    """A metal ring with a dark hole."""
    radius = 0.075 + 0.02 * design.form[2]
    metal(sheet, sheet.disc(eye, radius), design.finish, raised=0.012)
    hole = sheet.disc(eye, radius * 0.52)
    sheet.fill(hole, (12, 10, 10))
    sheet.relief(hole, width=0.01, gain=-0.9, spill=True)


def _lace(sheet: Sheet, design: Design, start: Point, end: Point) -> None:
    """A flat woven lace with its ribs."""
    width = 0.07 + 0.03 * design.form[3]
    box = (min(start[0], end[0]), min(start[1], end[1]), max(start[0], end[0]), max(start[1], end[1]))
    lace = sheet.stroke((start, end), width)
    sheet.shadow(lace, drop=0.015, blur=0.015)
    sheet.panel(lace, design.lining.rgb(1.05), grain=0.2, raised=0.01)
    dx, dy = end[0] - start[0], end[1] - start[1]

    def ribs(pen: Pen) -> None:
        for i in range(1, 30):
            x, y = start[0] + dx * i / 30, start[1] + dy * i / 30
            pen.line(((x - dy * 0.08, y + dx * 0.08), (x + dy * 0.08, y - dx * 0.08)), 0.005)

    grooves = sheet.patch(box, ribs, pad=0.08).within(lace)
    sheet.fill(grooves, (20, 18, 18), 0.35)
    sheet.relief(grooves, width=0.004, gain=-0.6)


def _serial(sheet: Sheet, design: Design) -> None:
    """The printed size label inside the tongue."""
    ground(sheet, design.lining.rgb(0.8), 1.0)
    box = (-0.43, -0.42, 0.43, 0.42)
    label = sheet.oblong(box, 0.03)
    sheet.panel(label, CREAM, raised=0.008)
    height = min(0.11, 0.66 * design.word_em)
    _printed(sheet, design, design.word, (0.0, -0.31), height)
    _sizes(sheet, design)
    _bars(sheet, design)


def _printed(sheet: Sheet, design: Design, text: str, centre: Point, height: float) -> None:
    """Ink on the label: pressed into it as deep as the maker engraves."""
    line = type_line(sheet, text, centre, height, design.lettering, space=design.serial.space)
    sheet.fill(line, INK, 0.9)
    pressed(sheet, line, design, darken=0.1)


def _sizes(sheet: Sheet, design: Design) -> None:
    """A ruled row of sizes, fixed by the SKU."""
    size = 36 + int(8 * design.form[0])

    def rules(pen: Pen) -> None:
        for y in (-0.22, -0.05):
            pen.line(((-0.38, y), (0.38, y)), 0.006)
        for x in (-0.13, 0.13):
            pen.line(((x, -0.22), (x, -0.05)), 0.005)

    sheet.fill(sheet.patch((-0.4, -0.24, 0.4, -0.03), rules), INK, 0.85)
    height = min(0.075, 0.225 * design.word_em * len(design.word) / 4)
    for x, text in ((-0.26, f"EU{size}"), (0.0, f"US{size - 33}"), (0.26, f"UK{size - 34}")):
        line = type_line(sheet, text, (x, -0.135), height, design.lettering)
        sheet.fill(line, INK, 0.9)


def _bars(sheet: Sheet, design: Design) -> None:
    """The article's bar code."""
    widths = generator("bars", design.seed).integers(1, 4, 60) * 0.0042

    def paint(pen: Pen) -> None:
        x = -0.32
        for i, width in enumerate(widths.tolist()):
            if i % 2 == 0 and x + width < 0.32:
                pen.polygon([(x, 0.2), (x + width, 0.2), (x + width, 0.36), (x, 0.36)])
            x += width

    sheet.fill(sheet.patch((-0.33, 0.19, 0.33, 0.37), paint), INK, 0.9)


def _number(sheet: Sheet, design: Design, text: str) -> None:
    """The pair's number between the sizes and the bars."""
    _printed(sheet, design, text, (0.0, 0.08), design.serial.height)


def _lining(sheet: Sheet, design: Design) -> None:
    """The insole with its printed emblem and word."""
    ground(sheet, design.body.rgb(0.6), 0.4)
    outline = [
        *bezier((-0.30, 0.8), (-0.42, 0.2), (-0.36, -0.1), (-0.34 - 0.06 * design.form[0], -0.8)),
        *bezier((0.36, -0.8), (0.44, -0.2), (0.28, 0.1), (0.32 + 0.06 * design.form[1], 0.8)),
    ]
    sole = sheet.shape(outline)
    sheet.panel(sole, design.lining.rgb(), grain=1.0, raised=0.03)
    foil(sheet, emblem(sheet, design.emblem, (0.0, -0.12), 0.23), design)
    height = min(0.12, 0.5 * design.word_em)
    foil(sheet, type_line(sheet, design.word, (0.0, 0.26), height, design.lettering), design)


SNEAKER: Mapping[str, Scene] = MappingProxyType(
    {
        "overview": Scene(draw=_overview, zoom=0.45),
        "logo": Scene(draw=_logo),
        "stitching": Scene(draw=_stitching),
        "hardware": Scene(draw=_hardware),
        "serial": Scene(draw=_serial, grain=weave_grain, number=_number),
        "lining": Scene(draw=_lining, grain=weave_grain),
    }
)
