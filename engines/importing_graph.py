"""A foreign float graph made plain: constants as initializers, no training leftovers, batch normalisation inside its
convolution, layer normalisation as one op, every node named. What it computes stays the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, checker, helper, inliner, numpy_helper, shape_inference

from engines.drafts import MakingRefused

OLDEST_OPSET: Final = 17  # LayerNormalization is one op from here on
NEWEST_OPSET: Final = 20  # newer ones were not tried with the backends
_FOREIGN: Final = ("If", "Loop", "Scan", "SequenceMap")
_QUANTISED: Final = ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "DynamicQuantizeLinear")
_HALVES: Final = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
Array = NDArray[Any]
Dims = tuple[int | None, ...]  # None: the batch, or not known


def parsed(raw: bytes) -> ModelProto:
    """The checked graph of a file's bytes. Raises MakingRefused."""
    model = ModelProto()
    try:
        model.ParseFromString(raw)
    except Exception as error:  # protobuf has its own tree of errors
        fix = "name a file that an ONNX exporter made, in one piece"
        raise MakingRefused(f"not an ONNX file ({_first_line(error)})", fix) from error
    _check_inside(model)
    try:
        checker.check_model(model)
    except (checker.ValidationError, ValueError) as error:
        raise MakingRefused(f"not a valid ONNX graph ({_first_line(error)})", "export the encoder again") from error
    _check_opset(model)
    return model


def _check_inside(model: ModelProto) -> None:
    outside = [i.name for i in model.graph.initializer if i.data_location == TensorProto.EXTERNAL]
    if outside:
        fix = "save it as one file (onnx.save with save_as_external_data=False)"
        raise MakingRefused(f"{len(outside)} tensors lie outside the file, {outside[0]!r} first", fix)
    for kind, values in (("input", model.graph.input), ("output", model.graph.output)):
        for value in values:
            if not value.type.tensor_type.HasField("shape"):
                fix = "export it with fixed shapes, the batch alone dynamic"
                raise MakingRefused(f"{kind} {value.name!r} has a dynamic rank", fix)


def _check_opset(model: ModelProto) -> None:
    opset = opset_of(model)
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        fix = f"export with opset {OLDEST_OPSET} (torch.onnx.export(..., opset_version={OLDEST_OPSET}))"
        raise MakingRefused(f"the graph's opset is {opset}, taken are {OLDEST_OPSET} to {NEWEST_OPSET}", fix)


