"""Cheap plating: brassier, duller reflections in other places, and a softer bevel."""

from __future__ import annotations

from dataclasses import replace

from demo.goods.design import Design
from demo.goods.families.family import Family


def _forge(design: Design, strength: float) -> Design:
    finish = design.finish
    changed = replace(
        finish,
        plating=finish.plating + 0.35 * strength,
        roughness=finish.roughness + 0.30 * strength,
        band=finish.band + 0.07 * strength,
        bevel=finish.bevel * (1 + 0.5 * strength),
    )
    return replace(design, finish=changed)


HARDWARE_FINISH = Family(name="hardware_finish", views=("overview", "hardware"), local=True, forge=_forge)
