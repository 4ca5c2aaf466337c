"""What runs the demo's encoders: a GPU where there is one that its score calibration was fitted on, else the CPU."""

from __future__ import annotations

import importlib.util
import json
import lzma
import os
from pathlib import Path
from typing import Final

from engines.catalogue import MODELS_DIR, BackendChoice
from engines.errors import EngineRefused
from engines.gpu.listing import visible_gpus
from engines.runner import Backend
from worker.adapters.references import ReferenceStore
from worker.core.policy import ScoreCalibration
from worker.core.policy_json import from_json

_PACKAGES: Final = ("pycuda", "tensorrt")  # the decoder may be missing: then the CPU decodes


def calibration_of(backend: Backend, folder: Path = MODELS_DIR) -> Path:
    """Where the score calibration for the shipped encoders lies, packed: a backend has its own."""
    return folder / f"calibration.{backend}.json.xz"


def read_calibration(path: Path) -> ScoreCalibration:
    return from_json(json.loads(lzma.decompress(path.read_bytes())))


def publish_shipped(store: ReferenceStore, fitted: ScoreCalibration, by: str) -> None:
    """Make it the active one. `n` is how many scores are in it: the items that it was fitted on were not shipped."""
    scores = (*fitted.genuine_scores.values(), *fitted.counterfeit_scores.values())
    store.put_calibration(fitted, n=sum(map(len, scores)), by=by, why="shipped with the encoders")


def demo_backend(folder: Path = MODELS_DIR) -> tuple[BackendChoice, Path]:
    """As the worker's setting names it, and its calibration. Nothing is opened to find out."""
    on_gpu = calibration_of("tensorrt", folder)
    if on_gpu.exists() and _has_gpu():
        return "tensorrt", on_gpu
    return "auto", calibration_of("openvino", folder)


def _has_gpu() -> bool:
    if not all(importlib.util.find_spec(package) for package in _PACKAGES):
        return False
    try:
        return bool(visible_gpus(os.environ))
    except EngineRefused:
        return False
