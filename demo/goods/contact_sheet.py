"""A contact sheet to look at: `python -m demo.goods.contact_sheet OUT.png [--sku CATEGORY:SEED]`.

One row a view; columns: two genuine specimens, then the first specimen forged by each family. Forged cells that the
family does not touch are left dark; `--mask` outlines what changed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from demo.goods.families import FAMILIES
from demo.goods.rendering import Rendering, render
from demo.goods.skus import Sku, catalogue, make_sku


def contact_sheet(sku: Sku, *, cell: int, size: int, strength: float, outlined: bool) -> Image.Image:
    """The sheet of one SKU, RGB; photographs are rendered at `size` and shown at `cell` pixels."""
    columns: list[tuple[str, int, str | None]] = [("genuine 1", 1, None), ("genuine 2", 2, None)]
    columns += [(name, 1, name) for name in FAMILIES]
    views = ("overview", "logo", "stitching", "hardware", "serial", "lining")
    sheet = Image.new("RGB", (cell * len(columns), (cell + 16) * len(views)), (24, 24, 28))
    draw = ImageDraw.Draw(sheet)
    for row, view in enumerate(views):
        for column, (title, specimen, family) in enumerate(columns):
            corner = (column * cell, row * (cell + 16))
            draw.text((corner[0] + 4, corner[1] + 2), f"{view} · {title}", fill=(220, 220, 220))
            if family is None or view in FAMILIES[family].views:
                shown = render(sku, view, specimen=specimen, family=family, strength=strength, size=size)
                sheet.paste(_cell(shown, cell, outlined), (corner[0], corner[1] + 16))
    return sheet


def _cell(shown: Rendering, cell: int, outlined: bool) -> Image.Image:
    picture = shown.image.copy()
    if outlined and shown.mask.any():
        edge = shown.mask ^ (np.roll(shown.mask, 3, 0) & np.roll(shown.mask, 3, 1) & shown.mask)
        picture[edge] = (255, 0, 255)
    return Image.fromarray(picture, "RGB").resize((cell, cell), Image.Resampling.LANCZOS)


def _sku(text: str) -> Sku:
    category, _, seed = text.partition(":")
    return make_sku(category, int(seed))


def main() -> None:
    """Parse the command line and write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sku", type=_sku, default=catalogue(1)[0], help="CATEGORY:SEED, such as watch:1001")
    parser.add_argument("--cell", type=int, default=256)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--strength", type=float, default=1.0)
    parser.add_argument("--mask", action="store_true", help="outline what a forgery changed")
    options = parser.parse_args()
    sheet = contact_sheet(
        options.sku, cell=options.cell, size=options.size, strength=options.strength, outlined=options.mask
    )
    sheet.save(options.out)


if __name__ == "__main__":
    main()
