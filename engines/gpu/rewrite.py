"""From a signed graph to the graph that a GPU is given: named rewrites, the same bytes for the same input.

The signed graph is typed FP32 around its Q/DQ pairs. On a GPU `half` computes what is not quantised in FP16, but for
reductions, the squares that they sum and what follows from them (norms of features, shares of attention), which stay
FP32: there FP16 overflows or loses what is told. A first convolution that reads the photographs gets a fourth, empty
channel, which is what INT8 kernels want. `half-int8` also takes photographs that are quantised already. Whether a
rewrite was right is told by the engine's golden outputs on the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper, shape_inference

from engines.gpu.device_graph import DeviceGraph, Recipe
from engines.manifest import sha256_hex

_OPSET: Final = 19  # from here on Q and DQ are typed by their scales
_IR_VERSION: Final = 9
_PAIRS: Final = frozenset(("QuantizeLinear", "DequantizeLinear"))
_EXACT: Final = frozenset(("ReduceL1", "ReduceL2", "ReduceMean", "ReduceSum", "ReduceSumSquare", "Resize", "Range"))
_SQUARES: Final = frozenset(("Mul", "Pow"))
_LEAST_SCALE: Final = 2.0**-24  # the smallest FP16 above zero: a scale must not vanish
_MOST: Final = 65504.0
_CHANNELS: Final = 4


def device_graphs(model: bytes) -> Iterator[DeviceGraph]:
    """The rewrites of a signed graph that are possible, the fastest first; the last is the signed graph itself. One
    that changes nothing is left out. Raises ValueError for what is no graph with one input."""
    signed = ModelProto.FromString(model)
    half = _half(signed)
    levels = _without_first_quantize(half)
    if levels is not None:
        yield _told("half-int8", levels[0], levels[1])
    yield _told("half", half)
    yield DeviceGraph(recipe="signed", model=model, digest=sha256_hex(model), channels=_channels(signed))


def _told(recipe: Recipe, graph: ModelProto, input_scale: float | None = None) -> DeviceGraph:
    checker.check_model(graph, full_check=True)
    raw = graph.SerializeToString(deterministic=True)
    return DeviceGraph(
        recipe=recipe, model=raw, digest=sha256_hex(raw), channels=_channels(graph), input_scale=input_scale
    )


def _channels(graph: ModelProto) -> int:
    (images,) = graph.graph.input
    return int(images.type.tensor_type.shape.dim[1].dim_value)


def _copied(graph: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(graph)
    return copy


def _half(signed: ModelProto) -> ModelProto:
    newer = _with_opset(signed)
    return _Halving(_with_fourth_channel(newer)).done()


def _with_opset(signed: ModelProto) -> ModelProto:
    """The same graph in the opset whose Q and DQ may be FP16: two of the operators that we use changed since 17."""
    copy = _copied(signed)
    if copy.opset_import[0].version >= _OPSET:
        return copy
    for node in copy.graph.node:
        axes = next((a for a in node.attribute if a.name == "axes"), None)
        if axes is not None and node.op_type.startswith("Reduce"):
            name = f"{node.name or node.output[0]}/axes"
            copy.graph.initializer.append(numpy_helper.from_array(np.array(axes.ints, np.int64), name))
            node.attribute.remove(axes)
            node.input.append(name)
        if node.op_type == "Split" and len(node.input) == 1:
            node.attribute.append(helper.make_attribute("num_outputs", len(node.output)))
    copy.opset_import[0].version = _OPSET
    copy.ir_version = max(copy.ir_version, _IR_VERSION)
    return copy


def _with_fourth_channel(graph: ModelProto) -> ModelProto:
    """Where convolutions alone read the photographs, through a pair or not, they get a channel of zeros."""
    weights = _first_weights(graph)
    if not weights or _channels(graph) != _CHANNELS - 1:
        return graph
    copy = _copied(graph)
    for stored in copy.graph.initializer:
        if stored.name in weights:
            array = numpy_helper.to_array(stored)
            empty = np.zeros((array.shape[0], 1, *array.shape[2:]), array.dtype)
            stored.CopyFrom(numpy_helper.from_array(np.concatenate([array, empty], axis=1), stored.name))
    copy.graph.input[0].type.tensor_type.shape.dim[1].dim_value = _CHANNELS
    return copy


def _first_weights(graph: ModelProto) -> set[str]:
    """The stored weights of the convolutions that read the photographs; none where something else reads them too."""
    makers = {output: node for node in graph.graph.node for output in node.output}
    tensors, weights = [graph.graph.input[0].name], set()
    while tensors:
        for node in _readers(graph, tensors.pop()):
            if node.op_type in _PAIRS:
                tensors.append(node.output[0])
            elif node.op_type == "Conv" and _ungrouped(node):
                weights.add(_stored(makers, node.input[1]))
            else:
                return set()
    return weights


def _readers(graph: ModelProto, tensor: str) -> list[Any]:
    return [node for node in graph.graph.node if tensor in node.input]


def _ungrouped(conv: Any) -> bool:
    return all(a.i == 1 for a in conv.attribute if a.name == "group")


def _stored(makers: dict[str, Any], tensor: str) -> str:
    """The initializer that a weight comes from, through DequantizeLinear and Cast."""
    while tensor in makers:
        tensor = makers[tensor].input[0]
    return tensor


class _Halving:
    """One graph on its way: every float tensor becomes FP16, unless an exact node makes it."""

    def __init__(self, graph: ModelProto) -> None:
        self._graph = _copied(graph)
        self._floats = _float_tensors(self._graph)
        self._stored = {i.name: numpy_helper.to_array(i) for i in self._graph.graph.initializer}
        self._exact = _exact_nodes(self._graph)
        self._is_exact: dict[str, bool] = {}  # float tensor -> whether it is FP32
        self._nodes: list[Any] = []
        self._added: dict[str, Any] = {}

    def done(self) -> ModelProto:
        body = self._graph.graph
        body.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
        self._is_exact[body.input[0].name] = False
        for node in list(body.node):
            self._take(node)
        for output in body.output:
            self._keep_single(output.name)
        kept = [i for i in body.initializer if i.name not in self._floats]
        used = {name for node in self._nodes for name in node.input}
        del body.node[:], body.initializer[:], body.value_info[:]
        body.node.extend(self._nodes)
        body.initializer.extend([i for i in [*kept, *self._added.values()] if i.name in used])
        return self._graph

    def _take(self, node: Any) -> None:
        if node.op_type == "Cast" and node.input[0] in self._stored and node.output[0] in self._floats:
            self._stored[node.output[0]] = self._stored[node.input[0]].astype(np.float32)
            return
        exact = node.output[0] in self._exact
        for place, tensor in enumerate(node.input):
            if tensor in self._floats:
                node.input[place] = self._typed(tensor, exact, is_scale=node.op_type in _PAIRS and place == 1)
        if node.op_type in ("Cast", "Constant", "ConstantOfShape"):
            _retype(node, exact)
        for tensor in node.output:
            if tensor in self._floats:
                self._is_exact[tensor] = exact
        self._nodes.append(node)

    def _typed(self, tensor: str, exact: bool, *, is_scale: bool) -> str:
        """The name of `tensor` in the wanted type, which is added where it is not there yet."""
        if tensor in self._stored:
            name = f"{tensor}/single" if exact else tensor
            if name not in self._added:
                array = self._stored[tensor] if exact else _as_half(self._stored[tensor], is_scale)
                self._added[name] = numpy_helper.from_array(array, name)
            return name
        if self._is_exact[tensor] == exact:
            return tensor
        name = f"{tensor}/single" if exact else f"{tensor}/half"
        if name not in self._is_exact:
            to = TensorProto.FLOAT if exact else TensorProto.FLOAT16
            self._nodes.append(helper.make_node("Cast", [tensor], [name], name=name, to=to))
            self._is_exact[name] = exact
        return name

    def _keep_single(self, output: str) -> None:
        """A graph's outputs stay FP32."""
        if self._is_exact.get(output, True):
            return
        inner = f"{output}/inner"
        for node in self._nodes:
            node.output[:] = [inner if name == output else name for name in node.output]
            node.input[:] = [inner if name == output else name for name in node.input]
        self._nodes.append(helper.make_node("Cast", [inner], [output], name=inner, to=TensorProto.FLOAT))


