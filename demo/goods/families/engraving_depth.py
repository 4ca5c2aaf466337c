"""Engraving and embossing cut too shallow or too deep: edges and their shadows are of another width."""

from __future__ import annotations

from dataclasses import replace

from demo.goods.design import Design
from demo.goods.families.family import Family, lean


def _forge(design: Design, strength: float) -> Design:
    return replace(design, engraving=design.engraving * 2.2 ** (lean("engraving_depth", design) * strength))


ENGRAVING_DEPTH = Family(name="engraving_depth", views=("logo", "serial"), local=True, forge=_forge)
