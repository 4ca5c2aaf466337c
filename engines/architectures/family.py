"""What every encoder family tells about itself, and seeded random weights for tests and the untrained encoder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Weights = Mapping[str, NDArray[np.float32]]


class Architecture(Protocol):
    """A frozen description of one family at one size; `build` gives the float graph."""

    @property
    def family(self) -> str: ...
    @property
    def image_size(self) -> int: ...
    @property
    def embedding_dim(self) -> int: ...
    @property
    def patch_dim(self) -> int: ...
    @property
    def patch_grid(self) -> tuple[int, int]: ...
    @property
    def attention_grid(self) -> tuple[int, int]: ...
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]: ...
    def build(self, weights: Weights) -> Any: ...


def seeded_weights(architecture: Architecture, seed: int) -> dict[str, NDArray[np.float32]]:
    """Random weights that keep activations in range; equal for equal seeds, names and shapes."""
    rng = np.random.Generator(np.random.PCG64(seed))
    return {n: _initial(n, shape, rng) for n, shape in sorted(architecture.parameter_shapes().items())}


def _initial(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    if name.endswith("running_var"):
        return np.ones(shape, np.float32)
    if name.endswith(("bias", "running_mean")):
        return np.zeros(shape, np.float32)
    if len(shape) == 1:
        # a residual branch that adds less than it carries keeps a deep random network from blowing up
        return np.full(shape, 0.5 if name.endswith("bn2.weight") else 1.0, np.float32)
    spread = 0.02 if name in ("pos_embed", "crop_embed") else math.sqrt(2.0 / math.prod(shape[1:]))
    return (rng.standard_normal(shape) * spread).astype(np.float32)


def embedding_space(architecture: Architecture, weights: Weights, preprocessing: Mapping[str, Any]) -> str:
    """Digest of FP32 weights, architecture and preprocessing: vectors compare only within one such space."""
    digest = hashlib.sha256()
    described = {"family": architecture.family, **dataclasses.asdict(architecture)}  # type: ignore[call-overload]
    digest.update(json.dumps([described, dict(preprocessing)], sort_keys=True).encode())
    for name in sorted(architecture.parameter_shapes()):
        array = np.ascontiguousarray(weights[name], dtype="<f4")
        digest.update(f"{name}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
