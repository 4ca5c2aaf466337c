"""The surfaces of the goods: one material a file, each a periodic tile of heights.

A material is a function of (seed, scale) that returns float32 [TILE, TILE] in about -1 to 1, periodic in both
directions; a tile spans half a frame. To add one, write its file and name it in MATERIALS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from demo.goods.materials.canvas import canvas
from demo.goods.materials.pebble import pebble
from demo.goods.materials.rubber import rubber
from demo.goods.materials.saffiano import saffiano
from demo.goods.materials.spectrum import Heights
from demo.goods.materials.twill import twill

MATERIALS: Mapping[str, Callable[[int, float], Heights]] = MappingProxyType(
    {"canvas": canvas, "pebble": pebble, "rubber": rubber, "saffiano": saffiano, "twill": twill}
)
