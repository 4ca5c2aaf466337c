"""Cheap plating: brassier, duller reflections in other places, and a softer bevel."""

from __future__ import annotations

from dataclasses import replace

from demo.goods.design import Design
from demo.goods.families.family import Family


def _forge(design: Design, strength: float) -> Design:
    finish = design.finish
    tint = finish.tint
    brassy = replace(
        tint, hue=tint.hue + (0.13 - tint.hue) * 0.5 * strength, saturation=tint.saturation + 0.14 * strength
    )
    changed = replace(
        finish,
        tint=brassy,
        roughness=finish.roughness + 0.35 * strength,
        band=finish.band + 0.07 * strength,
        bevel=finish.bevel * (1 + 0.5 * strength),
    )
    return replace(design, finish=changed)


HARDWARE_FINISH = Family(name="hardware_finish", views=("overview", "hardware"), local=True, forge=_forge)
