"""What a scene is: how one view of a category is drawn from a design."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from demo.goods.design import Design, Grain
from demo.goods.sheet import Sheet


def body_grain(design: Design) -> Grain:
    """The grain of the item's body, the usual one."""
    return design.grain


def weave_grain(design: Design) -> Grain:
    """The grain of the lining."""
    return design.weave


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One view: `draw` paints everything that all specimens share, `number` the specimen's own serial.

    `grain` picks the material whose cut varies by specimen, `zoom` scales it (small where the item is far away).
    """

    draw: Callable[[Sheet, Design], None]
    grain: Callable[[Design], Grain] = body_grain
    zoom: float = 1.0
    number: Callable[[Sheet, Design, str], None] | None = None
