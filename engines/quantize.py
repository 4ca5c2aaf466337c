"""Explicit symmetric INT8: where Q/DQ pairs stand, which ranges they carry, and the float twin of a quantised graph.

Residual networks: every convolution input, the output of each shortcut's convolution, and the inputs of the max and
the global pool. Everything that reads such a tensor reads it dequantised, the residual addition too, so that TensorRT
fuses whole blocks. Where a graph gives patches, what they are made of is read as it is: their head is float, and so are
the residual additions of the stage that they come from. Patches tell small details, and two thirds of what INT8 moved
in them came from there. Transformers: the inputs of linear layers alone, and only those layers read the dequantised
value; a quantised residual stream destroys accuracy. Weights are INT8 initializers with a scale a channel."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper

from engines.manifest import is_residual

LEVELS = 127  # symmetric: -128 is not used, so that negation is exact
_HALF_STORED_FROM = 16_384  # values


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class QuantPlan:
    """`activations`: tensor -> the nodes that read it dequantised (empty: all of them). `weights`: initializer ->
    output-channel axis. `same_range`: tensor -> the tensor whose range it takes over (a max pool changes none)."""

    activations: Mapping[str, frozenset[str]]
    weights: Mapping[str, int]
    same_range: Mapping[str, str]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """What is quantised, or left float, as one: a weight and the nodes that read it."""

    weight: str
    nodes: frozenset[str]


def plan_for(model: ModelProto, family: str) -> QuantPlan:
    """Where the pairs stand for a family."""
    return _residual_plan(model) if is_residual(family) else _linear_plan(model)


def layers_of(model: ModelProto, plan: QuantPlan) -> tuple[Layer, ...]:
    """The plan's layers in the order of the graph."""
    readers: dict[str, set[str]] = {}
    for node in model.graph.node:
        for tensor in node.input:
            if tensor in plan.weights:
                readers.setdefault(tensor, set()).add(node.name)
    return tuple(Layer(weight=weight, nodes=frozenset(nodes)) for weight, nodes in readers.items())


def without(model: ModelProto, plan: QuantPlan, floats: AbstractSet[str]) -> QuantPlan:
    """The plan with the layers of these weights left float. A tensor keeps its pair while an integer op reads it, and
    the float layers read the tensor itself."""
    left = {n for layer in layers_of(model, plan) if layer.weight in floats for n in layer.nodes}
    integer = _integer_nodes(model, plan) - left
    activations = {}
    for tensor, readers in plan.activations.items():
        everyone = readers or _readers(model, tensor)
        if everyone & integer or _makers_name(model, tensor) in integer & _shortcuts(model):
            activations[tensor] = everyone - left if everyone & left else readers
    weights = {weight: axis for weight, axis in plan.weights.items() if weight not in floats}
    return QuantPlan(activations=activations, weights=weights, same_range=plan.same_range)


def alone(model: ModelProto, plan: QuantPlan, layer: Layer) -> QuantPlan:
    """The plan with this one layer quantised and nothing else."""
    others = plan.weights.keys() - {layer.weight}
    rest = without(model, plan, others)
    read = {t: frozenset(layer.nodes & (r or _readers(model, t))) for t, r in rest.activations.items()}
    made = {t for t in rest.activations if _makers_name(model, t) in layer.nodes}
    kept = {t: rest.activations[t] if t in made else r for t, r in read.items() if r or t in made}
    return QuantPlan(activations=kept, weights=rest.weights, same_range=plan.same_range)


def _integer_nodes(model: ModelProto, plan: QuantPlan) -> set[str]:
    pools = {n.name for n in model.graph.node if n.op_type in ("MaxPool", "GlobalAveragePool")}
    planned = {n.name for n in model.graph.node if n.input and n.input[0] in plan.activations}
    return (pools & planned) | {n for layer in layers_of(model, plan) for n in layer.nodes}


def _readers(model: ModelProto, tensor: str) -> frozenset[str]:
    return frozenset(n.name for n in model.graph.node if tensor in n.input)


def _makers_name(model: ModelProto, tensor: str) -> str | None:
    return next((n.name for n in model.graph.node if tensor in n.output), None)


