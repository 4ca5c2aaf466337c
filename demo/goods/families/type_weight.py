"""Lettering cut too bold or too light, and spaced otherwise."""

from __future__ import annotations

from dataclasses import replace

from demo.goods.design import Design
from demo.goods.families.family import Family, lean


def _forge(design: Design, strength: float) -> Design:
    way = lean("type_weight", design)
    lettering = design.lettering
    if lettering.tracking < 0.08:
        way = 1.0  # letters that nearly touch can only be spread
    changed = replace(
        lettering,
        weight=lettering.weight + 0.026 * strength,
        tracking=lettering.tracking + 0.065 * way * strength,
    )
    return replace(design, lettering=changed)


TYPE_WEIGHT = Family(name="type_weight", views=("logo", "serial", "lining"), local=True, forge=_forge)
