"""The encoders' graphs, written node by node from plain NumPy weights, so that no training framework is needed to
build one. Each family has a frozen description and a `build`; weight names are those of the torch module that
demo/train trains (torchvision's names where torchvision has the block)."""

from __future__ import annotations

from engines.architectures.family import Architecture, Weights, architecture_of, seeded_weights

__all__ = ["Architecture", "Weights", "architecture_of", "seeded_weights"]
