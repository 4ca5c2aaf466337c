"""Where a foreign graph is tapped: found where that is safe, named by the user where it is not."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import ModelProto, numpy_helper

from engines.drafts import MakingRefused
from engines.importing_graph import Dims, shapes
from engines.importing_heads import ResidualTaps, Scores, TransformerTaps


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NamedTaps:
    """Tensors that the user named; None: to be found. `residual_rule` lets a transformer without a class token pass."""

    features: str | None = None
    tokens: str | None = None
    embedding: str | None = None
    residual_rule: bool = False


class ForeignGraph:
    """What finding asks of a graph."""

    def __init__(self, model: ModelProto, size: int) -> None:
        self.nodes: list[Any] = list(model.graph.node)
        self.makers: dict[str, Any] = {o: n for n in self.nodes for o in n.output if o}
        self.stored = {i.name: i for i in model.graph.initializer}
        self.shapes: Mapping[str, Dims] = shapes(model)
        self.size = size

    def of(self, kind: str) -> list[Any]:
        return [node for node in self.nodes if node.op_type == kind]

    def static(self, tensor: str, rank: int) -> tuple[int, ...]:
        """The dimensions behind the batch of a tensor that the user or a rule named. Raises MakingRefused."""
        if tensor not in self.makers:
            fix = "name a tensor as the graph does (Netron shows them)"
            raise MakingRefused(f"the graph makes no tensor {tensor!r}", fix)
        dims = self.shapes.get(tensor)
        if dims is None:
            raise MakingRefused(f"{tensor!r} has a dynamic rank", "export with fixed shapes, the batch alone dynamic")
        rest = tuple(d for d in dims[1:] if d is not None)
        if len(dims) != rank or len(rest) != rank - 1:
            fix = f"name a tensor of {rank} dimensions, all but the first fixed"
            raise MakingRefused(f"{tensor!r} has the dimensions {told(dims)}", fix)
        return rest


def told(dims: Dims) -> str:
    return "[" + ", ".join("?" if d is None else str(d) for d in dims) + "]"


def is_transformer(graph: ForeignGraph) -> bool:
    return bool(graph.of("Softmax")) and bool(graph.of("LayerNormalization"))


def residual_taps(graph: ForeignGraph, named: NamedTaps) -> ResidualTaps:
    """Taps of a residual network. Raises MakingRefused where they are not safe to find."""
    features = named.features or _last_map(graph)
    channels, height, width = graph.static(features, 4)
    if height != width:
        raise MakingRefused(f"{features!r} is {height} x {width}, not square", "export it for square images")
    middle = named.tokens or _middle_map(graph, features, height)
    middle_channels, middle_side, other = graph.static(middle, 4)
    if middle_side != other:
        raise MakingRefused(f"{middle!r} is {middle_side} x {other}, not square", "name a square map with --tokens")
    head = _linear_head(graph, named.embedding, channels) if named.embedding else None
    return ResidualTaps(
        features=features,
        channels=channels,
        side=height,
        middle=middle,
        middle_channels=middle_channels,
        middle_side=middle_side,
        embedding=named.embedding,
        embedding_dim=channels if head is None else len(head),
        head=head,
    )


def _last_map(graph: ForeignGraph) -> str:
    pools = [n.input[0] for n in graph.nodes if n.op_type == "GlobalAveragePool" or _pools_places(n, graph)]
    # squeeze-and-excitation blocks pool too: then only the user knows
    if len(pools) != 1:
        fix = "name the last feature map [N,C,h,w] with --features"
        raise MakingRefused(f"the graph has {len(pools)} global pools, so its last map is not sure", fix)
    return str(pools[0])


def _pools_places(node: Any, graph: ForeignGraph) -> bool:
    if node.op_type != "ReduceMean" or len(graph.shapes.get(node.input[0], ())) != 4:
        return False
    axes = next((list(a.ints) for a in node.attribute if a.name == "axes"), None)
    if axes is None and len(node.input) > 1 and node.input[1] in graph.stored:
        axes = numpy_helper.to_array(graph.stored[node.input[1]]).tolist()
    return sorted(a % 4 for a in axes or ()) == [2, 3]


def _middle_map(graph: ForeignGraph, features: str, side: int) -> str:
    """The last activation of twice the last map's side: the end of the stage before."""
    finer = [n.output[0] for n in graph.of("Relu") if graph.shapes.get(n.output[0], ())[2:] == (2 * side, 2 * side)]
    # what follows the tapped stage (a strided block's first activation) may still have that side
    ends = [t for t in finer if graph.makers[graph.makers[t].input[0]].op_type == "Add"]
    if not ends:
        fix = "name a map of a middle stage with --tokens"
        raise MakingRefused(f"no block of twice the side of {features!r} ({side}) ends in Add and Relu", fix)
    return str(ends[-1])


