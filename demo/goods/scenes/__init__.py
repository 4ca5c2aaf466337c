"""The scenes: every category's views, drawn."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from demo.goods.scenes.bag import BAG
from demo.goods.scenes.scene import Scene
from demo.goods.scenes.sneaker import SNEAKER
from demo.goods.scenes.watch import WATCH

SCENES: Mapping[str, Mapping[str, Scene]] = MappingProxyType({"bag": BAG, "watch": WATCH, "sneaker": SNEAKER})

__all__ = ["SCENES", "Scene"]
