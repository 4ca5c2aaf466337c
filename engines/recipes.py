"""More ways to give a graph to a GPU's builder than engines.gpu.rewrite has, to be raced against them: FP8, one range
for what meets in an addition, constant shapes. Each keeps what the graph computes, up to the precision it names.

The graphs here are plain (engines.importing_graph): constants are initializers, input 0 is `images` [N,C,S,S].
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper, shape_inference, version_converter

from engines.gpu.device_graph import DeviceGraph, Recipe
from engines.gpu.rewrite import device_graphs
from engines.importing_graph import pruned, refill
from engines.manifest import sha256_hex
from engines.quantize import QuantPlan

HALF_SCALES_OPSET: Final = 19  # Q/DQ take float16 scales, and FP8, from here on
FP8_LARGEST: Final = 448.0


def device_graph(model: ModelProto, recipe: Recipe, outputs: Sequence[str] = ()) -> DeviceGraph:
    """The rewrite of that name, of what `outputs` need (empty: all). Raises ValueError where it is not possible."""
    made = only_outputs(model, outputs) if outputs else model
    content: bytes = made.SerializeToString()
    if recipe == "signed":
        channels = int(made.graph.input[0].type.tensor_type.shape.dim[1].dim_value)
        return DeviceGraph(recipe="signed", model=content, digest=sha256_hex(content), channels=channels)
    for graph in device_graphs(content):
        if graph.recipe == recipe:
            return graph
    raise ValueError(f"the graph has no rewrite {recipe}")


def only_outputs(model: ModelProto, names: Sequence[str]) -> ModelProto:
    """The part that these outputs need."""
    made = pruned(model, names)
    made.graph.output.extend(o for o in model.graph.output if o.name in names)
    return made


def four_channels(model: ModelProto) -> ModelProto:
    """`images` [N,4,S,S] and a zero plane in the first convolution's kernel: INT8 tensor cores read pixels by fours."""
    made = _copy(model)
    dim = made.graph.input[0].type.tensor_type.shape.dim[1]
    if dim.dim_value == 4:
        return made
    kernels = {_kernel_source(made, conv) for conv in _readers_of_images(made)}
    for stored in made.graph.initializer:
        if stored.name in kernels:
            array = numpy_helper.to_array(stored)
            stored.CopyFrom(numpy_helper.from_array(np.pad(array, ((0, 0), (0, 1), (0, 0), (0, 0))), stored.name))
    dim.dim_value = 4
    del made.graph.value_info[:]
    return made


def fixed_shapes(model: ModelProto) -> ModelProto:
    """Reshapes that an exporter computes from the batch become constants, the batch copied; what computed them goes."""
    made = _copy(model)
    inferred = shape_inference.infer_shapes(made, data_prop=True).graph
    dims = {v.name: v.type.tensor_type.shape.dim for v in (*inferred.value_info, *inferred.output, *inferred.input)}
    stored = {i.name for i in made.graph.initializer}
    for node in made.graph.node:
        if node.op_type != "Reshape" or node.input[1] in stored:
            continue
        if (shape := _constant_shape(dims.get(node.output[0], ()))) is not None:
            name = f"{node.output[0]}/shape"
            made.graph.initializer.append(numpy_helper.from_array(shape, name))
            node.input[1] = name
    outputs = list(made.graph.output)
    left = pruned(made, [o.name for o in outputs])
    left.graph.output.extend(outputs)
    checker.check_model(left)
    return left


def _constant_shape(dims: Iterable[Any]) -> NDArray[np.int64] | None:
    """[0, a, b] where only the first is not fixed: 0 copies the batch. None where that cannot be said."""
    sizes = [int(d.dim_value) if d.HasField("dim_value") else None for d in dims]
    if not sizes or sizes[0] is not None or any(s is None for s in sizes[1:]):
        return None
    return np.array([0, *sizes[1:]], np.int64)


