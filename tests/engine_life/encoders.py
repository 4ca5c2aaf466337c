"""FP32 encoders to begin a life with: the demo's, by its float twin at a smaller size, and one of random weights."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from demo.float_twin import twin_bytes
from engines.architectures import architecture_of
from engines.architectures.family import seeded_weights
from engines.catalogue import MODELS_DIR, read_engine, shipped_keys

FAMILY = "resnet18"


def demo_twin(side: int) -> bytes:
    """The float twin of the demo's ResNet-18 as it looks at `side` px, a multiple of 32: a residual network's weights
    know no size, only the shapes that the graph tells do."""
    graph = onnx.load_from_string(twin_bytes(read_engine(MODELS_DIR, FAMILY, shipped_keys()).model))
    wanted = architecture_of(FAMILY, side)
    _set_shape(graph.graph.input[0], (3, side, side))
    shapes = {"patches": (wanted.patch_grid[0] * wanted.patch_grid[1], wanted.patch_dim)}
    shapes["attention"] = wanted.attention_grid
    for output in graph.graph.output:
        if output.name in shapes:
            _set_shape(output, shapes[output.name])
    node = next(node for node in graph.graph.node if node.output[0] == "attention")
    last = next(one for one in graph.graph.initializer if one.name == node.input[1])
    last.CopyFrom(numpy_helper.from_array(np.array([0, *wanted.attention_grid], np.int64), last.name))
    onnx.checker.check_model(graph)
    made: bytes = graph.SerializeToString()
    return made


def random_encoder(side: int, seed: int) -> bytes:
    """The same network, never trained."""
    architecture = architecture_of(FAMILY, side)
    made: bytes = architecture.build(seeded_weights(architecture, seed)).SerializeToString()
    return made


def _set_shape(tensor: onnx.ValueInfoProto, shape: tuple[int, ...]) -> None:
    for dim, size in zip(tensor.type.tensor_type.shape.dim[1:], shape, strict=True):
        dim.dim_value = size
