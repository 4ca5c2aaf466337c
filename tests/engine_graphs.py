"""Small encoders as other people's exporters leave them, with seeded weights: a residual network with batch
normalisation and a classifier, and a vision transformer with a class token, spelled-out norms and fused nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, checker, helper

from engines.architectures.graph import GraphWriter

SIZE = 32
OPSET = 17


class Foreign(GraphWriter):
    """One call a node; weights are drawn in the order of the calls."""

    def __init__(self, name: str, seed: int) -> None:
        super().__init__(name)
        self.rng = np.random.default_rng(seed)

    def drawn(self, name: str, *shape: int, spread: float | None = None) -> str:
        scale = np.sqrt(2.0 / np.prod(shape[1:])) if spread is None else spread
        return self.constant(name, (self.rng.standard_normal(shape) * scale).astype(np.float32))

    def written(self, outputs: dict[str, list[Any]], *, opset: int = OPSET, dims: list[Any] | None = None) -> Any:
        images = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, dims or ["N", 3, SIZE, SIZE])
        graph = helper.make_graph(
            self._nodes,
            self._name,
            [images],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, d) for n, d in outputs.items()],
            list(self._initializers.values()),
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], producer_name="somebody")
        model.ir_version = 8
        checker.check_model(model)
        return model


class Residual(Foreign):
    """Conv, BatchNormalization, Relu; a stage of 8 px maps, one of 4 px behind a shortcut with a convolution."""

    def conv(self, name: str, source: str, out: int, into: int, size: int, stride: int = 1) -> str:
        kernel = self.drawn(f"{name}.weight", out, into, size, size)
        attributes = {"kernel_shape": [size, size], "strides": [stride, stride], "pads": [size // 2] * 4}
        found = self.op("Conv", f"{name}.out", source, kernel, **attributes)
        return self.norm(name, found, out)

    def norm(self, name: str, source: str, width: int) -> str:
        parts = {
            "gain": self.rng.uniform(0.5, 1.0, width),
            "shift": self.rng.uniform(-0.1, 0.1, width),
            "mean": self.rng.uniform(-0.1, 0.1, width),
            "variance": self.rng.uniform(0.8, 1.2, width),
        }
        names = [self.constant(f"{name}.{part}", values.astype(np.float32)) for part, values in parts.items()]
        return self.op("BatchNormalization", f"{name}.normed", source, *names, epsilon=1e-5)

    def block(self, name: str, source: str, out: int, into: int, stride: int) -> str:
        first = self.op("Relu", f"{name}.relu1", self.conv(f"{name}.conv1", source, out, into, 3, stride))
        second = self.conv(f"{name}.conv2", first, out, out, 3)
        other = self.conv(f"{name}.shortcut", source, out, into, 1, stride) if stride > 1 else source
        return self.op("Relu", f"{name}.relu2", self.op("Add", f"{name}.add", second, other))


def residual(seed: int = 1, *, width: int = 8, opset: int = OPSET, dims: list[Any] | None = None) -> Any:
    graph = Residual("main_graph", seed)
    stem = graph.op("Relu", "relu", graph.conv("conv1", "pixels", width, 3, 5, 2))
    pooled = graph.op("MaxPool", "maxpool", stem, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    last = graph.block("stage2", graph.block("stage1", pooled, width, width, 1), 2 * width, width, 2)
    flat = graph.op("Flatten", "flat", graph.op("GlobalAveragePool", "avgpool", last))
    head = graph.drawn("fc.weight", 12, 2 * width, spread=0.3)
    logits = graph.op("Gemm", "logits", flat, head, graph.constant("fc.bias", np.zeros(12, np.float32)), transB=1)
    return graph.written({logits: ["N", 12]}, opset=opset, dims=dims)


WIDTH, HEADS, PATCH = 24, 2, 8


class Transformer(Foreign):
    def norm(self, name: str, source: str, spelled_out: bool) -> str:
        gain = self.constant(f"{name}.weight", self.rng.uniform(0.8, 1.2, WIDTH).astype(np.float32))
        bias = self.constant(f"{name}.bias", self.rng.uniform(-0.1, 0.1, WIDTH).astype(np.float32))
        if not spelled_out:
            return self.op("LayerNormalization", name, source, gain, bias, axis=-1, epsilon=1e-6)
        mean = self.op("ReduceMean", f"{name}.mean", source, axes=[-1], keepdims=1)
        centred = self.op("Sub", f"{name}.centred", source, mean)
        square = self.op("Pow", f"{name}.square", centred, self.scalar("two", 2.0))
        variance = self.op("ReduceMean", f"{name}.variance", square, axes=[-1], keepdims=1)
        lifted = self.op("Add", f"{name}.lifted", variance, self.scalar("epsilon", 1e-6))
        divided = self.op("Div", f"{name}.divided", centred, self.op("Sqrt", f"{name}.root", lifted))
        return self.op("Add", name, self.op("Mul", f"{name}.scaled", divided, gain), bias)

    def linear(self, name: str, source: str, into: int, out: int) -> str:
        product = self.op("MatMul", f"{name}.product", source, self.drawn(f"{name}.weight", into, out, spread=0.2))
        return self.op("Add", name, product, self.constant(f"{name}.bias", np.zeros(out, np.float32)))

    def block(self, name: str, source: str, spelled_out: bool) -> str:
        normed = self.norm(f"{name}.norm1", source, spelled_out)
        heads = self.shape(0, -1, HEADS, WIDTH // HEADS)
        turned = {}
        for part in ("query", "key", "value"):
            split = self.op(
                "Reshape", f"{name}.{part}.split", self.linear(f"{name}.{part}", normed, WIDTH, WIDTH), heads
            )
            perm = [0, 2, 3, 1] if part == "key" else [0, 2, 1, 3]
            turned[part] = self.op("Transpose", f"{name}.{part}.heads", split, perm=perm)
        scaled = self.op("Mul", f"{name}.scaled", turned["query"], self.scalar("scale", (WIDTH // HEADS) ** -0.5))
        weights = self.op(
            "Softmax", f"{name}.weights", self.op("MatMul", f"{name}.scores", scaled, turned["key"]), axis=-1
        )
        mixed = self.op(
            "Transpose", f"{name}.rows", self.op("MatMul", f"{name}.mixed", weights, turned["value"]), perm=[0, 2, 1, 3]
        )
        flat = self.op("Reshape", f"{name}.flat", mixed, self.shape(0, -1, WIDTH))
        attended = self.op("Add", f"{name}.attended", source, self.linear(f"{name}.proj", flat, WIDTH, WIDTH))
        hidden = self.linear(f"{name}.fc1", self.norm(f"{name}.norm2", attended, spelled_out), WIDTH, 2 * WIDTH)
        relu = self.op("Relu", f"{name}.act", hidden)
        return self.op("Add", name, attended, self.linear(f"{name}.fc2", relu, 2 * WIDTH, WIDTH))


def transformer(seed: int = 1, *, class_token: bool = True, spelled_out: bool = True) -> Any:
    graph = Transformer("main_graph", seed)
    kernel = graph.drawn("patch.weight", WIDTH, 3, PATCH, PATCH)
    cells = graph.op("Conv", "patch", "pixels", kernel, kernel_shape=[PATCH, PATCH], strides=[PATCH, PATCH])
    flat = graph.op("Reshape", "patch.flat", cells, graph.shape(0, WIDTH, -1))
    tokens = graph.op("Transpose", "patch.tokens", flat, perm=[0, 2, 1])
    count = (SIZE // PATCH) ** 2
    if class_token:
        batch = graph.op("Slice", "batch", graph.op("Shape", "dims", "pixels"), graph.shape(0), graph.shape(1))
        wanted = graph.op("Concat", "class.dims", batch, graph.shape(1, WIDTH), axis=0)
        own = graph.op("Expand", "class", graph.drawn("cls_token", 1, 1, WIDTH, spread=0.5), wanted)
        tokens, count = graph.op("Concat", "with_class", own, tokens, axis=1), count + 1
    tokens = graph.op("Add", "placed", tokens, graph.drawn("pos_embed", 1, count, WIDTH, spread=0.5))
    for number in range(2):
        tokens = graph.block(f"blocks.{number}", tokens, spelled_out)
    final = graph.norm("norm", tokens, spelled_out)
    first = graph.op("Slice", "first", final, graph.shape(0), graph.shape(1), graph.shape(1))
    head = graph.linear("head", graph.op("Reshape", "first.flat", first, graph.shape(0, WIDTH)), WIDTH, 12)
    return graph.written({head: ["N", 12]})


def run(model: Any, feeds: NDArray[np.float32], *outputs: str) -> list[NDArray[np.float32]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    content = model if isinstance(model, bytes) else model.SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return list(session.run(list(outputs), {session.get_inputs()[0].name: feeds}))
