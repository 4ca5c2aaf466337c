"""A dye that misses the maker's colour by more than any lamp would."""

from __future__ import annotations

from dataclasses import replace

from demo.goods.design import Design
from demo.goods.families.family import Family, lean


def _forge(design: Design, strength: float) -> Design:
    way = lean("hue", design)
    body = design.body
    changed = replace(body, hue=body.hue + 0.042 * way * strength, saturation=body.saturation * (1 - 0.15 * strength))
    return replace(design, body=changed)


HUE = Family(name="hue", views=("overview", "logo", "stitching", "hardware"), local=False, forge=_forge)
