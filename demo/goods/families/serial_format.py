"""A serial set in another size and with its groups spaced otherwise than the maker does."""

from __future__ import annotations

from dataclasses import replace

from demo.goods.design import Design
from demo.goods.families.family import Family, lean


def _forge(design: Design, strength: float) -> Design:
    way = lean("serial_format", design)
    serial = design.serial
    changed = replace(serial, height=serial.height * (1 + 0.10 * way * strength), space=serial.space + 0.35 * strength)
    return replace(design, serial=changed)


SERIAL_FORMAT = Family(name="serial_format", views=("serial",), local=True, forge=_forge)