def _shortcuts(model: ModelProto) -> set[str]:
    """Convolutions on the shortcut of a block: of the two that meet in an addition, the one whose source the block's
    other branch reads too."""
    makers = {o: n for n in model.graph.node for o in n.output}
    counts: dict[str, int] = {}
    for tensor in (t for n in model.graph.node for t in n.input):
        counts[tensor] = counts.get(tensor, 0) + 1
    found = set()
    for node in (n for n in model.graph.node if n.op_type == "Add"):
        convs = [makers[i] for i in node.input if i in makers and makers[i].op_type == "Conv"]
        if len(convs) == 2:
            found |= {c.name for c in convs if counts[c.input[0]] > 1}
    return found


def _residual_plan(model: ModelProto) -> QuantPlan:
    planned: dict[str, None] = {}
    weights: dict[str, int] = {}
    same_range: dict[str, str] = {}
    shortcuts, floats = _shortcuts(model), _float_readers(model)
    for node in (n for n in model.graph.node if n.name not in floats):
        if node.op_type in ("Conv", "MaxPool", "GlobalAveragePool"):
            planned[node.input[0]] = None
        if node.op_type == "Conv":
            weights[node.input[1]] = 0
            if node.name in shortcuts:
                planned[node.output[0]] = None
        if node.op_type == "MaxPool":
            same_range[node.output[0]] = node.input[0]
    readers = {t: _readers(model, t) for t in planned}
    activations = {t: r - floats if r & floats else frozenset[str]() for t, r in readers.items() if r - floats}
    return QuantPlan(activations=activations, weights=weights, same_range=same_range)


def _float_readers(model: ModelProto) -> frozenset[str]:
    """The nodes that make patches of a residual stage's last map, and the additions of that stage."""
    makers = {o: n for n in model.graph.node for o in n.output}
    found = _makers_of(model, "patches") - _makers_of(model, "embedding")
    heads = [makers[name] for name in makers if makers[name].name in found]
    waiting = [t for node in heads for t in node.input if t in makers and makers[t].name not in found]
    while waiting:
        node = makers[waiting.pop()]
        if node.op_type == "Add":
            found |= {node.name}
        if node.op_type != "Conv":
            waiting += [t for t in node.input if t in makers]
    return found


def _makers_of(model: ModelProto, tensor: str) -> frozenset[str]:
    """All nodes that a tensor depends on."""
    makers = {o: n for n in model.graph.node for o in n.output}
    found: set[str] = set()
    waiting = [tensor]
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and node.name not in found:
            found.add(node.name)
            waiting += node.input
    return frozenset(found)


def _linear_plan(model: ModelProto) -> QuantPlan:
    stored = {i.name for i in model.graph.initializer}
    readers: dict[str, set[str]] = {}
    weights: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in stored:
            readers.setdefault(node.input[0], set()).add(node.name)
            weights[node.input[1]] = 1
    activations = {tensor: frozenset(names) for tensor, names in readers.items()}
    return QuantPlan(activations=activations, weights=weights, same_range={})


def quantize(model: ModelProto, plan: QuantPlan, thresholds: Mapping[str, float]) -> ModelProto:
    """A quantised copy of a float graph. `thresholds` gives, for every planned activation, the absolute value that
    maps to the largest level (see engines.calibration)."""
    copy = ModelProto()
    copy.CopyFrom(model)
    nodes, added = _weight_nodes(copy, plan)
    halved, halves = _half_stored(copy, plan)
    added += halves
    nodes += halved + list(_with_activation_pairs(copy, plan, thresholds))
    for tensor in plan.activations:
        threshold = thresholds[plan.same_range.get(tensor, tensor)]
        added.append(numpy_helper.from_array(np.float32(threshold / LEVELS), f"{tensor}/scale"))
    added.append(numpy_helper.from_array(np.int8(0), "zero"))
    stored_anew = {n.output[0] for n in nodes if n.op_type in ("DequantizeLinear", "Cast")}
    kept = [i for i in copy.graph.initializer if i.name not in stored_anew]
    _replace(copy, nodes, kept + added)
    checker.check_model(copy)
    return copy