def _linear_head(graph: ForeignGraph, embedding: str, channels: int) -> Any:
    """The weights [D,C] of the linear layer that makes `embedding` from the pooled features."""
    (dims,) = graph.static(embedding, 2)
    node = graph.makers[embedding]
    if node.op_type == "Add":
        node = next((graph.makers[i] for i in node.input if i in graph.makers), node)
    if node.op_type in ("Gemm", "MatMul") and node.input[1] in graph.stored:
        weight = np.asarray(numpy_helper.to_array(graph.stored[node.input[1]]), np.float32)
        turned = node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute)
        found = weight if turned else weight.T
        if found.shape == (dims, channels):
            return np.ascontiguousarray(found)
    fix = "name the output of one linear layer over the pooled features, or leave --embedding out to take those"
    raise MakingRefused(f"{embedding!r} is made by {node.op_type}, from which no attention follows", fix)


def transformer_taps(graph: ForeignGraph, named: NamedTaps) -> TransformerTaps:
    """Taps of a vision transformer. Raises MakingRefused where they are not safe to find."""
    norms = [n for n in graph.of("LayerNormalization") if len(graph.shapes.get(n.input[0], ())) == 3]
    final = named.features or _final_tokens(graph, norms)
    count, width = graph.static(final, 3)
    prefix, side = _split(graph, count)
    if prefix == 0 and not named.residual_rule:
        fix = "give --residual-rule to take the mean of its tokens, with attention as of a residual network"
        raise MakingRefused(f"{final!r} has {count} tokens and no class token among them", fix)
    middle = named.tokens or _middle_tokens(graph, norms)
    if graph.static(middle, 3) != (count, width):
        raise MakingRefused(f"{middle!r} is not shaped as {final!r}", "name tokens of a middle block with --tokens")
    embedding_dim = graph.static(named.embedding, 2)[0] if named.embedding else width
    if named.embedding and prefix == 0 and embedding_dim != width:
        fix = "leave --embedding out: the residual rule needs the mean of the tokens"
        raise MakingRefused(f"{named.embedding!r} has {embedding_dim} values, the tokens {width}", fix)
    return TransformerTaps(
        final=final,
        middle=middle,
        width=width,
        prefix=prefix,
        side=side,
        embedding=named.embedding,
        embedding_dim=embedding_dim,
        scores=_scores(graph) if prefix else None,
    )


def _final_tokens(graph: ForeignGraph, norms: list[Any]) -> str:
    after = max(graph.nodes.index(n) for n in graph.of("Softmax"))
    last = norms[-1] if norms else None
    if last is None or graph.nodes.index(last) < after:
        fix = "name the sequence [N,T,D] behind the last norm with --features"
        raise MakingRefused("no LayerNormalization of a whole sequence follows the last attention", fix)
    return str(last.output[0])


def _middle_tokens(graph: ForeignGraph, norms: list[Any]) -> str:
    blocks = len(graph.of("Softmax"))
    if len(norms) != 2 * blocks + 1:
        fix = "name the tokens behind a middle block with --tokens"
        raise MakingRefused(f"{blocks} attentions and {len(norms)} norms: blocks are not those of a plain ViT", fix)
    return str(norms[2 * (blocks // 2)].input[0])


def _split(graph: ForeignGraph, count: int) -> tuple[int, int]:
    """How many tokens are no patches, and the patches along a side."""
    strides = {tuple(a.ints) for n in graph.of("Conv") for a in n.attribute if a.name == "strides"}
    stride = max((s[0] for s in strides if len(s) == 2 and s[0] == s[1]), default=0)
    side = graph.size // stride if stride else math.isqrt(count)
    prefix = count - side * side
    if not 0 <= prefix <= 16 or (stride and graph.size % stride):
        fix = "export it with one square grid of patches over the whole image"
        raise MakingRefused(f"{count} tokens are no grid of {side} x {side} with a few before it", fix)
    return prefix, side


def _scores(graph: ForeignGraph) -> Scores:
    """Query, key and factors of the last attention, from its softmax backwards."""
    softmax = graph.of("Softmax")[-1]
    factors: list[tuple[str, str]] = []
    node = graph.makers[softmax.input[0]]
    while node.op_type in ("Mul", "Div") and (scaled := _scaled(node, graph)):
        source, factor = scaled
        factors.append((node.op_type, factor))
        node = graph.makers[source]
    if node.op_type != "MatMul" or len(graph.shapes.get(node.input[0], ())) != 4:
        fix = "export attention unfused (timm.layers.set_fused_attn(False)), without a mask"
        raise MakingRefused(f"the last attention's scores come from {node.op_type}, not from query and key", fix)
    return Scores(query=node.input[0], key=node.input[1], factors=tuple(reversed(factors)))


def _scaled(node: Any, graph: ForeignGraph) -> tuple[str, str] | None:
    """What is scaled, and the stored factor; a division has its factor on the right."""
    left, right = node.input
    if right in graph.stored:
        return left, right
    return (right, left) if left in graph.stored and node.op_type == "Mul" else None
