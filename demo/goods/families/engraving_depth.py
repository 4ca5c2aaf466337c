"""Engraving and embossing cut too shallow or too deep: edges and their shadows are wider or narrower by a fixed step,
so that the finest engraving is forged as visibly as the coarsest."""

from __future__ import annotations

from dataclasses import replace

from demo.goods.design import Design
from demo.goods.families.family import Family, lean

STEP = 0.31  # of depth: an edge 2.1 px wider or narrower at 448 px; the makers' depths begin at 0.38


def _forge(design: Design, strength: float) -> Design:
    return replace(design, engraving=design.engraving + STEP * lean("engraving_depth", design) * strength)


ENGRAVING_DEPTH = Family(name="engraving_depth", views=("logo", "serial"), local=True, forge=_forge)
