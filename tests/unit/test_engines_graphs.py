"""The hand-written graphs and their INT8 form: what comes out, what depends on what, where the pairs stand."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from engines.architectures import architecture_of, seeded_weights
from engines.architectures.family import embedding_space
from engines.calibration import Histogram, observe, thresholds
from engines.quantize import float_twin, plan_for, quantize
from engines.recipes import only_outputs

FAMILIES = ("resnet18", "vit_tiny16")
SIZE = 64
OUTPUTS = ("embedding", "patches", "attention")
Outputs = dict[str, NDArray[np.float32]]


def run(model: Any, images: NDArray[np.float32]) -> Outputs:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip(OUTPUTS, session.run(list(OUTPUTS), {"images": images}), strict=True))


def images(count: int, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((count, 3, 8, 8)).astype(np.float32)
    return np.ascontiguousarray(coarse.repeat(SIZE // 8, axis=2).repeat(SIZE // 8, axis=3))


def built(family: str, seed: int = 1) -> Any:
    architecture = architecture_of(family, SIZE)
    return architecture.build(seeded_weights(architecture, seed))


def quantised(family: str) -> tuple[Any, Any]:
    graph = built(family)
    plan = plan_for(graph, family)
    ranges = thresholds(observe(graph, plan, list(images(4))), "min-max")
    return graph, quantize(graph, plan, ranges)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("count", [1, 3])
def test_outputs_are_normalised_and_shaped_as_described(family: str, count: int) -> None:
    architecture = architecture_of(family, SIZE)
    got = run(built(family), images(count))
    rows, columns = architecture.patch_grid
    assert got["embedding"].shape == (count, architecture.embedding_dim)
    assert got["patches"].shape == (count, rows * columns, architecture.patch_dim)
    assert got["attention"].shape == (count, *architecture.attention_grid)
    np.testing.assert_allclose(np.linalg.norm(got["embedding"], axis=-1), 1.0, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(got["patches"], axis=-1), 1.0, atol=1e-4)
    np.testing.assert_allclose(got["attention"].sum(axis=(1, 2)), 1.0, atol=1e-4)
    assert (got["attention"] >= 0).all()


def test_full_size_grids() -> None:
    resnet, vit = architecture_of("resnet18"), architecture_of("vit_tiny16")
    assert (resnet.patch_grid, resnet.attention_grid) == ((28, 28), (14, 14))
    assert (vit.patch_grid, vit.attention_grid) == ((28, 28), (28, 28))


@pytest.mark.parametrize("quarter", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_vit_patches_lie_where_their_quarter_lies(quarter: tuple[int, int]) -> None:
    before = images(1)
    after = before.copy()
    half = SIZE // 2
    row, column = quarter
    after[:, :, row * half : (row + 1) * half, column * half : (column + 1) * half] *= -1
    model = built("vit_tiny16")
    side = SIZE // 16
    moved = np.abs(run(model, after)["patches"] - run(model, before)["patches"]).max(axis=-1).reshape(side, side)
    inside = np.zeros((side, side), bool)
    inside[row * side // 2 : (row + 1) * side // 2, column * side // 2 : (column + 1) * side // 2] = True
    assert (moved[inside] > 1e-3).all()
    assert (moved[~inside] < 1e-5).all()


def test_resnet_patches_lie_where_the_photograph_changed() -> None:
    before = images(1)
    after = before.copy()
    after[:, :, : SIZE // 4, : SIZE // 4] = 3.0
    model = built("resnet18")
    side = SIZE // 16
    moved = np.abs(run(model, after)["patches"] - run(model, before)["patches"]).mean(axis=-1).reshape(side, side)
    assert moved[:2, :2].mean() > 2 * moved[2:, 2:].mean()


def test_batch_normalisation_is_folded() -> None:
    architecture = architecture_of("resnet18", SIZE)
    plain = seeded_weights(architecture, 1)
    # four times the variance under twice the gain, and a mean of 3 that the bias takes back: the same function
    moved = {n: w.copy() for n, w in plain.items()}
    for name in (n for n in plain if n.endswith("running_var")):
        norm = name.removesuffix(".running_var")
        moved[name] = plain[name] * 4 + 3e-5  # epsilon is 1e-5 and grows by four with the rest
        moved[f"{norm}.weight"] = plain[f"{norm}.weight"] * 2
        moved[f"{norm}.running_mean"] = plain[f"{norm}.running_mean"] + 3
        gain = plain[f"{norm}.weight"] / np.sqrt(plain[name] + 1e-5)
        moved[f"{norm}.bias"] = plain[f"{norm}.bias"] + 3 * gain
    left, right = run(architecture.build(plain), images(2)), run(architecture.build(moved), images(2))
    np.testing.assert_allclose(left["embedding"], right["embedding"], atol=1e-4)


def test_weights_are_int8_initializers_and_large_tables_half() -> None:
    for family in FAMILIES:
        _, model = quantised(family)
        kinds = {i.name: i.data_type for i in model.graph.initializer}
        large = {n for n, k in kinds.items() if k == TensorProto.FLOAT and numpy_helper_size(model, n) > 16_384}
        assert not large
        assert sum(k == TensorProto.INT8 for k in kinds.values()) > 20


def numpy_helper_size(model: Any, name: str) -> int:
    return next(int(numpy_helper.to_array(i).size) for i in model.graph.initializer if i.name == name)


def test_residual_placement() -> None:
    """Every convolution but the patches' head and both pools read dequantised tensors; so do both sides of an addition
    that follows a downsample; the max pool changes no scale."""
    _, model = quantised("resnet18")
    makers = {n.output[0]: n for n in model.graph.node}
    for node in model.graph.node:
        if node.op_type in ("Conv", "MaxPool", "GlobalAveragePool") and node.name != "patch_proj":
            assert makers[node.input[0]].op_type == "DequantizeLinear", node.name
    shortcut = next(n for n in model.graph.node if n.name == "layer2.0.add").input[1]
    assert makers[shortcut].op_type == "DequantizeLinear"
    scales = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    assert scales["maxpool/scale"] == scales["relu/scale"]


def test_what_patches_are_made_of_is_read_as_it_is() -> None:
    """Their head, and the additions of the stage that they come from; a graph without patches has no such place."""
    graph, model = quantised("resnet18")
    inputs = {n.name: tuple(n.input) for n in model.graph.node}
    assert inputs["patch_proj"][:2] == ("layer3.1.relu2", "patch_proj.weight")
    assert inputs["layer3.1.add"] == ("layer3.1.conv2", "layer3.0.relu2")
    assert inputs["layer3.0.add"] == ("layer3.0.conv2", "layer3.0.downsample.0")
    assert inputs["layer3.1.conv1"][0] == "layer3.0.relu2/dequantized"
    assert inputs["layer2.1.add"][1] == inputs["layer2.1.conv1"][0] == "layer2.0.relu2/dequantized"
    plain = plan_for(only_outputs(graph, ("embedding",)), "resnet18")
    assert all(not readers for readers in plain.activations.values())
    assert "layer3.0.downsample.0" in plain.activations


def test_transformer_placement() -> None:
    """Only linear layers read quantised activations; the residual stream and the attention products stay float."""
    _, model = quantised("vit_tiny16")
    makers = {n.output[0]: n for n in model.graph.node}
    for node in model.graph.node:
        quantised_input = node.input[0] in makers and makers[node.input[0]].op_type == "DequantizeLinear"
        linear = node.op_type == "MatMul" and node.input[1].endswith(".weight")
        assert quantised_input == linear or node.op_type == "DequantizeLinear", node.name


@pytest.mark.parametrize("family", FAMILIES)
def test_int8_stays_near_its_float_twin(family: str) -> None:
    graph, model = quantised(family)
    probe = images(3, seed=5)
    exact, twin, coarse = run(graph, probe), run(float_twin(model), probe), run(model, probe)
    assert not any(n.op_type == "QuantizeLinear" for n in float_twin(model).graph.node)
    for left in (twin, coarse):
        assert (left["embedding"] * exact["embedding"]).sum(-1).min() > 0.99
        assert not np.array_equal(left["embedding"], exact["embedding"])


def test_quantize_refuses_a_missing_range() -> None:
    graph = built("resnet18")
    with pytest.raises(ValueError, match="no range was calibrated"):
        quantize(graph, plan_for(graph, "resnet18"), {})


def histogram_with_outlier() -> Histogram:
    counts = (1e6 * np.exp(-np.arange(4096) / 50)).astype(np.int64)
    counts[-1] = 1
    return Histogram(counts=counts, largest=10.0)


def test_min_max_keeps_an_outlier_and_the_others_cut_it() -> None:
    found = {m: thresholds({"t": histogram_with_outlier()}, m)["t"] for m in ("min-max", "percentile", "entropy")}
    assert found["min-max"] == 10.0
    assert 0.9 < found["percentile"] < 1.5
    assert 0.3 < found["entropy"] < 2.5


def test_embedding_space_is_of_weights_architecture_and_preprocessing() -> None:
    architecture = architecture_of("resnet18", SIZE)
    weights = seeded_weights(architecture, 1)
    space = embedding_space(architecture, weights, {"size": SIZE})
    assert space == embedding_space(architecture, seeded_weights(architecture, 1), {"size": SIZE})
    assert space != embedding_space(architecture, weights, {"size": SIZE + 1})
    weights["embed.weight"] = weights["embed.weight"] + np.float32(1e-3)
    assert space != embedding_space(architecture, weights, {"size": SIZE})


def test_unknown_family_is_refused() -> None:
    with pytest.raises(ValueError, match="resnet18 or vit_tiny16"):
        architecture_of("resnet34")
