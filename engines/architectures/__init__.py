"""The encoders' graphs, written node by node from plain NumPy weights, so that no training framework is needed to
build one. Each family has a frozen description and a `build`; weight names are those of the torch module that
demo/train trains (torchvision's names where torchvision has the block)."""

from __future__ import annotations

from engines.architectures.family import Architecture, Weights, seeded_weights
from engines.architectures.resnet import Resnet18
from engines.architectures.vit import VitTiny16

__all__ = ["Architecture", "Weights", "architecture_of", "seeded_weights"]


def architecture_of(family: str, image_size: int = 448) -> Architecture:
    """The description of a family by its name; raises ValueError for an unknown one."""
    match family:
        case "resnet18":
            return Resnet18(image_size=image_size)
        case "vit_tiny16":
            return VitTiny16(image_size=image_size)
    raise ValueError(f"unknown encoder family {family!r}: use resnet18 or vit_tiny16")
