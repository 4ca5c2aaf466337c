"""The three outputs of an encoder, put onto a foreign graph: `embedding` [N,D] and `patches` [N,P,d], L2-normalised,
and `attention` [N,h,w], sum 1. Where the graph is tapped is found in engines.importing_taps."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, checker, helper

from engines.architectures.graph import IR_VERSION, GraphWriter
from engines.importing_graph import opset_of, pruned

MOST_PATCH_DIMS: Final = 128
PROJECTED_DIMS: Final = 64
_SEED: Final = 20_261_128


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ResidualTaps:
    """Where a residual network is tapped. `features` [N,C,h,w] is the last map, `middle` [N,c,H,W] one of twice its
    side; `embedding` the tensor of a linear head with weights `head` [D,C], or None: the pooled features themselves."""

    features: str
    channels: int
    side: int
    middle: str
    middle_channels: int
    middle_side: int
    embedding: str | None
    embedding_dim: int
    head: NDArray[np.float32] | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TransformerTaps:
    """Where a transformer is tapped. `final` and `middle` are sequences [N,prefix+side*side,width], the first of them
    after the last norm. `scores` are query, key and the factors between them and the last block's softmax; None: by the
    residual rule, from the final tokens' pull on their mean."""

    final: str
    middle: str
    width: int
    prefix: int
    side: int
    embedding: str | None
    embedding_dim: int
    scores: Scores | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Attention before its softmax: `query` [N,heads,T,w], `key` [N,heads,w,T], and (op, stored factor) in order."""

    query: str
    key: str
    factors: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wrapped:
    """A graph with the three outputs, and what the record says of how it got them."""

    model: ModelProto
    told: dict[str, str]


def residual_wrapped(model: ModelProto, taps: ResidualTaps, size: int) -> Wrapped:
    """Embedding from the pooled features, attention by the residual rule, patches from the middle map."""
    head = _Head()
    pooled = head.op("Flatten", "assay.pooled", head.op("GlobalAveragePool", "assay.avgpool", taps.features))
    embedding = head.unit("embedding", taps.embedding or pooled)
    direction = embedding
    if taps.head is not None:
        direction = head.op("MatMul", "assay.direction", embedding, head.constant("assay.head", taps.head))
    cells = head.op("Reshape", "assay.cells", taps.features, head.shape(0, taps.channels, -1))
    head.pulled(direction, cells, taps.side)
    dims, told = taps.middle_channels, "as they are"
    middle = taps.middle
    if dims > MOST_PATCH_DIMS:
        kernel = _projection(dims)[:, :, None, None]
        middle = head.op("Conv", "assay.patch_proj", middle, head.constant("assay.patch_proj.weight", kernel))
        dims, told = PROJECTED_DIMS, _PROJECTED.format(dims)
    flat = head.op("Reshape", "assay.patches.flat", middle, head.shape(0, dims, -1))
    head.unit("patches", head.op("Transpose", "assay.patches.rows", flat, perm=[0, 2, 1]))
    outputs = _outputs(taps.embedding_dim, taps.middle_side, dims, taps.side)
    return Wrapped(model=head.onto(model, size, outputs), told={**_told(taps), "patch projection": told})


def transformer_wrapped(model: ModelProto, taps: TransformerTaps, size: int) -> Wrapped:
    """Embedding and attention from the class token (or by the residual rule), patches from the middle tokens."""
    head = _Head()
    if taps.scores is None:
        mean = head.op(
            "Mul", "assay.mean", head.total(taps.final, 1, "assay.sum"), head.scalar("one_nth", 1 / taps.side**2)
        )
        embedding = head.unit("embedding", taps.embedding or mean)
        head.pulled(embedding, head.op("Transpose", "assay.cells", taps.final, perm=[0, 2, 1]), taps.side)
    else:
        first = head.rows("assay.class", taps.final, 0, 1)
        flat = head.op("Reshape", "assay.class.flat", first, head.shape(0, taps.width))
        head.unit("embedding", taps.embedding or flat)
        head.class_attention(taps.scores, taps.prefix, taps.side)
    tokens = head.rows("assay.patches.tokens", taps.middle, taps.prefix, taps.prefix + taps.side**2)
    dims, told = taps.width, "as they are"
    if dims > MOST_PATCH_DIMS:
        weight = head.constant("assay.patch_proj.weight", np.ascontiguousarray(_projection(dims).T))
        tokens = head.op("MatMul", "assay.patch_proj", tokens, weight)
        dims, told = PROJECTED_DIMS, _PROJECTED.format(dims)
    head.unit("patches", tokens)
    outputs = _outputs(taps.embedding_dim, taps.side, dims, taps.side)
    return Wrapped(model=head.onto(model, size, outputs), told={**_told(taps), "patch projection": told})


_PROJECTED: Final = "{} to " + f"{PROJECTED_DIMS}, orthonormal, seed {_SEED}"


def _told(taps: ResidualTaps | TransformerTaps) -> dict[str, str]:
    told = {"features" if isinstance(taps, ResidualTaps) else "final tokens": _end(taps), "middle": taps.middle}
    rule = "class token" if isinstance(taps, TransformerTaps) and taps.scores else "residual rule"
    return {**told, "embedding": taps.embedding or f"pooled ({rule})", "attention": rule}


def _end(taps: ResidualTaps | TransformerTaps) -> str:
    return taps.features if isinstance(taps, ResidualTaps) else taps.final


def _outputs(embedding: int, patch_side: int, patch_dim: int, side: int) -> dict[str, tuple[int, ...]]:
    return {"embedding": (embedding,), "patches": (patch_side**2, patch_dim), "attention": (side, side)}


def _projection(dims: int) -> NDArray[np.float32]:
    """[64,dims], orthonormal rows, the same everywhere: cosines survive it (Johnson and Lindenstrauss, 1984)."""
    rng = np.random.Generator(np.random.PCG64(_SEED))
    basis, _ = np.linalg.qr(rng.standard_normal((dims, PROJECTED_DIMS)))
    return np.ascontiguousarray(basis.T, np.float32)


class _Head(GraphWriter):
    """Nodes that are put behind a foreign graph. Their ops mean the same in every opset that is taken."""

    def __init__(self) -> None:
        super().__init__("head")

    def shape(self, *dims: int) -> str:
        name = "assay.shape_" + "_".join(str(d).replace("-", "m") for d in dims)
        return self.constant(name, np.array(dims, np.int64))

    def scalar(self, name: str, value: float) -> str:
        return super().scalar(f"assay.{name}", value)

    def total(self, source: str, axis: int, name: str, keep: int = 0) -> str:
        return self.op("ReduceSum", name, source, self.shape(axis), keepdims=keep)

    def unit(self, name: str, source: str) -> str:
        """`source` over its length along the last axis, without the ReduceL2 whose form changed with opset 18."""
        squared = self.op("Mul", f"assay.{name}.squared", source, source)
        length = self.op("Sqrt", f"assay.{name}.length", self.total(squared, -1, f"assay.{name}.power", keep=1))
        return self.op("Div", name, source, self.op("Add", f"assay.{name}.floored", length, self.scalar("tiny", 1e-6)))

    def rows(self, name: str, source: str, first: int, end: int) -> str:
        return self.op("Slice", name, source, self.shape(first), self.shape(end), self.shape(1))

    def pulled(self, direction: str, cells: str, side: int) -> None:
        """The residual rule: a_i = max(0, f_i . direction), to sum 1; `cells` [N,C,side*side]."""
        row = self.op("Unsqueeze", "assay.attention.row", direction, self.shape(1))
        raw = self.op("Relu", "assay.attention.raw", self.op("MatMul", "assay.attention.dot", row, cells))
        self.shares(self.op("Add", "assay.attention.lifted", raw, self.scalar("lift", 1e-4)), side)

    def shares(self, raw: str, side: int) -> None:
        """`raw` [N,1,cells] over its sum, as `attention` [N,side,side]."""
        shares = self.op("Div", "assay.attention.shares", raw, self.total(raw, 2, "assay.attention.total", keep=1))
        self.op("Reshape", "attention", shares, self.shape(0, side, side))

    def class_attention(self, scores: Scores, prefix: int, side: int) -> None:
        """The class token's row alone, so that a backend may still fuse the block's own attention."""
        ends = self.shape(1), self.shape(2)
        query = self.op("Slice", "assay.attention.query", scores.query, self.shape(0), *ends)
        found = self.op("MatMul", "assay.attention.scores", query, scores.key)
        for number, (kind, factor) in enumerate(scores.factors):
            found = self.op(kind, f"assay.attention.scaled{number}", found, factor)
        weights = self.op("Softmax", "assay.attention.weights", found, axis=-1)
        mean = self.total(weights, 1, "assay.attention.heads")
        cells = (self.shape(prefix), self.shape(prefix + side**2), self.shape(2))
        self.shares(self.op("Slice", "assay.attention.cells", mean, *cells), side)

    def onto(self, model: ModelProto, size: int, outputs: dict[str, tuple[int, ...]]) -> ModelProto:
        """`model` with these nodes behind it and these outputs, without what they do not need."""
        joined = ModelProto()
        joined.CopyFrom(model)
        joined.graph.node.extend(self._nodes)
        joined.graph.initializer.extend(self._initializers.values())
        return declared(pruned(joined, outputs), size, outputs)


def declared(model: ModelProto, size: int, outputs: dict[str, tuple[int, ...]]) -> ModelProto:
    """The checked graph with input `images` [N,3,S,S] and these outputs [N,...]."""
    value = helper.make_tensor_value_info
    del model.graph.input[:], model.graph.output[:], model.metadata_props[:]
    model.graph.input.append(value("images", TensorProto.FLOAT, ["N", 3, size, size]))
    model.graph.output.extend(value(n, TensorProto.FLOAT, ["N", *dims]) for n, dims in outputs.items())
    model.ir_version = max(IR_VERSION, min(model.ir_version, 10)) if opset_of(model) > 17 else IR_VERSION
    checker.check_model(model, full_check=True)
    return model


def renamed_input(model: ModelProto, name: str) -> Any:
    """Let the graph read `images` where it read `name`."""
    for node in model.graph.node:
        node.input[:] = ["images" if i == name else i for i in node.input]
    return model
