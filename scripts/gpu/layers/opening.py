"""What the steps share: the GPU, the shipped engines, photographs. Each is made when a step first needs it."""

from __future__ import annotations

import io
import os
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from engines.catalogue import MODELS_DIR, VerifiedEngine, read_engine, shipped_keys
from engines.gpu.device import Device
from engines.gpu.encoder import GpuOptions
from engines.gpu.opened import Gpu
from engines.gpu.tensorrt_runner import TensorRtRunner
from engines.plan_files import PlanFolder

NAMES = ("resnet18", "vit_tiny16")
SIDE = int(os.environ.get("SIDE", "1024"))
PLANS = Path(os.environ.get("PLANS") or tempfile.mkdtemp(prefix="plans-"))
_OPENED: list[TensorRtRunner] = []


@cache
def photographs(count: int = 32, side: int = SIDE, *, quality: int = 90, step: int = 8) -> list[bytes]:
    """Smooth JPEGs with a little noise, each `step` px wider than the one before."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(count):
        small = Image.fromarray(rng.integers(0, 255, (side // 16, side // 16, 3), dtype=np.uint8))
        pixels = np.asarray(small.resize((side + step * number, side), Image.Resampling.BICUBIC)).astype(np.int16)
        noisy = np.clip(pixels + rng.integers(-3, 4, pixels.shape), 0, 255).astype(np.uint8)
        out = io.BytesIO()
        Image.fromarray(noisy).save(out, "JPEG", quality=quality)
        made.append(out.getvalue())
    return made


@cache
def gpu() -> Gpu:
    return Gpu(device=Device(), plans=PlanFolder(PLANS))


def gpu_of_effort(effort: int) -> Gpu:
    """The same device, whose plans are built with this effort."""
    return Gpu(device=gpu().device, plans=PlanFolder(PLANS), options=GpuOptions(effort=effort))


@cache
def engine(name: str) -> VerifiedEngine:
    return read_engine(MODELS_DIR, name, shipped_keys())


@cache
def runner(name: str) -> TensorRtRunner:
    found = engine(name)
    opened = gpu().runner(found.model, found.manifest, found.golden)
    _OPENED.append(opened)
    return opened


def close() -> None:
    """Close every runner that a step opened, and then the device."""
    for opened in _OPENED:
        opened.close()
    if gpu.cache_info().currsize:
        gpu().close()
