"""One forged job of a demo's run in a picture: what was compared, where it departs, and the numbers of its verdict.

Two views are shown, the one least and the one most like genuine; the whole report of a job is `assay report`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from demo.goods import FAMILIES
from schemas.codes import Verdict
from schemas.verdict import Grid, VerdictEvent, ViewResult
from worker.core.explanation import lay_over
from worker.report.entry import ReportEntry
from worker.report.overlay import ATTENTION_COLOUR, DEVIATION_COLOUR
from worker.report.pictures import Pixels, centre_square, decode

PLATE_PX, GAP_PX, LINE_PX, TEXT_PX = 260, 8, 24, 15
PAPER, INK = (250, 249, 246), (32, 33, 36)
PLATES = ("nearest reference", "photograph", "attention", "deviation")
FORGED = "forged: "  # how a demo's entries say what was forged


def chosen(entries: Sequence[ReportEntry]) -> ReportEntry | None:
    """The first job whose forgery has a place and was found; None where there is none."""
    for entry in entries:
        event = entry.outcome
        family = FAMILIES.get(entry.note.removeprefix(FORGED))
        if isinstance(event, VerdictEvent) and family and family.local and event.verdict is Verdict.COUNTERFEIT:
            return entry
    return None


def worked(entry: ReportEntry) -> Image.Image | None:
    """The picture, RGB; None for a job without a verdict or without kept photographs."""
    event = entry.outcome
    if not isinstance(event, VerdictEvent):
        return None
    asked = sorted((v for v in event.views if v.p_genuine is not None), key=lambda view: view.p_genuine or 0.0)
    shown = [(view, plates) for view in (asked[:1] + asked[1:][-1:]) if (plates := _plates(entry, event, view))]
    if not shown:
        return None
    width = len(PLATES) * (PLATE_PX + GAP_PX) + GAP_PX
    row_px = PLATE_PX + 2 * LINE_PX + GAP_PX
    sheet = Image.new("RGB", (width, 2 * LINE_PX + len(shown) * row_px), PAPER)
    draw = ImageDraw.Draw(sheet)
    for line, text in enumerate(_verdict(entry, event)):
        _write(draw, text, GAP_PX, line * LINE_PX)
    for row, (view, plates) in enumerate(shown):
        _row(sheet, draw, view, plates, 2 * LINE_PX + row * row_px)
    return sheet


def _row(sheet: Image.Image, draw: ImageDraw.ImageDraw, view: ViewResult, plates: Sequence[Pixels], top: int) -> None:
    _write(draw, _measures(view), GAP_PX, top)
    for column, (label, plate) in enumerate(zip(PLATES, plates, strict=True)):
        left = GAP_PX + column * (PLATE_PX + GAP_PX)
        sheet.paste(Image.fromarray(plate).resize((PLATE_PX, PLATE_PX)), (left, top + LINE_PX))
        _write(draw, label, left, top + LINE_PX + PLATE_PX)


def _plates(entry: ReportEntry, event: VerdictEvent, view: ViewResult) -> list[Pixels]:
    """In the order of PLATES; empty where a photograph was not kept."""
    if not view.references:
        return []
    kept = entry.photographs
    reference = kept.reference(event.tenant, view.references[0].reference_id)
    photographs = [_square(data) for data in (reference, kept.view(event.tenant, view.sha256))]
    found = [pixels for pixels in photographs if pixels is not None]
    if len(found) < len(photographs):
        return []
    maps = ((view.attention, ATTENTION_COLOUR), (view.deviation_map, DEVIATION_COLOUR))
    return [*found, *(_under(found[1], grid, colour) for grid, colour in maps)]


def _square(data: bytes | None) -> Pixels | None:
    pixels = None if data is None else decode(data, 2 * PLATE_PX)
    return None if pixels is None else centre_square(pixels)


def _under(photograph: Pixels, grid: Grid | None, colour: tuple[int, int, int]) -> Pixels:
    """On grey, so that the map's colour is the only one."""
    grey = np.repeat(photograph.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8)
    return grey if grid is None else lay_over(grey, grid, colour=colour)


def _verdict(entry: ReportEntry, event: VerdictEvent) -> tuple[str, str]:
    confidence = "" if event.confidence is None else f", confidence {event.confidence:.3f}"
    genuine = "" if event.p_genuine is None else f"; probability of genuine {event.p_genuine:.3f}"
    reasons = ", ".join(f"{one.code.value} ({one.view})" if one.view else one.code.value for one in event.reasons[:5])
    return f"{event.sku}, {entry.note}. Verdict: {event.verdict.value}{confidence}{genuine}", f"Reasons: {reasons}"


def _measures(view: ViewResult) -> str:
    told = {"similarity": view.similarity, "deviation": view.deviation, "probability of genuine": view.p_genuine}
    return f"{view.view}: " + ", ".join(f"{name} {value:.3f}" for name, value in told.items() if value is not None)


def _write(draw: ImageDraw.ImageDraw, text: str, left: int, top: int) -> None:
    draw.text((left, top + LINE_PX / 2), text, fill=INK, font=ImageFont.load_default(TEXT_PX), anchor="lm")