def _float_tensors(graph: ModelProto) -> set[str]:
    inferred = shape_inference.infer_shapes(graph, check_type=True, strict_mode=True).graph
    values = [*inferred.input, *inferred.output, *inferred.value_info]
    found = {v.name for v in values if v.type.tensor_type.elem_type == TensorProto.FLOAT}
    return found | {i.name for i in graph.graph.initializer if i.data_type == TensorProto.FLOAT}


def _exact_nodes(graph: ModelProto) -> set[str]:
    """The outputs of reductions, of the squares that nothing else reads (of a feature of 256 FP16 holds none), and of
    all that follows."""
    found: set[str] = set()
    for node in graph.graph.node:
        if node.op_type in _EXACT or found.intersection(node.input) or _summed_square(graph, node):
            found.update(node.output)
    return found


def _summed_square(graph: ModelProto, node: Any) -> bool:
    if node.op_type not in _SQUARES or (node.op_type == "Mul" and node.input[0] != node.input[1]):
        return False
    readers = _readers(graph, node.output[0])
    return bool(readers) and all(reader.op_type in _EXACT for reader in readers)


def _as_half(array: NDArray[Any], is_scale: bool) -> NDArray[np.float16]:
    clipped = np.clip(array, -_MOST, _MOST)
    return np.asarray(np.maximum(clipped, _LEAST_SCALE) if is_scale else clipped).astype(np.float16)


def _retype(node: Any, exact: bool) -> None:
    """Nodes that name a type of their own."""
    if exact:
        return
    for attribute in node.attribute:
        if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16
        if attribute.name == "value" and attribute.t.data_type == TensorProto.FLOAT:
            attribute.t.CopyFrom(numpy_helper.from_array(_as_half(numpy_helper.to_array(attribute.t), False)))


def _without_first_quantize(half: ModelProto) -> tuple[ModelProto, float] | None:
    """The graph whose input is what its first QuantizeLinear gives, and that one's scale; None where photographs are
    read otherwise, or not with four channels."""
    images = half.graph.input[0]
    readers = _readers(half, images.name)
    if _channels(half) != _CHANNELS or [n.op_type for n in readers] != ["QuantizeLinear"]:
        return None
    copy = _copied(half)
    (quantize,) = _readers(copy, images.name)
    stored = {i.name: numpy_helper.to_array(i) for i in copy.graph.initializer}
    scale = stored.get(quantize.input[1])
    if scale is None or scale.size != 1 or stored[quantize.input[2]].any():
        return None
    for node in copy.graph.node:
        node.input[:] = [images.name if name == quantize.output[0] else name for name in node.input]
    copy.graph.node.remove(quantize)
    copy.graph.input[0].type.tensor_type.elem_type = TensorProto.INT8
    return copy, float(scale.reshape(()))
