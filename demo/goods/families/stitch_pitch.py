"""Stitches set wider or closer than the maker's, and at a slightly other slant."""

from __future__ import annotations

from dataclasses import replace

from demo.goods.design import Design
from demo.goods.families.family import Family, lean


def _forge(design: Design, strength: float) -> Design:
    way = lean("stitch_pitch", design) * strength
    stitch = design.stitch
    changed = replace(stitch, pitch=stitch.pitch * (1 + 0.15 * way), angle_deg=stitch.angle_deg + 9.0 * way)
    return replace(design, stitch=changed)


STITCH_PITCH = Family(name="stitch_pitch", views=("stitching",), local=True, forge=_forge)
