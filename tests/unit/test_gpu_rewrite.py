"""The graphs that a GPU is given, run by ONNX Runtime beside the signed one."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, parser
from onnx.reference import ReferenceEvaluator

from engines.golden import golden_pixels
from engines.gpu.rewrite import DeviceGraph, device_graphs
from engines.preprocess import Preprocessing, normalised
from engines.publish import seeded_engine

SIZE = 64
OUTPUTS = ("embedding", "patches", "attention")


@cache
def graphs(family: str) -> dict[str, DeviceGraph]:
    return {graph.recipe: graph for graph in device_graphs(seeded_engine(family, 1, image_size=SIZE).model)}


def outputs(graph: DeviceGraph) -> list[NDArray[np.float32]]:
    images = normalised(golden_pixels(SIZE), Preprocessing(size=SIZE))
    given = np.zeros((2, graph.channels, SIZE, SIZE), np.float32)
    given[:, :3] = images
    if graph.input_scale is not None:
        given = np.clip(np.rint(given / np.float32(graph.input_scale)), -128, 127)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(graph.model, options)
    wanted = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int8)": np.int8}
    (images_input,) = session.get_inputs()
    return list(session.run(list(OUTPUTS), {"images": given.astype(wanted[images_input.type])}))


@pytest.mark.parametrize(
    ("family", "recipe", "channels"),
    [("resnet18", "half-int8", 4), ("resnet18", "half", 4), ("vit_tiny16", "half", 3)],
)
def test_a_rewrite_gives_what_the_signed_graph_gives(family: str, recipe: str, channels: int) -> None:
    rewritten, signed = graphs(family)[recipe], graphs(family)["signed"]
    assert rewritten.channels == channels and (rewritten.input_scale is not None) == (recipe == "half-int8")
    for one, other, least in zip(outputs(rewritten), outputs(signed), (0.998, 0.99, 0.99), strict=True):
        assert one.dtype == np.float32 and np.isfinite(one).all()
        one, other = one.reshape(2, -1).astype(np.float64), other.reshape(2, -1).astype(np.float64)
        cosine = (one * other).sum(-1) / np.linalg.norm(one, axis=-1) / np.linalg.norm(other, axis=-1)
        assert cosine.min() >= least


def test_the_fastest_comes_first_and_the_signed_graph_last() -> None:
    assert list(graphs("resnet18")) == ["half-int8", "half", "signed"]
    assert list(graphs("vit_tiny16")) == ["half", "signed"]


def test_a_rewrite_is_the_same_bytes_every_time() -> None:
    model = graphs("resnet18")["signed"].model
    assert [graph.digest for graph in device_graphs(model)] == [graph.digest for graph in graphs("resnet18").values()]


def test_what_is_quantised_reads_and_gives_half_precision_and_reductions_do_not() -> None:
    graph = ModelProto.FromString(graphs("resnet18")["half"].model).graph
    scales = {n.input[1] for n in graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")}
    stored = {i.name: i.data_type for i in graph.initializer}
    assert {stored[scale] for scale in scales} == {TensorProto.FLOAT16}
    makers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type == "ReduceL2":
            cast = makers[node.input[0]]
            assert cast.op_type == "Cast" and cast.attribute[0].i == TensorProto.FLOAT


NORMALISED = """
<ir_version: 8, opset_import: ["": 17]>
features (float[N,4] images) => (float[N,4] embedding)
<int64[1] last = {-1}, float[1] tiny = {0.000001}, float[1] large = {300.0}> {
    pooled = Mul(images, large)
    squared = Mul(pooled, pooled)
    power = ReduceSum(squared, last)
    length = Sqrt(power)
    floored = Add(length, tiny)
    embedding = Div(pooled, floored)
}
"""


def test_features_whose_squares_are_beyond_half_precision_keep_their_length() -> None:
    """By onnx's own evaluator: ONNX Runtime on a CPU computes FP16 in FP32 and would not see it."""
    signed = parser.parse_model(NORMALISED).SerializeToString()
    rewritten = {graph.recipe: graph for graph in device_graphs(signed)}["half"]
    features = np.array([[0.9, -1.0, 0.5, 0.1]], np.float16)
    (found,) = ReferenceEvaluator(ModelProto.FromString(rewritten.model)).run(None, {"images": features})
    assert np.linalg.norm(found, axis=-1) == pytest.approx(1.0, abs=1e-3)
