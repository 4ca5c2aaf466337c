"""The wrong hide or cloth: its grain is coarser or finer than the maker's."""

from __future__ import annotations

from dataclasses import replace

from demo.goods.design import Design
from demo.goods.families.family import Family, lean


def _forge(design: Design, strength: float) -> Design:
    factor = 1.45 ** (lean("grain_scale", design) * strength)
    return replace(design, grain=replace(design.grain, scale=design.grain.scale * factor))


GRAIN_SCALE = Family(name="grain_scale", views=("logo", "stitching", "hardware"), local=False, forge=_forge)
