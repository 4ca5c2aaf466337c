"""ViT-Tiny/16 looking at an overview (the view at half size) and at the four quarters of the full view, as five
sequences. Weight names are timm's for the trunk; `pos_embed` [T+1,dim] includes the class token in its first row,
`crop_embed` [5,dim] tells the crops apart; `patch_proj` takes local features from the quarters' middle block; `embed`
projects the five class tokens, concatenated. The last block computes its class query alone: the outputs need no more.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from engines.architectures.family import Weights
from engines.architectures.graph import GraphWriter

CROPS = 5  # the overview first, then the quarters row by row


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VitTiny16:
    """ViT-Tiny with patches of 16 px; crops have half the side of the view."""

    image_size: int = 448
    embedding_dim: int = 192
    patch_dim: int = 64
    width: int = 192
    heads: int = 3
    depth: int = 12

    @property
    def family(self) -> str:
        return "vit_tiny16"

    @property
    def side(self) -> int:
        """Patches along one side of a crop."""
        return self.image_size // 32

    @property
    def patch_grid(self) -> tuple[int, int]:
        return (2 * self.side, 2 * self.side)

    @property
    def attention_grid(self) -> tuple[int, int]:
        return self.patch_grid

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        width = self.width
        shapes: dict[str, tuple[int, ...]] = {
            "patch_embed.weight": (width, 3, 16, 16),
            "patch_embed.bias": (width,),
            "pos_embed": (self.side * self.side + 1, width),
            "crop_embed": (CROPS, width),
            "patch_norm.weight": (width,),
            "patch_norm.bias": (width,),
            "patch_proj.weight": (self.patch_dim, width),
            "patch_proj.bias": (self.patch_dim,),
            "norm.weight": (width,),
            "norm.bias": (width,),
            "embed.weight": (self.embedding_dim, CROPS * width),
        }
        for block in range(self.depth):
            shapes |= _block_shapes(f"blocks.{block}", width)
        return shapes

    def build(self, weights: Weights) -> Any:
        """The float graph: `embedding` [N,D], `patches` [N,P,d], `attention` [N,h,w]."""
        graph = _Writer(weights, self)
        tokens = graph.tokens()
        for block in range(self.depth - 1):
            tokens = graph.block(f"blocks.{block}", tokens)
            if block == self.depth // 2 - 1:
                graph.patches(tokens)
        graph.last_block(f"blocks.{self.depth - 1}", tokens)
        cells = self.patch_grid[0] ** 2
        return graph.model(
            (3, self.image_size, self.image_size),
            {
                "embedding": (self.embedding_dim,),
                "patches": (cells, self.patch_dim),
                "attention": self.attention_grid,
            },
        )


class _Writer(GraphWriter):
    def __init__(self, weights: Weights, spec: VitTiny16) -> None:
        super().__init__("vit_tiny16")
        self._weights = weights
        self._spec = spec

    def tokens(self) -> str:
        """Images to sequences [N*5,T+1,width], class token first, positions added."""
        side, width = self._spec.side, self._spec.width
        kernel = self.constant("patch_embed.weight", self._weights["patch_embed.weight"])
        bias = self.constant("patch_embed.bias", self._weights["patch_embed.bias"])
        patch = {"kernel_shape": [16, 16], "strides": [16, 16]}
        half = self.op("AveragePool", "overview", "images", kernel_shape=[2, 2], strides=[2, 2])
        overview = self.op("Conv", "patch_embed.overview", half, kernel, bias, **patch)
        overview = self.op("Reshape", "overview.flat", overview, self.shape(0, width, 1, side * side))
        overview = self.op("Transpose", "overview.tokens", overview, perm=[0, 2, 3, 1])
        # the quarters' patches are the full view's: one convolution serves all four
        quarters = self.op("Conv", "patch_embed.quarters", "images", kernel, bias, **patch)
        quarters = self.op("Reshape", "quarters.grid", quarters, self.shape(0, width, 2, side, 2, side))
        quarters = self.op("Transpose", "quarters.turned", quarters, perm=[0, 2, 4, 3, 5, 1])
        quarters = self.op("Reshape", "quarters.tokens", quarters, self.shape(0, 4, side * side, width))
        crops = self.op("Concat", "crops", overview, quarters, axis=1)
        # an empty first row makes room for the class token, which the position table brings
        roomy = self.op("Pad", "crops.roomy", crops, self.shape(0, 0, 1, 0, 0, 0, 0, 0))
        table = self.constant("pos_embed", self._weights["pos_embed"][None, None])
        crop = self.constant("crop_embed", self._weights["crop_embed"][None, :, None])
        placed = self.op("Add", "crops.named", self.op("Add", "crops.placed", roomy, table), crop)
        return self.op("Reshape", "tokens", placed, self.shape(-1, side * side + 1, width))

    def block(self, name: str, tokens: str) -> str:
        normed = self.norm(f"{name}.norm1", tokens)
        query, key, value = self.split(f"{name}.qkv.split", self.linear(f"{name}.attn.qkv", normed), 3, axis=-1)
        _, mixed = self.attention(name, query, key, value)
        attended = self.op("Add", f"{name}.attended", tokens, self.linear(f"{name}.attn.proj", mixed))
        return self.op("Add", name, attended, self.mlp(name, attended))

    def last_block(self, name: str, tokens: str) -> None:
        """The final block for the class query alone: its attention row is the map, its output the embedding."""
        normed = self.norm(f"{name}.norm1", tokens)
        query, key, value = self.split(f"{name}.qkv.split", self.linear(f"{name}.attn.qkv", normed), 3, axis=-1)
        weights, mixed = self.attention(name, self.first_row(f"{name}.query", query), key, value)
        own = self.first_row(f"{name}.own", tokens)
        attended = self.op("Add", f"{name}.attended", own, self.linear(f"{name}.attn.proj", mixed))
        final = self.norm("norm", self.op("Add", name, attended, self.mlp(name, attended)))
        joined = self.op("Reshape", "class_tokens", final, self.shape(-1, CROPS * self._spec.width))
        head = self.constant("embed.weight", self._weights["embed.weight"])
        self.l2_normalised("embedding", self.op("Gemm", "embed", joined, head, transB=1), axis=-1)
        self.attention_map(weights)

    def attention(self, name: str, query: str, key: str, value: str) -> tuple[str, str]:
        """Scaled dot-product attention; gives the weights [B,heads,Q,T+1] and the mixed values [B,Q,width]."""
        heads, inner = self._spec.heads, self._spec.width // self._spec.heads
        split = self.shape(0, -1, heads, inner)
        turned = {
            part: self.op(
                "Transpose",
                f"{name}.{part}.heads",
                self.op("Reshape", f"{name}.{part}.split", source, split),
                perm=[0, 2, 3, 1] if part == "key" else [0, 2, 1, 3],
            )
            for part, source in (("query", query), ("key", key), ("value", value))
        }
        scores = self.op("MatMul", f"{name}.scores", turned["query"], turned["key"])
        scale = self.scalar("attention.scale", 1.0 / math.sqrt(inner))
        weights = self.op("Softmax", f"{name}.weights", self.op("Mul", f"{name}.scaled", scores, scale), axis=-1)
        mixed = self.op("MatMul", f"{name}.mixed", weights, turned["value"])
        rows = self.op("Transpose", f"{name}.mixed.rows", mixed, perm=[0, 2, 1, 3])
        return weights, self.op("Reshape", f"{name}.mixed.flat", rows, self.shape(0, -1, self._spec.width))

    def mlp(self, name: str, source: str) -> str:
        hidden = self.linear(f"{name}.mlp.fc1", self.norm(f"{name}.norm2", source))
        return self.linear(f"{name}.mlp.fc2", self.gelu(f"{name}.gelu", hidden))

    def gelu(self, name: str, source: str) -> str:
        root = self.scalar("sqrt2", math.sqrt(2.0))
        erf = self.op("Erf", f"{name}.erf", self.op("Div", f"{name}.div", source, root))
        lifted = self.op("Add", f"{name}.add", erf, self.scalar("one", 1.0))
        product = self.op("Mul", f"{name}.mul", source, lifted)
        return self.op("Mul", name, product, self.scalar("half", 0.5))

    def linear(self, name: str, source: str) -> str:
        weight = self.constant(f"{name}.weight", self._weights[f"{name}.weight"].T)
        product = self.op("MatMul", f"{name}.matmul", source, weight)
        return self.op("Add", name, product, self.constant(f"{name}.bias", self._weights[f"{name}.bias"]))

    def norm(self, name: str, source: str) -> str:
        gain = self.constant(f"{name}.weight", self._weights[f"{name}.weight"])
        bias = self.constant(f"{name}.bias", self._weights[f"{name}.bias"])
        return self.op("LayerNormalization", f"{name}.out", source, gain, bias, axis=-1, epsilon=1e-6)

    def first_row(self, name: str, source: str) -> str:
        return self.op("Slice", name, source, self.shape(0), self.shape(1), self.shape(1))

    def patches(self, tokens: str) -> None:
        """Local features of the quarters, laid out row by row over the full view."""
        side, width = self._spec.side, self._spec.width
        crops = self.op("Reshape", "patches.crops", tokens, self.shape(-1, CROPS, side * side + 1, width))
        ends = self.shape(CROPS, side * side + 1)
        cut = self.op("Slice", "patches.cut", crops, self.shape(1, 1), ends, self.shape(1, 2))
        projected = self.linear("patch_proj", self.norm("patch_norm", cut))
        self.l2_normalised("patches", self.laid_out("patches.view", projected, self._spec.patch_dim), axis=-1)

    def laid_out(self, name: str, quarters: str, channels: int) -> str:
        """[N,4,T,channels] of the quarters to [N,4*T,channels] in the full view's row order."""
        side = self._spec.side
        grid = self.op("Reshape", f"{name}.grid", quarters, self.shape(0, 2, 2, side, side, channels))
        turned = self.op("Transpose", f"{name}.turned", grid, perm=[0, 1, 3, 2, 4, 5])
        return self.op("Reshape", name, turned, self.shape(0, 4 * side * side, channels))

    def attention_map(self, weights: str) -> None:
        """Mean over heads; the overview's map (each cell over four) and the quarters' maps, added, to sum 1."""
        side = self._spec.side
        mean = self.op("ReduceMean", "attention.mean", weights, axes=[1], keepdims=0)
        crops = self.op("Reshape", "attention.crops", mean, self.shape(-1, CROPS, side * side + 1, 1))
        bounds = self.shape(1, 2)
        ends = self.shape(1, side * side + 1)
        overview = self.op("Slice", "attention.overview", crops, self.shape(0, 1), ends, bounds)
        spread = self.op("Reshape", "attention.coarse", overview, self.shape(0, side, 1, side, 1))
        ones = self.constant("attention.ones", np.full((1, 1, 2, 1, 2), 0.25, np.float32))
        fine = self.op("Mul", "attention.fine", spread, ones)
        fine = self.op("Reshape", "attention.overview.view", fine, self.shape(0, *self._spec.attention_grid))
        ends = self.shape(CROPS, side * side + 1)
        quarters = self.op("Slice", "attention.quarters", crops, self.shape(1, 1), ends, bounds)
        laid = self.laid_out("attention.view", quarters, 1)
        laid = self.op("Reshape", "attention.quarters.view", laid, self.shape(0, *self._spec.attention_grid))
        quarter = self.scalar("quarter", 0.25)
        both = self.op("Add", "attention.both", fine, self.op("Mul", "attention.quarter", laid, quarter))
        total = self.op("ReduceSum", "attention.total", both, self.shape(1, 2), keepdims=1)
        self.op("Div", "attention", both, total)


def _block_shapes(name: str, width: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for norm in ("norm1", "norm2"):
        shapes |= {f"{name}.{norm}.weight": (width,), f"{name}.{norm}.bias": (width,)}
    linears = {"attn.qkv": (3, 1), "attn.proj": (1, 1), "mlp.fc1": (4, 1), "mlp.fc2": (1, 4)}
    for linear, (out, source) in linears.items():
        shapes |= {f"{name}.{linear}.weight": (out * width, source * width), f"{name}.{linear}.bias": (out * width,)}
    return shapes
