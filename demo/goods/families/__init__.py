"""The ways in which goods are forged: one family a file. To add one, write its file and list it here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from demo.goods.families.engraving_depth import ENGRAVING_DEPTH
from demo.goods.families.family import Family
from demo.goods.families.grain_scale import GRAIN_SCALE
from demo.goods.families.hardware_finish import HARDWARE_FINISH
from demo.goods.families.hue import HUE
from demo.goods.families.logo_geometry import LOGO_GEOMETRY
from demo.goods.families.serial_format import SERIAL_FORMAT
from demo.goods.families.stitch_pitch import STITCH_PITCH
from demo.goods.families.type_weight import TYPE_WEIGHT

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        family.name: family
        for family in (
            STITCH_PITCH,
            TYPE_WEIGHT,
            GRAIN_SCALE,
            HUE,
            HARDWARE_FINISH,
            LOGO_GEOMETRY,
            ENGRAVING_DEPTH,
            SERIAL_FORMAT,
        )
    }
)

__all__ = ["FAMILIES", "Family"]