def opset_of(model: ModelProto) -> int:
    return next((int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)


def _check_ops(model: ModelProto) -> None:
    kinds = {node.op_type for node in model.graph.node}
    if found := sorted(kinds & set(_QUANTISED)):
        fix = "import the float graph; `assay engine quantize` makes the INT8 one"
        raise MakingRefused(f"the graph is quantised already ({', '.join(found)})", fix)
    foreign = {n.domain for n in model.graph.node} - {"", "ai.onnx"}
    if found := sorted((kinds & set(_FOREIGN)) | foreign):
        fix = "export it without control flow and with standard ops only"
        raise MakingRefused(f"the graph needs {', '.join(found)}", fix)
    if found := sorted(i.name for i in model.graph.initializer if i.data_type in _HALVES):
        kind = f"{len(found)} tensors are not float32, {found[0]!r} first"
        raise MakingRefused(f"{kind}", "export it in float32 (model.float())")


def plain(model: ModelProto) -> ModelProto:
    """A tidied copy. Raises MakingRefused for what cannot be a float encoder."""
    copy = inliner.inline_local_functions(model) if model.functions else ModelProto()
    if not model.functions:
        copy.CopyFrom(model)
    graph = Tidied(copy)
    for step in (graph.constants, graph.without_leftovers, graph.folded, graph.without_batch_norms, graph.one_op_norms):
        step()
    graph.named()
    result = graph.model()
    _check_ops(result)
    return result


def pruned(model: ModelProto, outputs: Iterable[str]) -> ModelProto:
    """A copy with only what these tensors need, no outputs declared yet."""
    makers = {o: n for n in model.graph.node for o in n.output}
    wanted, waiting = set[str](), list(outputs)
    while waiting:
        tensor = waiting.pop()
        if tensor and tensor not in wanted:
            wanted.add(tensor)
            waiting += list(makers[tensor].input) if tensor in makers else []
    copy = ModelProto()
    copy.CopyFrom(model)
    refill(copy.graph.node, [n for n in model.graph.node if wanted & set(n.output)])
    refill(copy.graph.initializer, [i for i in model.graph.initializer if i.name in wanted])
    del copy.graph.output[:], copy.graph.value_info[:]
    return copy


def shapes(model: ModelProto) -> dict[str, Dims]:
    """Every tensor whose rank is known; a dimension that is no fixed number is None."""
    inferred = shape_inference.infer_shapes(model, data_prop=True).graph
    known = (*inferred.input, *inferred.value_info, *inferred.output)
    return {v.name: _dims(v) for v in known if v.type.tensor_type.HasField("shape")}


def _dims(value: Any) -> Dims:
    dims = value.type.tensor_type.shape.dim
    return tuple(int(d.dim_value) if d.HasField("dim_value") else None for d in dims)


class Tidied:
    """A graph under repair: nodes in order, initializers as arrays."""

    def __init__(self, model: ModelProto) -> None:
        self._model = model
        self.nodes: list[Any] = list(model.graph.node)
        self.stored: dict[str, Array] = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
        self.outputs = {o.name for o in model.graph.output}

    def makers(self) -> dict[str, Any]:
        return {o: n for n in self.nodes for o in n.output if o}

    def readers(self) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        for node in self.nodes:
            for tensor in node.input:
                found.setdefault(tensor, []).append(node)
        return found

    def constants(self) -> None:
        """Constant nodes become initializers."""
        kept = []
        for node in self.nodes:
            value = _constant(node) if node.op_type == "Constant" else None
            if value is None:
                kept.append(node)
            else:
                self.stored[node.output[0]] = value
        self.nodes = kept

    def without_leftovers(self) -> None:
        """Identity and Dropout do nothing at inference; their readers read what they read."""
        renamed: dict[str, str] = {}
        kept = []
        for node in self.nodes:
            node.input[:] = [renamed.get(i, i) for i in node.input]
            if node.op_type in ("Identity", "Dropout") and node.output[0] not in self.outputs:
                renamed[node.output[0]] = node.input[0]
            else:
                kept.append(node)
        self.nodes = kept

    def folded(self) -> None:
        """A cast to float32, or a transposition, of stored values is stored itself."""
        kept = []
        for node in self.nodes:
            stored = self.stored.get(node.input[0]) if len(node.input) == 1 else None
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            if stored is not None and node.op_type == "Transpose":
                self.stored[node.output[0]] = np.ascontiguousarray(stored.transpose(attributes.get("perm")))
            elif stored is not None and node.op_type == "Cast" and attributes.get("to") == TensorProto.FLOAT:
                self.stored[node.output[0]] = stored.astype(np.float32)
            else:
                kept.append(node)
        self.nodes = kept

    def without_batch_norms(self) -> None:
        """Batch normalisation right behind a convolution that nothing else reads goes into its kernel and bias."""
        makers, readers = self.makers(), self.readers()
        for norm in [n for n in self.nodes if n.op_type == "BatchNormalization"]:
            conv = makers.get(norm.input[0])
            if conv is None or conv.op_type != "Conv" or len(readers[norm.input[0]]) > 1:
                continue
            if all(i in self.stored for i in (*norm.input[1:5], *conv.input[1:])):
                self._fold(conv, norm)
                self.nodes.remove(norm)

    def _fold(self, conv: Any, norm: Any) -> None:
        gain, shift, mean, variance = (self.stored[i].astype(np.float64) for i in norm.input[1:5])
        epsilon = next((a.f for a in norm.attribute if a.name == "epsilon"), 1e-5)
        gain = gain / np.sqrt(variance + epsilon)
        kernel = self.stored[conv.input[1]]
        bias = self.stored[conv.input[2]] if len(conv.input) > 2 else np.zeros(len(kernel), np.float32)
        name = norm.output[0]
        self.stored[f"{name}.weight"] = (kernel * gain.reshape(-1, *[1] * (kernel.ndim - 1))).astype(np.float32)
        self.stored[f"{name}.bias"] = ((bias - mean) * gain + shift).astype(np.float32)
        conv.input[:] = [conv.input[0], f"{name}.weight", f"{name}.bias"]
        conv.output[:] = [name]

    def one_op_norms(self) -> None:
        """(x - mean) / sqrt(variance + epsilon) * gain + bias becomes LayerNormalization: FP16 would overflow in the
        square otherwise."""
        makers = self.makers()
        for index, node in enumerate(self.nodes):
            if node.op_type == "Add" and (norm := _spelled_out(node, makers, self.stored)) is not None:
                self.nodes[index] = norm

    def named(self) -> None:
        """Each node under a name of its own: plans and records speak of nodes by name."""
        seen: set[str] = set()
        for node in self.nodes:
            if not node.name or node.name in seen:
                node.name = f"{node.op_type}:{node.output[0]}"
            seen.add(node.name)

    def model(self) -> ModelProto:
        """The repaired graph, without what nothing reads any more."""
        copy = ModelProto()
        copy.CopyFrom(self._model)
        refill(copy.graph.node, self.nodes)
        refill(copy.graph.initializer, [numpy_helper.from_array(a, n) for n, a in self.stored.items()])
        result = pruned(copy, self.outputs)
        result.graph.output.extend(self._model.graph.output)
        stored = set(self.stored)
        refill(result.graph.input, [i for i in self._model.graph.input if i.name not in stored])
        return result


def _spelled_out(last: Any, makers: dict[str, Any], stored: dict[str, Array]) -> Any | None:
    """The LayerNormalization that ends in this Add, if one is spelled out before it."""
    scaled, bias = _with_constant(last, "Mul", makers, stored)
    if scaled is None:
        return None
    divided, gain = _with_constant(scaled, "Div", makers, stored)
    if divided is None or stored[gain].ndim != 1 or stored[bias].ndim != 1:
        return None
    centred, root = makers.get(divided.input[0]), makers.get(divided.input[1])
    lifted = makers.get(root.input[0]) if root is not None and root.op_type == "Sqrt" else None
    if centred is None or centred.op_type != "Sub" or lifted is None or lifted.op_type != "Add":
        return None
    variance, epsilon = _with_constant(lifted, "ReduceMean", makers, stored)
    mean = makers.get(centred.input[1])
    if variance is None or not _of_rows(variance, stored) or mean is None or not _of_rows(mean, stored):
        return None
    square = makers.get(variance.input[0])
    same = square is not None and square.input[0] == centred.output[0] and mean.input[0] == centred.input[0]
    if not same or not _is_square(square, stored):
        return None
    attributes = {"axis": -1, "epsilon": float(stored[epsilon].ravel()[0])}
    inputs = [centred.input[0], gain, bias]
    return helper.make_node("LayerNormalization", inputs, [last.output[0]], name=last.name, **attributes)


def _with_constant(node: Any, kind: str, makers: dict[str, Any], stored: dict[str, Array]) -> tuple[Any | None, str]:
    """Of a node with two inputs: the maker of one, if of this kind, and the name of the stored other."""
    for first, second in (tuple(node.input), tuple(reversed(node.input))):
        maker = makers.get(first)
        if second in stored and maker is not None and maker.op_type == kind:
            return maker, second
    return None, ""


def _of_rows(node: Any, stored: dict[str, Array]) -> bool:
    """Whether a reduction is a mean over the last axis, its axes an attribute (to opset 17) or an input."""
    if node.op_type != "ReduceMean":
        return False
    axes: Sequence[int] = next((list(a.ints) for a in node.attribute if a.name == "axes"), [])
    if not axes and len(node.input) > 1 and node.input[1] in stored:
        axes = [int(v) for v in stored[node.input[1]].ravel()]
    return axes == [-1]


def _is_square(node: Any, stored: dict[str, Array]) -> bool:
    if node.op_type == "Mul":
        return bool(node.input[0] == node.input[1])
    exponent = stored.get(node.input[1]) if node.op_type == "Pow" else None
    return exponent is not None and exponent.size == 1 and float(exponent.ravel()[0]) == 2.0


def _constant(node: Any) -> Array | None:
    (attribute,) = node.attribute
    value = helper.get_attribute_value(attribute)
    match attribute.name:
        case "value":
            return np.asarray(numpy_helper.to_array(value))
        case "value_float" | "value_floats":
            return np.asarray(value, np.float32)
        case "value_int" | "value_ints":
            return np.asarray(value, np.int64)
    return None


def refill(field: Any, values: Iterable[Any]) -> None:
    """Give a repeated field these values; they may come from itself."""
    kept = list(values)
    del field[:]
    field.extend(kept)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
