"""Parts that several scenes share: grounds, pressed and printed marks, seams, screws."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from demo.goods.design import Design, Rgb, Stitch
from demo.goods.marks import stitches
from demo.goods.metal import metal
from demo.goods.sheet import EDGE, Patch, Point, Sheet


def ground(sheet: Sheet, colour: Rgb, grain: float) -> None:
    """Cover the whole sheet with one material."""
    sheet.rgb.paste(colour, (0, 0, sheet.side, sheet.side))
    sheet.grain.paste(round(255 * grain), (0, 0, sheet.side, sheet.side))


def studio(sheet: Sheet) -> None:
    """A pale backdrop that falls off downwards; its colour varies by photograph."""
    ground(sheet, (206, 205, 203), 0.0)
    floor = sheet.patch((-EDGE, 0.22, EDGE, EDGE), lambda pen: pen.rounded((-1, 0.3, 1, 1), 0), pad=0.1)
    sheet.shadow(floor, drop=0.0, blur=0.09, opacity=0.18)
    sheet.backdrop = Image.new("L", (sheet.side, sheet.side), 255)


def over_backdrop(sheet: Sheet, patch: Patch) -> None:
    """Say that the backdrop does not show through this part."""
    if sheet.backdrop is not None:
        sheet.backdrop.paste(0, (patch.left, patch.top), patch.mask)


def pressed(sheet: Sheet, patch: Patch, design: Design, *, darken: float = 0.32) -> None:
    """A mark pressed or engraved: edges as wide and deep as the maker engraves, the floor darker."""
    depth = design.engraving
    sheet.fill(patch, (8, 6, 5), darken * (0.45 + depth))
    sheet.relief(patch, width=0.015 * depth, gain=-(0.5 + 0.9 * depth), spill=True)


def branded(sheet: Sheet, patch: Patch, design: Design) -> None:
    """A mark in the way of this brand: blind-pressed, foil-pressed or in metal."""
    if design.style == 0:
        pressed(sheet, patch, design)
    elif design.style == 1:
        sheet.fill(patch, design.finish.tint.rgb(0.92), 0.93)
        sheet.grained(patch, 0.35)
        pressed(sheet, patch, design, darken=0.06)
    else:
        foil(sheet, patch, design)


def foil(sheet: Sheet, patch: Patch, design: Design) -> None:
    """A mark printed in the accent colour and lightly pressed."""
    sheet.fill(patch, design.accent.rgb(), 0.95)
    sheet.grained(patch, 0.3)
    pressed(sheet, patch, design, darken=0.04)


def seam(sheet: Sheet, path: Sequence[Point], stitch: Stitch, thread: Rgb) -> None:
    """A run of stitches: needle holes, sunk thread, light on each stitch."""
    run, holes = stitches(sheet, path, stitch)
    sheet.fill(holes, (10, 8, 7), 0.75)
    sheet.shadow(run, drop=0.004, blur=0.004, opacity=0.7)
    sheet.fill(run, thread)
    sheet.grained(run, 0.15)
    sheet.relief(run, width=0.006, gain=1.1)


def screw(sheet: Sheet, design: Design, centre: Point, radius: float, turn: Point) -> None:
    """A slotted screw; `turn` is the slot's direction."""
    x, y = centre
    metal(sheet, sheet.disc(centre, radius), design.finish, raised=0.004)
    reach = radius * 0.8
    ends = ((x - turn[0] * reach, y - turn[1] * reach), (x + turn[0] * reach, y + turn[1] * reach))
    slot = sheet.stroke(ends, radius * 0.24)
    sheet.fill(slot, (18, 16, 15), 0.85)
    sheet.relief(slot, width=0.003, gain=-1.0, spill=True)
