"""Nuisances on the device: where the camera stood, light, blur and noise. Never the design: colour and scale move no
further than photographs of one specimen do, since a forgery may be a colour or a scale."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch.nn import functional as F

from engines.preprocess import Preprocessing

_RULE = Preprocessing()
_CELL = 4  # mask cells a patch, along one side


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """How far each nuisance goes: degrees, shares of the side, factors around 1, 8-bit levels."""

    rotation_deg: float = 3.0
    shift: float = 0.03
    scale: float = 0.04
    brightness: float = 0.10
    contrast: float = 0.08
    tint: float = 0.015
    noise_levels: float = 4.0


def normalised(pixels: Any) -> Any:
    """uint8 [B,S,S,3] on the device to float32 [B,3,S,S], channels last in memory."""
    mean = torch.tensor(_RULE.mean, device=pixels.device)
    std = torch.tensor(_RULE.std, device=pixels.device)
    return ((pixels.float() - mean) / std).permute(0, 3, 1, 2)


def jittered(pixels: Any, masks: Any, place: Any, places: int, reach: Reach) -> tuple[Any, Any]:
    """Jittered normalised images [B,3,S,S], channels last in memory, and the share of every patch that is changed
    [B,S/16,S/16].

    `pixels` uint8 [B,S,S,3], `masks` uint8 [B,S/4,S/4]; images with the same number in `place` [B], below `places`,
    share the camera's stand, so that twins stay aligned.
    """
    theta = _stands(places, reach, pixels.device)[place]
    images = pixels.float().permute(0, 3, 1, 2)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    shares = masks.float().div(255).unsqueeze(1)
    grid = F.affine_grid(theta, list(shares.shape), align_corners=False)
    shares = F.grid_sample(shares, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    lit = _lit(moved, reach)
    mean = torch.tensor(_RULE.mean, device=lit.device).view(1, 3, 1, 1)
    std = torch.tensor(_RULE.std, device=lit.device).view(1, 3, 1, 1)
    images = ((lit - mean) / std).contiguous(memory_format=torch.channels_last)
    return images, F.avg_pool2d(shares, _CELL).squeeze(1)


def _stands(count: int, reach: Reach, device: Any) -> Any:
    """Random affine maps [count,2,3] from output to input, in units of half a side."""
    turn = _around(count, device) * math.radians(reach.rotation_deg)
    scale = 1 + _around(count, device) * reach.scale
    cos, sin = scale * turn.cos(), scale * turn.sin()
    x, y = (_around(count, device) * 2 * reach.shift for _ in range(2))
    return torch.stack([torch.stack([cos, -sin, x], 1), torch.stack([sin, cos, y], 1)], 1)


def _lit(images: Any, reach: Reach) -> Any:
    """Exposure, contrast, tint, softness and sensor noise, each drawn anew for every image; 8-bit levels, clipped."""
    count, device = len(images), images.device

    def factor(spread: float, channels: int = 1) -> Any:
        return (1 + _around(count * channels, device) * spread).view(count, channels, 1, 1)

    lit = (images * factor(reach.brightness) * factor(reach.tint, 3) - 128) * factor(reach.contrast) + 128
    soft = F.avg_pool2d(lit, 3, 1, 1, count_include_pad=False)
    share = (torch.rand(count, device=device) * 1.5 - 0.5).clamp(0, 1).view(count, 1, 1, 1)
    levels = torch.rand(count, device=device).view(count, 1, 1, 1) * reach.noise_levels
    return (lit + share * (soft - lit) + torch.randn_like(lit) * levels).clamp(0, 255)


def _around(count: int, device: Any) -> Any:
    return torch.rand(count, device=device) * 2 - 1