def _weight_nodes(model: ModelProto, plan: QuantPlan) -> tuple[list[Any], list[Any]]:
    """INT8 initializers and the nodes that dequantise them back under the weight's own name."""
    nodes: list[Any] = []
    initializers: list[Any] = []
    for stored in model.graph.initializer:
        if stored.name not in plan.weights:
            continue
        axis = plan.weights[stored.name]
        levels, scale = quantized_weight(numpy_helper.to_array(stored), axis)
        names = [f"{stored.name}/int8", f"{stored.name}/scale", f"{stored.name}/zero"]
        arrays = (levels, scale, np.zeros(scale.shape, np.int8))
        initializers += [numpy_helper.from_array(a, n) for a, n in zip(arrays, names, strict=True)]
        dequantize = f"{stored.name}/dequantize"
        nodes.append(helper.make_node("DequantizeLinear", names, [stored.name], name=dequantize, axis=axis))
    return nodes, initializers


def _half_stored(model: ModelProto, plan: QuantPlan) -> tuple[list[Any], list[Any]]:
    """Large tables that stay float are stored as FP16 and cast back: half the file, and every backend folds it."""
    nodes: list[Any] = []
    initializers: list[Any] = []
    for stored in model.graph.initializer:
        array = numpy_helper.to_array(stored)
        if stored.name in plan.weights or array.dtype != np.float32 or array.size < _HALF_STORED_FROM:
            continue
        half = f"{stored.name}/half"
        initializers.append(numpy_helper.from_array(array.astype(np.float16), half))
        nodes.append(helper.make_node("Cast", [half], [stored.name], name=f"{stored.name}/cast", to=TensorProto.FLOAT))
    return nodes, initializers


def quantized_weight(weight: NDArray[np.float32], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """INT8 levels and the scale [channels] of one weight tensor, symmetric, a channel along `axis`."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.abs(weight).max(axis=others)
    scale = np.maximum(largest, 1e-12).astype(np.float32) / np.float32(LEVELS)
    broad = scale.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
    return np.clip(np.rint(weight / broad), -LEVELS, LEVELS).astype(np.int8), scale


def _with_activation_pairs(model: ModelProto, plan: QuantPlan, thresholds: Mapping[str, float]) -> Iterator[Any]:
    if missing := plan.activations.keys() - plan.same_range.keys() - thresholds.keys():
        raise ValueError(f"no range was calibrated for {sorted(missing)}")
    for tensor in (i.name for i in model.graph.input):
        if tensor in plan.activations:
            yield from _pair(tensor)
    for node in model.graph.node:
        for place, tensor in enumerate(node.input):
            readers = plan.activations.get(tensor)
            if readers is not None and (not readers or node.name in readers):
                node.input[place] = f"{tensor}/dequantized"
        yield node
        for tensor in node.output:
            if tensor in plan.activations:
                yield from _pair(tensor)


def _pair(tensor: str) -> list[Any]:
    scale = [f"{tensor}/scale", "zero"]
    return [
        helper.make_node("QuantizeLinear", [tensor, *scale], [f"{tensor}/int8"], name=f"{tensor}/quantize"),
        helper.make_node(
            "DequantizeLinear", [f"{tensor}/int8", *scale], [f"{tensor}/dequantized"], name=f"{tensor}/dequantize"
        ),
    ]


def float_twin(model: ModelProto) -> ModelProto:
    """The same network without activation quantisation, its weights dequantised: what INT8 is measured against."""
    copy = ModelProto()
    copy.CopyFrom(model)
    stored = {i.name: numpy_helper.to_array(i) for i in copy.graph.initializer}
    sources = {n.output[0]: n.input[0] for n in copy.graph.node if n.op_type == "QuantizeLinear"}
    renamed: dict[str, str] = {}
    nodes: list[Any] = []
    for node in copy.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in sources:
            renamed[node.output[0]] = sources[node.input[0]]
        elif node.op_type == "DequantizeLinear":
            stored[node.output[0]] = _dequantized(node, stored)
        elif node.op_type != "QuantizeLinear":
            nodes.append(node)
    for node in nodes:
        node.input[:] = [renamed.get(i, i) for i in node.input]
    used = {i for n in nodes for i in n.input}
    _replace(copy, nodes, [numpy_helper.from_array(a, n) for n, a in stored.items() if n in used])
    checker.check_model(copy)
    return copy


def _dequantized(node: Any, stored: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    levels, scale = stored[node.input[0]], stored[node.input[1]]
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    broad = scale.reshape([-1 if i == axis else 1 for i in range(levels.ndim)])
    return np.asarray(levels * broad, np.float32)


def _replace(model: ModelProto, nodes: list[Any], initializers: list[Any]) -> None:
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.initializer[:]
    model.graph.initializer.extend(initializers)
