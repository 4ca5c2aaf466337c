"""What a forgery family is: a change of the design that grows with its strength."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from demo.goods.design import Design
from demo.goods.seeds import sign


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A kind of forgery.

    `views` are the roles it shows in; `local` says that it changes a small part of them, so that a deviation map can
    point at it. `forge(design, strength)` returns the forged design; strength 0 returns an equal one.
    """

    name: str
    views: tuple[str, ...]
    local: bool
    forge: Callable[[Design, float], Design]


def lean(family: str, design: Design) -> float:
    """The direction in which this SKU's forgers err, -1.0 or 1.0: wider or narrower, redder or bluer."""
    return sign("lean", family, design.category, design.seed)
