"""ResNet-18 with the three outputs of an encoder. Weight names are torchvision's (`layer2.0.conv1.weight`, ...), with
two heads: `embed.weight` [D,512], linear without bias after global pooling, and `patch_proj` [d,256,1,1] on stride 16.
Batch normalisation is folded into the convolutions here."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.architectures.family import Weights
from engines.architectures.graph import GraphWriter

_WIDTHS = (64, 128, 256, 512)
_BN_EPSILON = 1e-5


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Resnet18:
    """ResNet-18 at a square input; patches from stride 16, attention from stride 32."""

    image_size: int = 448
    embedding_dim: int = 256
    patch_dim: int = 64

    @property
    def family(self) -> str:
        return "resnet18"

    @property
    def patch_grid(self) -> tuple[int, int]:
        return (self.image_size // 16, self.image_size // 16)

    @property
    def attention_grid(self) -> tuple[int, int]:
        return (self.image_size // 32, self.image_size // 32)

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        shapes = {"conv1.weight": (64, 3, 7, 7), **_bn_shapes("bn1", 64)}
        for stage, width in enumerate(_WIDTHS, 1):
            for block in range(2):
                source = width if block or stage == 1 else width // 2
                shapes |= _block_shapes(f"layer{stage}.{block}", source, width)
        shapes["patch_proj.weight"] = (self.patch_dim, 256, 1, 1)
        shapes["patch_proj.bias"] = (self.patch_dim,)
        shapes["embed.weight"] = (self.embedding_dim, 512)
        return shapes

    def build(self, weights: Weights) -> Any:
        """The float graph: `embedding` [N,D], `patches` [N,P,d], `attention` [N,h,w]."""
        graph = _Writer(weights)
        stem = graph.op("Relu", "relu", graph.conv("conv1", "bn1", "images", stride=2))
        features = graph.op("MaxPool", "maxpool", stem, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
        for stage in range(1, 5):
            for block in range(2):
                features = graph.block(f"layer{stage}.{block}", features, stride=2 if stage > 1 and not block else 1)
            if stage == 3:
                graph.patches(features, self)
        graph.heads(features, self)
        side, (height, width) = self.patch_grid[0], self.attention_grid
        return graph.model(
            (3, self.image_size, self.image_size),
            {
                "embedding": (self.embedding_dim,),
                "patches": (side * side, self.patch_dim),
                "attention": (height, width),
            },
        )


class _Writer(GraphWriter):
    def __init__(self, weights: Weights) -> None:
        super().__init__("resnet18")
        self._weights = weights

    def conv(self, name: str, norm: str, source: str, stride: int) -> str:
        kernel, bias = _folded(self._weights, name, norm)
        size = kernel.shape[-1]
        return self.op(
            "Conv",
            name,
            source,
            self.constant(f"{name}.weight", kernel),
            self.constant(f"{name}.bias", bias),
            kernel_shape=[size, size],
            strides=[stride, stride],
            pads=[size // 2] * 4,
        )

    def block(self, name: str, source: str, stride: int) -> str:
        first = self.op("Relu", f"{name}.relu1", self.conv(f"{name}.conv1", f"{name}.bn1", source, stride))
        second = self.conv(f"{name}.conv2", f"{name}.bn2", first, 1)
        shortcut = source
        if f"{name}.downsample.0.weight" in self._weights:
            shortcut = self.conv(f"{name}.downsample.0", f"{name}.downsample.1", source, stride)
        return self.op("Relu", f"{name}.relu2", self.op("Add", f"{name}.add", second, shortcut))

    def patches(self, features: str, spec: Resnet18) -> None:
        kernel = self.constant("patch_proj.weight", self._weights["patch_proj.weight"])
        bias = self.constant("patch_proj.bias", self._weights["patch_proj.bias"])
        projected = self.op("Conv", "patch_proj", features, kernel, bias, kernel_shape=[1, 1])
        flat = self.op("Reshape", "patch_proj.flat", projected, self.shape(0, spec.patch_dim, -1))
        self.l2_normalised("patches", self.op("Transpose", "patch_proj.rows", flat, perm=[0, 2, 1]), axis=-1)

    def heads(self, features: str, spec: Resnet18) -> None:
        """The embedding, and where it came from: a_i = max(0, f_i . W^T e), normalised to sum 1."""
        weight = self.constant("embed.weight", self._weights["embed.weight"])
        pooled = self.op("Flatten", "pooled", self.op("GlobalAveragePool", "avgpool", features))
        embedding = self.l2_normalised("embedding", self.op("Gemm", "embed", pooled, weight, transB=1), axis=-1)
        pulled = self.op("MatMul", "attention.direction", embedding, weight)
        row = self.op("Unsqueeze", "attention.row", pulled, self.shape(1))
        cells = self.op("Reshape", "attention.cells", features, self.shape(0, 512, -1))
        raw = self.op("Relu", "attention.raw", self.op("MatMul", "attention.dot", row, cells))
        lifted = self.op("Add", "attention.lifted", raw, self.scalar("lift", 1e-4))
        total = self.op("ReduceSum", "attention.total", lifted, self.shape(2), keepdims=1)
        shares = self.op("Div", "attention.shares", lifted, total)
        self.op("Reshape", "attention", shares, self.shape(0, *spec.attention_grid))


def _folded(weights: Weights, name: str, norm: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Kernel and bias of a convolution with its batch normalisation folded in (computed in float64)."""
    variance = weights[f"{norm}.running_var"].astype(np.float64)
    gain = weights[f"{norm}.weight"] / np.sqrt(variance + _BN_EPSILON)
    bias = weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * gain
    return (weights[f"{name}.weight"] * gain[:, None, None, None]).astype(np.float32), bias.astype(np.float32)


def _bn_shapes(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")}


def _block_shapes(name: str, source: int, width: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        f"{name}.conv1.weight": (width, source, 3, 3),
        f"{name}.conv2.weight": (width, width, 3, 3),
        **_bn_shapes(f"{name}.bn1", width),
        **_bn_shapes(f"{name}.bn2", width),
    }
    if source != width:
        shapes[f"{name}.downsample.0.weight"] = (width, source, 1, 1)
        shapes |= _bn_shapes(f"{name}.downsample.1", width)
    return shapes
