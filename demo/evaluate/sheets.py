"""Contact sheets of the worst errors, to look at: a reference, the photograph, its deviation map, and the truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from demo.evaluate.measure import cells_of
from demo.evaluate.outcomes import Outcome
from demo.evaluate.photographs import mask_of, photograph_of, touched
from demo.photographs import REFERENCE_SPECIMENS, Specimen
from schemas.verdict import Grid
from worker.core.explanation import lay_over

CELL, CAPTION, ROWS = 320, 22, 12
RED = (200, 30, 30)
MAGENTA = (255, 0, 255)


def draw_worst(found: Sequence[Outcome], photographs: Path, out: Path) -> Path:
    """Write a sheet of forgeries called authentic and one of genuine items called counterfeit, the surest first."""
    out.mkdir(parents=True, exist_ok=True)
    wrong = [one for one in found if one.wrong and not one.judged.case.spoilt]
    kinds = {
        "forged-called-authentic": sorted((o for o in wrong if not o.genuine), key=lambda one: -one.score),
        "genuine-called-counterfeit": sorted((o for o in wrong if o.genuine), key=lambda one: one.score),
    }
    for name, errors in kinds.items():
        path = out / f"{name}.png"
        path.unlink(missing_ok=True)
        if errors:
            _sheet(errors[:ROWS], photographs).save(path)
    return out


def _sheet(errors: Sequence[Outcome], photographs: Path) -> Image.Image:
    sheet = Image.new("RGB", (3 * CELL, len(errors) * (CELL + CAPTION)), (24, 24, 28))
    draw = ImageDraw.Draw(sheet)
    for row, one in enumerate(errors):
        view = _shown(one)
        top = row * (CELL + CAPTION)
        draw.text((4, top + 5), _caption(one, view), fill=(225, 225, 225))
        for column, picture in enumerate(_row(one, view, photographs)):
            sheet.paste(picture, (column * CELL, top + CAPTION))
    return sheet


def _shown(one: Outcome) -> str:
    """A forged item's most suspect view among those it touches; a genuine item's most suspect one."""
    specimen = one.judged.case.specimen
    views = [view for view in one.judged.event.views if not specimen.family or view.view in touched(specimen)]
    return min(views, key=lambda view: math.inf if view.p_genuine is None else view.p_genuine).view


def _caption(one: Outcome, view: str) -> str:
    specimen = one.judged.case.specimen
    truth = f"forged: {specimen.family} at {specimen.strength:g}" if specimen.family else "genuine"
    return f"{one.judged.case.job_id} | {view} | {truth} | said {one.verdict.value}, score {one.score:.2f}"


def _row(one: Outcome, view: str, photographs: Path) -> list[Image.Image]:
    specimen = one.judged.case.specimen
    reference = Specimen(sku=specimen.sku, specimen=REFERENCE_SPECIMENS.start)
    probe = _opened(photograph_of(photographs, specimen, view))
    grid = next(found.deviation_map for found in one.judged.event.views if found.view == view)
    laid = probe if grid is None else _laid(probe, grid)
    if view in touched(specimen):
        laid = _outlined(laid, mask_of(photographs, specimen, view))
    return [_opened(photograph_of(photographs, reference, view)), probe, laid]


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as opened:
        return ImageOps.exif_transpose(opened).convert("RGB").resize((CELL, CELL), Image.Resampling.LANCZOS)


def _laid(probe: Image.Image, grid: Grid) -> Image.Image:
    if not cells_of(grid).any():
        return probe
    return Image.fromarray(lay_over(np.asarray(probe), grid, colour=RED))


def _outlined(picture: Image.Image, mask: np.ndarray) -> Image.Image:
    """What the forgery changed, in magenta: the truth beside the map."""
    small = np.asarray(Image.fromarray(mask).convert("L").resize((CELL, CELL), Image.Resampling.BOX)) > 0
    inner = small & np.roll(small, 1, 0) & np.roll(small, -1, 0) & np.roll(small, 1, 1) & np.roll(small, -1, 1)
    pixels = np.array(picture)
    pixels[small & ~inner] = MAGENTA
    return Image.fromarray(pixels)
