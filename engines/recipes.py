"""Named, deterministic rewrites of a float or Q/DQ graph for a GPU's builder. Each keeps what the graph computes, up to
the precision it names; engines.gpu and the benchmarks race their combinations.

The graphs here are plain (engines.importing_graph): constants are initializers, input 0 is `images` [N,C,S,S].
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper, shape_inference, version_converter

from engines.importing_graph import pruned, refill
from engines.quantize import QuantPlan

HALF_SCALES_OPSET: Final = 19  # Q/DQ take float16 scales, and FP8, from here on
FP8_LARGEST: Final = 448.0
_HALF_LARGEST: Final = 65_504.0
_SPATIAL: Final = frozenset({"Conv", "LayerNormalization", "GlobalAveragePool", "MaxPool"})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DeviceGraph:
    """What a builder is given. `rewrites` names what was done, in order; `input_kind` is the type of `images`."""

    model: ModelProto
    rewrites: tuple[str, ...]

    @property
    def input_kind(self) -> int:
        return int(self.model.graph.input[0].type.tensor_type.elem_type)

    @property
    def channels(self) -> int:
        return int(self.model.graph.input[0].type.tensor_type.shape.dim[1].dim_value)


def device_graph(model: ModelProto, rewrites: Sequence[str], outputs: Sequence[str] = ()) -> DeviceGraph:
    """Apply rewrites by name, after leaving only `outputs` (empty: all). Raises KeyError for a name that is none."""
    made = only_outputs(model, outputs) if outputs else model
    for name in rewrites:
        made = REWRITES[name](made)
    return DeviceGraph(model=made, rewrites=tuple(rewrites))


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


def byte_input(model: ModelProto) -> ModelProto:
    """`images` as the INT8 levels that the graph would make of it first: what stands before fills them. Raises
    ValueError where the graph does not quantise its input."""
    made = _copy(model)
    quantize = next((n for n in made.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == "images"), None)
    if quantize is None or any("images" in n.input for n in made.graph.node if n is not quantize):
        raise ValueError("the graph does not quantise its input, or reads it elsewhere too")
    for node in made.graph.node:
        node.input[:] = ["images" if i == quantize.output[0] else i for i in node.input]
    made.graph.node.remove(quantize)
    made.graph.input[0].type.tensor_type.elem_type = TensorProto.INT8
    del made.graph.value_info[:]
    checker.check_model(made)
    return made


def input_scale(model: ModelProto) -> float | None:
    """The scale of the levels that the graph makes of `images`, None where it makes none."""
    stored = {i.name: i for i in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[0] == "images":
            return float(numpy_helper.to_array(stored[node.input[1]]))
    return None


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


def half(model: ModelProto) -> ModelProto:
    """FP16 wherever the graph is not integer, `images` too, but for the tail behind the last layer, where lengths and
    sums would overflow: outputs stay FP32. For builders that take types as they are written."""
    made = version_converter.convert_version(model, HALF_SCALES_OPSET) if _opset(model) < HALF_SCALES_OPSET else model
    return _Halving(_copy(made)).model()


def _opset(model: ModelProto) -> int:
    return next(int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx"))


class _Halving:
    """One graph on its way to FP16."""

    def __init__(self, model: ModelProto) -> None:
        self._model = model
        self._nodes = list(model.graph.node)
        self._stored = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
        self._fold_casts()
        self._tail = self._behind_the_last_layer()
        self._floats = self._float_tensors()

    def model(self) -> ModelProto:
        nodes: list[Any] = []
        made: set[str] = set()
        for node in self._nodes:
            if node.name in self._tail:
                nodes += self._with_casts(node, made)
            nodes.append(node)
        refill(self._model.graph.node, nodes)
        refill(self._model.graph.initializer, [numpy_helper.from_array(a, n) for n, a in self._halved().items()])
        given = self._model.graph.input[0].type.tensor_type
        if given.elem_type == TensorProto.FLOAT:
            given.elem_type = TensorProto.FLOAT16
        del self._model.graph.value_info[:]
        checker.check_model(self._model)
        return self._model

    def _fold_casts(self) -> None:
        """Tables that were stored as FP16 and cast back need no cast."""
        kept = []
        for node in self._nodes:
            if node.op_type == "Cast" and node.input[0] in self._stored:
                self._stored[node.output[0]] = self._stored[node.input[0]].astype(np.float32)
            else:
                kept.append(node)
        self._nodes = kept

    def _behind_the_last_layer(self) -> set[str]:
        """Nodes that no layer comes after."""
        pooled = self._behind_a_pool()
        stored = self._stored.keys() | {n.output[0] for n in self._nodes if n.op_type == "DequantizeLinear"}
        before: set[str] = set()  # tensors that a layer depends on
        tail = set()
        for node in reversed(self._nodes):
            linear = node.op_type == "Gemm" or (node.op_type == "MatMul" and node.input[1] in stored)
            layer = node.op_type in _SPATIAL or (linear and node.name not in pooled)
            if layer or any(o in before for o in node.output):
                before.update(node.input)
            else:
                tail.add(node.name)
        return tail

    def _behind_a_pool(self) -> set[str]:
        """Nodes behind global pooling: a linear layer there is a head, of one vector an image."""
        made: set[str] = set()
        found = set()
        for node in self._nodes:
            if node.op_type == "GlobalAveragePool" or made.intersection(node.input):
                made.update(node.output)
                found.add(node.name)
        return found

    def _float_tensors(self) -> set[str]:
        inferred = shape_inference.infer_shapes(self._model).graph
        known = (*inferred.value_info, *inferred.output, *inferred.input)
        return {v.name for v in known if v.type.tensor_type.elem_type == TensorProto.FLOAT}

    def _with_casts(self, node: Any, made: set[str]) -> list[Any]:
        """The casts that a node of the tail needs and nobody made yet; it reads what they give."""
        makers = {o: n.name for n in self._nodes for o in n.output}
        casts = []
        for place, tensor in enumerate(node.input):
            if tensor in self._stored:
                if self._stored[tensor].dtype == np.float32:
                    self._stored[f"{tensor}/fp32"] = self._stored[tensor]
                    node.input[place] = f"{tensor}/fp32"
            elif tensor in self._floats and makers.get(tensor) not in self._tail:
                node.input[place] = f"{tensor}/fp32"
                if tensor not in made:
                    made.add(tensor)
                    name = f"{tensor}/to_fp32"
                    casts.append(
                        helper.make_node("Cast", [tensor], [f"{tensor}/fp32"], name=name, to=TensorProto.FLOAT)
                    )
        return casts

    def _halved(self) -> dict[str, NDArray[Any]]:
        read = {i for n in self._nodes for i in n.input}
        return {
            name: array.clip(-_HALF_LARGEST, _HALF_LARGEST).astype(np.float16)
            if array.dtype == np.float32 and not name.endswith("/fp32")
            else array
            for name, array in self._stored.items()
            if name in read
        }


REWRITES: Final = {
    "fixed-shapes": fixed_shapes,
    "four-channels": four_channels,
    "int8-input": byte_input,
    "fp16": half,
}


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
