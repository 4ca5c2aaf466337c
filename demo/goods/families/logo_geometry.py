"""An emblem drawn from memory: its inner figure, its ring and its strokes are off."""

from __future__ import annotations

from dataclasses import replace

from demo.goods.design import Design
from demo.goods.families.family import Family, lean


def _forge(design: Design, strength: float) -> Design:
    way = lean("logo_geometry", design) * strength
    mark = design.emblem
    changed = replace(
        mark,
        inner=mark.inner * (1 - 0.10 * way),
        swing=mark.swing * (1 + 0.16 * way),
        ring=mark.ring * (1 + 0.45 * strength),
        turn_deg=mark.turn_deg + 5.0 * way,
    )
    return replace(design, emblem=changed)


LOGO_GEOMETRY = Family(name="logo_geometry", views=("logo", "lining"), local=True, forge=_forge)