def _opset(model: ModelProto) -> int:
    return next(int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx"))


def fp8_linears(model: ModelProto, plan: QuantPlan, thresholds: Mapping[str, float]) -> ModelProto:
    """Q/DQ pairs of FP8 (E4M3) where the plan has INT8's, one scale a tensor; weights are dequantised from FP8
    initializers. For GPUs from compute capability 8.9."""
    made = version_converter.convert_version(model, HALF_SCALES_OPSET) if _opset(model) < HALF_SCALES_OPSET else model
    made = _copy(made)
    nodes = [_fp8_weight(made, stored) for stored in list(made.graph.initializer) if stored.name in plan.weights]
    pairs = {tensor: _fp8_pair(made, tensor, thresholds[tensor] / FP8_LARGEST) for tensor in plan.activations}
    nodes += pairs.pop("images", [])
    for node in list(made.graph.node):
        for place, tensor in enumerate(node.input):
            readers = plan.activations.get(tensor)
            if readers is not None and (not readers or node.name in readers):
                node.input[place] = f"{tensor}/dequantized"
        nodes.append(node)
        for tensor in node.output:
            nodes += pairs.get(tensor, [])
    refill(made.graph.node, nodes)
    refill(made.graph.initializer, [i for i in made.graph.initializer if i.name not in plan.weights])
    del made.graph.value_info[:]
    checker.check_model(made)
    return made


def _fp8_weight(model: ModelProto, stored: Any) -> Any:
    array = numpy_helper.to_array(stored)
    scale = np.float32(max(float(np.abs(array).max()), 1e-12) / FP8_LARGEST)
    levels = helper.make_tensor(
        f"{stored.name}/fp8", TensorProto.FLOAT8E4M3FN, array.shape, (array / scale).ravel().tolist()
    )
    model.graph.initializer.extend([levels, numpy_helper.from_array(scale, f"{stored.name}/scale")])
    inputs = [levels.name, f"{stored.name}/scale"]
    return helper.make_node("DequantizeLinear", inputs, [stored.name], name=f"{stored.name}/dequantize")


def _fp8_pair(model: ModelProto, tensor: str, scale: float) -> list[Any]:
    zero = "zero/fp8"
    if all(i.name != zero for i in model.graph.initializer):
        model.graph.initializer.append(helper.make_tensor(zero, TensorProto.FLOAT8E4M3FN, (), [0.0]))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(scale), f"{tensor}/scale"))
    steps = [f"{tensor}/scale", zero]
    return [
        helper.make_node("QuantizeLinear", [tensor, *steps], [f"{tensor}/fp8"], name=f"{tensor}/quantize"),
        helper.make_node(
            "DequantizeLinear", [f"{tensor}/fp8", *steps], [f"{tensor}/dequantized"], name=f"{tensor}/dequantize"
        ),
    ]


def equal_shortcuts(model: ModelProto, thresholds: Mapping[str, float]) -> dict[str, float]:
    """Thresholds in which all that meets in one stage's additions has one range: a sum of levels needs no rescaling
    then. The larger range is taken, so nothing is clipped that was not before."""
    groups = _meeting(model, thresholds.keys())
    return {tensor: max(thresholds[t] for t in groups.get(tensor, {tensor})) for tensor in thresholds}


def _meeting(model: ModelProto, planned: Iterable[str]) -> dict[str, set[str]]:
    """Of planned tensors: those that are tied to one another by additions, an activation between them or not."""
    relus = {n.input[0]: n.output[0] for n in model.graph.node if n.op_type == "Relu"}
    wanted = set(planned)
    groups: dict[str, set[str]] = {}
    for node in (n for n in model.graph.node if n.op_type == "Add"):
        ends = {*node.input, relus.get(node.output[0], node.output[0])} & wanted
        joined = set(ends).union(*(groups.get(t, set()) for t in ends))
        for tensor in joined:
            groups[tensor] = joined
    return groups


def _readers_of_images(model: ModelProto) -> list[Any]:
    """The convolutions that read `images`, dequantised or not."""
    names = {"images"}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[0] in names:
            names.update(node.output)
    return [n for n in model.graph.node if n.op_type == "Conv" and n.input[0] in names]


def _kernel_source(model: ModelProto, conv: Any) -> str:
    """The initializer that a convolution's kernel comes from, through DequantizeLinear or Cast."""
    makers = {n.output[0]: n for n in model.graph.node}
    name = conv.input[1]
    while name in makers:
        name = makers[name].input[0]
    return str(name)


def _copy(model: ModelProto) -> ModelProto:
    made = ModelProto()
    made.CopyFrom(model)
    return made
