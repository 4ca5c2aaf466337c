"""A short hand for writing an ONNX graph: one call a node, named after its output."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, checker, helper, numpy_helper

OPSET = 17  # LayerNormalization is one op from here on, which TensorRT needs to keep it in FP32
IR_VERSION = 8


class GraphWriter:
    """Collects nodes and initializers. Every node has one output, named like the node unless `outputs` says else."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._nodes: list[Any] = []
        self._initializers: dict[str, Any] = {}

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Store an initializer once and return its name."""
        self._initializers.setdefault(name, numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def scalar(self, name: str, value: float) -> str:
        """A float32 constant without dimensions."""
        return self.constant(name, np.array(value, np.float32))

    def shape(self, *dims: int) -> str:
        """An int64 vector constant, for Reshape, Unsqueeze, Slice and the like."""
        return self.constant("shape_" + "_".join(str(d).replace("-", "m") for d in dims), np.array(dims, np.int64))

    def op(self, kind: str, name: str, *inputs: str, **attributes: Any) -> str:
        """Add one node and return the name of its output."""
        self._nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def split(self, name: str, source: str, parts: int, axis: int) -> tuple[str, ...]:
        """Cut `source` into equal parts along `axis`."""
        outputs = [f"{name}.{i}" for i in range(parts)]
        self._nodes.append(helper.make_node("Split", [source], outputs, name=name, axis=axis))
        return tuple(outputs)

    def l2_normalised(self, name: str, source: str, axis: int) -> str:
        """`source` divided by its length along `axis` (floored, so that a zero vector stays zero)."""
        length = self.op("ReduceL2", f"{name}.length", source, axes=[axis], keepdims=1)
        floored = self.op("Add", f"{name}.floored", length, self.scalar("tiny", 1e-6))
        return self.op("Div", name, source, floored)

    def model(self, images: tuple[int, int, int], outputs: dict[str, tuple[int, ...]]) -> Any:
        """The checked ModelProto: input `images` [N,C,S,S] float32 and the named float32 outputs [N,...]."""
        graph = helper.make_graph(
            self._nodes,
            self._name,
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", *images])],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", *dims]) for n, dims in outputs.items()],
            list(self._initializers.values()),
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="assay")
        model.ir_version = IR_VERSION
        checker.check_model(model, full_check=True)
        return model
