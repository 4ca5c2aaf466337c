"""Rewrites for a GPU's builder keep what a graph computes; ONNX Runtime on the CPU is the judge."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from engines import recipes
from engines.architectures import architecture_of, seeded_weights
from engines.calibration import observe, thresholds
from engines.quantize import QuantPlan, plan_for, quantize

SIDE = 64


class Encoder:
    """A seeded family: its float graph, its plan and ranges, its INT8 graph, and some images."""

    def __init__(self, family: str) -> None:
        architecture = architecture_of(family, SIDE)
        rng = np.random.default_rng(3)
        self.images = rng.standard_normal((3, 3, SIDE, SIDE)).astype(np.float32)
        self.exact: ModelProto = architecture.build(seeded_weights(architecture, 1))
        self.plan: QuantPlan = plan_for(self.exact, family)
        self.ranges = thresholds(observe(self.exact, self.plan, list(self.images)), "min-max")
        self.int8: ModelProto = quantize(self.exact, self.plan, self.ranges)


@pytest.fixture(scope="module")
def resnet() -> Iterator[Encoder]:
    yield Encoder("resnet18")


@pytest.fixture(scope="module")
def vit() -> Iterator[Encoder]:
    yield Encoder("vit_tiny16")


def outputs(model: ModelProto, images: NDArray[Any], *, plain: bool = False) -> list[NDArray[np.float32]]:
    """`plain`: as it is written; ONNX Runtime's fusions know no FP8."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if plain:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: list[NDArray[np.float32]] = session.run(None, {"images": images})
    return found


def lowest_cosine(left: NDArray[np.float32], right: NDArray[np.float32]) -> float:
    return float((left * right).sum(-1).min())


def with_plane(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """A fourth channel of anything: its kernel is zero."""
    return np.concatenate([images, np.full_like(images[:, :1], 7.0)], axis=1)


def test_four_channels_change_no_bit(resnet: Encoder) -> None:
    made = recipes.four_channels(resnet.int8)
    assert made.graph.input[0].type.tensor_type.shape.dim[1].dim_value == 4
    for one, other in zip(outputs(resnet.int8, resnet.images), outputs(made, with_plane(resnet.images)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_rewrite_that_is_not_possible_is_refused(resnet: Encoder) -> None:
    with pytest.raises(ValueError, match="no rewrite half-int8"):
        recipes.device_graph(resnet.exact, "half-int8")


def test_fp8_linears_stay_near(vit: Encoder) -> None:
    made = recipes.fp8_linears(vit.exact, vit.plan, vit.ranges)
    kinds = {i.data_type for i in made.graph.initializer if i.name.endswith("/fp8")}
    assert kinds == {TensorProto.FLOAT8E4M3FN}
    assert len([n for n in made.graph.node if n.op_type == "QuantizeLinear"]) == len(vit.plan.activations)
    exact = outputs(vit.exact, vit.images)[0]
    assert lowest_cosine(outputs(made, vit.images, plain=True)[0], exact) > 0.95
    graph = ModelProto.FromString(recipes.device_graph(made, "half").model)
    halved = outputs(graph, vit.images.astype(np.float16), plain=True)[0]
    assert lowest_cosine(halved, exact) > 0.95


def test_what_meets_in_an_addition_gets_one_range(resnet: Encoder) -> None:
    made = recipes.equal_shortcuts(resnet.exact, resnet.ranges)
    stage = {name: value for name, value in made.items() if name.startswith("layer2.") and "relu1" not in name}
    assert len(set(stage.values())) == 1, stage
    assert all(made[name] >= resnet.ranges[name] for name in made)
    near = outputs(quantize(resnet.exact, resnet.plan, made), resnet.images)[0]
    assert lowest_cosine(near, outputs(resnet.exact, resnet.images)[0]) > 0.99


def test_one_output_needs_less_of_the_graph(resnet: Encoder) -> None:
    made = recipes.only_outputs(resnet.int8, ["embedding"])
    assert [o.name for o in made.graph.output] == ["embedding"]
    assert len(made.graph.node) < len(resnet.int8.graph.node)
    np.testing.assert_allclose(outputs(made, resnet.images)[0], outputs(resnet.int8, resnet.images)[0], atol=1e-6)


def test_a_computed_reshape_becomes_a_constant() -> None:
    """As an exporter writes [N, -1] from the batch's own size."""
    nodes = [
        helper.make_node("Shape", ["images"], ["shape"], name="shape"),
        helper.make_node("Gather", ["shape", "first"], ["batch"], name="batch"),
        helper.make_node("Concat", ["batch", "rest"], ["wanted"], name="wanted", axis=0),
        helper.make_node("Reshape", ["images", "wanted"], ["flat"], name="flat"),
    ]
    stored = [
        numpy_helper.from_array(np.array([0], np.int64), "first"),
        numpy_helper.from_array(np.array([3 * 4 * 4], np.int64), "rest"),
    ]
    graph = helper.make_graph(
        nodes,
        "exported",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 4, 4])],
        [helper.make_tensor_value_info("flat", TensorProto.FLOAT, ["N", 48])],
        stored,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    made = recipes.fixed_shapes(model)
    assert [n.op_type for n in made.graph.node] == ["Reshape"]
    images = np.arange(2 * 48, dtype=np.float32).reshape(2, 3, 4, 4)
    np.testing.assert_array_equal(outputs(made, images)[0], outputs(model, images)[0])
