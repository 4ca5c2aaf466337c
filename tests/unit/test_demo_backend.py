"""Which backend the demo takes, without a GPU."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Literal

import pytest

from demo.backend import calibration_of, demo_backend, read_calibration
from engines.catalogue import MODELS_DIR, read_engine, shipped_keys

find_real = importlib.util.find_spec


@pytest.mark.parametrize(
    ("fitted", "packages", "cards", "backend"),
    [
        (True, True, "0", "tensorrt"),
        (False, True, "0", "auto"),
        (True, False, "0", "auto"),
        (True, True, "-1", "auto"),
    ],
)
def test_a_gpu_is_taken_where_all_it_needs_is_there(
    fitted: bool, packages: bool, cards: str, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fitted:
        calibration_of("tensorrt", tmp_path).touch()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", cards)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: find_real("os") if packages else None)
    calibration = calibration_of("tensorrt" if backend == "tensorrt" else "openvino", tmp_path)
    assert demo_backend(tmp_path) == (backend, calibration)


@pytest.mark.parametrize("backend", ["openvino", "tensorrt"])
def test_what_is_shipped_was_fitted_on_the_shipped_engines(backend: Literal["openvino", "tensorrt"]) -> None:
    fitted = read_calibration(calibration_of(backend))
    shipped = {
        read_engine(MODELS_DIR, name, shipped_keys()).manifest.onnx_sha256 for name in ("resnet18", "vit_tiny16")
    }
    assert (fitted.backend, fitted.engine_digests) == (backend, shipped)
