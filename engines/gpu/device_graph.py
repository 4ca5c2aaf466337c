"""A graph as a GPU is given it. Apart from what makes one of a signed graph (engines.gpu.rewrite), whose imports take
long and are needed only where there is a GPU."""

from __future__ import annotations

import dataclasses
from typing import Literal

Recipe = Literal["half-int8", "half", "signed"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DeviceGraph:
    """`model` is what TensorRT parses; `digest` its SHA-256; `channels` of its input; `input_scale` is there where it
    takes photographs as INT8 levels of that step, four bytes a pixel."""

    recipe: Recipe
    model: bytes
    digest: str
    channels: int
    input_scale: float | None = None
