"""The encoders as torch modules. Their parameter names are those that engines.architectures builds graphs from;
attention needs no training and exists in the graph alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from engines.architectures import Architecture
from engines.architectures.resnet import Resnet18
from engines.architectures.vit import CROPS, VitTiny16


class Block(nn.Module):  # type: ignore[misc]
    """ResNet's basic block."""

    def __init__(self, source: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(source, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = None
        if source != width:
            self.downsample = nn.Sequential(nn.Conv2d(source, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Any) -> Any:
        inner = F.relu(self.bn1(self.conv1(x)), inplace=True)
        inner = self.bn2(self.conv2(inner))
        return F.relu(inner + (x if self.downsample is None else self.downsample(x)), inplace=True)


class Resnet(nn.Module):  # type: ignore[misc]
    """ResNet-18: embedding [B,D] and patches [B,P,d], float32, normalised."""

    def __init__(self, spec: Resnet18) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        widths = (64, 64, 128, 256, 512)
        for stage in range(1, 5):
            source, width = widths[stage - 1], widths[stage]
            blocks = (Block(source, width, 1 if stage == 1 else 2), Block(width, width, 1))
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.patch_proj = nn.Conv2d(256, spec.patch_dim, 1)
        self.embed = nn.Linear(512, spec.embedding_dim, bias=False)

    def forward(self, images: Any) -> tuple[Any, Any]:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(images)), inplace=True), 3, 2, 1)
        middle = self.layer3(self.layer2(self.layer1(x)))
        patches = self.patch_proj(middle).flatten(2).transpose(1, 2)
        pooled = self.layer4(middle).mean(dim=(2, 3))
        return _unit(self.embed(pooled)), _unit(patches)


class Attention(nn.Module):  # type: ignore[misc]
    """Multi-head self-attention; with `first_only` for the class query alone."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Any, first_only: bool) -> Any:
        count, tokens, width = x.shape
        qkv = self.qkv(x).reshape(count, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if first_only:
            query = query[:, :, :1]
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).reshape(count, -1, width))


class Mlp(nn.Module):  # type: ignore[misc]
    """The feed-forward half of a block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Any) -> Any:
        return self.fc2(F.gelu(self.fc1(x)))


class Layer(nn.Module):  # type: ignore[misc]
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width)

    def forward(self, x: Any, first_only: bool = False) -> Any:
        own = x[:, :1] if first_only else x
        own = own + self.attn(self.norm1(x), first_only)
        return own + self.mlp(self.norm2(own))


class Vit(nn.Module):  # type: ignore[misc]
    """ViT-Tiny/16 over five crops: embedding [B,D] and patches [B,P,d], float32, normalised."""

    def __init__(self, spec: VitTiny16) -> None:
        super().__init__()
        self.side = spec.side
        self.middle = spec.depth // 2 - 1
        self.patch_embed = nn.Conv2d(3, spec.width, 16, 16)
        self.pos_embed = nn.Parameter(torch.randn(spec.side * spec.side + 1, spec.width) * 0.02)
        self.crop_embed = nn.Parameter(torch.randn(CROPS, spec.width) * 0.02)
        self.blocks = nn.ModuleList([Layer(spec.width, spec.heads) for _ in range(spec.depth)])
        self.patch_norm = nn.LayerNorm(spec.width, eps=1e-6)
        self.patch_proj = nn.Linear(spec.width, spec.patch_dim)
        self.norm = nn.LayerNorm(spec.width, eps=1e-6)
        self.embed = nn.Linear(CROPS * spec.width, spec.embedding_dim, bias=False)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, images: Any) -> tuple[Any, Any]:
        count = images.shape[0]
        x = self.tokens(images)
        patches = None
        for number, block in enumerate(self.blocks[:-1]):
            x = block(x)
            if number == self.middle:
                patches = self.patches(x, count)
        final = self.norm(self.blocks[-1](x, first_only=True))
        return _unit(self.embed(final.reshape(count, -1))), patches

    def tokens(self, images: Any) -> Any:
        """[B,3,S,S] to [B*5,T+1,width]: the overview, then the quarters row by row."""
        count, side = images.shape[0], self.side
        overview = self.patch_embed(F.avg_pool2d(images, 2)).flatten(2).transpose(1, 2).unsqueeze(1)
        whole = self.patch_embed(images)
        quarters = whole.reshape(count, -1, 2, side, 2, side).permute(0, 2, 4, 3, 5, 1)
        quarters = quarters.reshape(count, 4, side * side, -1)
        crops = F.pad(torch.cat([overview, quarters], dim=1), (0, 0, 1, 0))
        placed = crops + self.pos_embed[None, None] + self.crop_embed[None, :, None]
        return placed.reshape(count * CROPS, side * side + 1, -1)

    def patches(self, x: Any, count: int) -> Any:
        """The quarters' local features in the full view's row order."""
        side = self.side
        quarters = x.reshape(count, CROPS, side * side + 1, -1)[:, 1:, 1:]
        projected = self.patch_proj(self.patch_norm(quarters))
        grid = projected.reshape(count, 2, 2, side, side, -1).permute(0, 1, 3, 2, 4, 5)
        return _unit(grid.reshape(count, 4 * side * side, -1))


def module_of(architecture: Architecture) -> Any:
    """The trainable module of an architecture; raises TypeError for one that has none."""
    if isinstance(architecture, Resnet18):
        return Resnet(architecture)
    if isinstance(architecture, VitTiny16):
        return Vit(architecture)
    raise TypeError(f"no module trains {architecture.family}")


def weights_of(module: Any) -> dict[str, NDArray[np.float32]]:
    """The module's state as engines.architectures takes it."""
    state = module.state_dict()
    return {n: t.detach().float().cpu().numpy() for n, t in state.items() if not n.endswith("num_batches_tracked")}


def load_weights(module: Any, weights: Mapping[str, NDArray[Any]]) -> None:
    """Put exported weights back; every name must fit."""
    state = {n: torch.from_numpy(np.asarray(w, np.float32)) for n, w in weights.items()}
    missing, unexpected = module.load_state_dict(state, strict=False)
    wrong = [n for n in missing if not n.endswith("num_batches_tracked")] + list(unexpected)
    if wrong:
        raise ValueError(f"weights do not fit the module: {wrong[:5]}")


def _unit(x: Any) -> Any:
    return F.normalize(x.float(), dim=-1)
