"""Engraving and embossing cut too shallow or too deep: edges and their shadows are of another width."""

from __future__ import annotations

from dataclasses import replace

from demo.goods.design import Design
from demo.goods.families.family import Family, lean


def _forge(design: Design, strength: float) -> Design:
    factor = 1.8 if lean("engraving_depth", design) > 0 else 0.42
    return replace(design, engraving=design.engraving * factor**strength)


ENGRAVING_DEPTH = Family(name="engraving_depth", views=("logo", "serial"), local=True, forge=_forge)
