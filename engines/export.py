"""From float weights to the files of an engine: graph, quantization calibration, golden outputs, manifest. Needs ONNX
Runtime; signing is apart (engines.publish), so that weights can be exported where the key is not."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from engines.architectures.family import Architecture, Weights, embedding_space
from engines.architectures.graph import OPSET
from engines.calibration import Histogram, Method, observe, thresholds
from engines.golden import golden_bytes, golden_pixels
from engines.manifest import (
    EngineManifest,
    QuantizationCalibration,
    golden_path,
    manifest_path,
    model_path,
    sha256_hex,
)
from engines.onnxruntime_runner import OnnxRuntimeRunner
from engines.preprocess import Preprocessing, normalised
from engines.quantize import QuantPlan, plan_for, quantize

PROFILES: Final = (1, 8, 32, 128)
GROUPS: Final = {
    "resnet18": (
        ("convolutions", "int8"),
        ("embedding head, patch head, additions of the stage that patches come from", "fp32"),
    ),
    "vit_tiny16": (("linear layers", "int8"), ("attention, norms, patch embedding and embedding head", "fp32")),
}
TILING: Final = {"resnet18": "whole view", "vit_tiny16": "overview at half size and four quarters"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ExportedEngine:
    """An engine's files before signing."""

    manifest: EngineManifest
    model: bytes
    golden: bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """An encoder's float graph and what its activations did on the calibration images."""

    architecture: Architecture
    weights: Weights
    graph: Any
    plan: QuantPlan
    histograms: Mapping[str, Histogram]
    images: int
    digest: str


def observed(architecture: Architecture, weights: Weights, pixels: NDArray[np.uint8]) -> Observed:
    """Build the float graph and run it on the calibration images, uint8 [n,S,S,3]."""
    graph = architecture.build(weights)
    plan = plan_for(graph, architecture.family)
    return Observed(
        architecture=architecture,
        weights=weights,
        graph=graph,
        plan=plan,
        histograms=observe(graph, plan, list(normalised(pixels, Preprocessing(size=architecture.image_size)))),
        images=len(pixels),
        digest=hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest(),
    )


def export_int8(seen: Observed, *, name: str, method: Method) -> ExportedEngine:
    """Quantise with one calibration method, and describe the engine. Its report is still empty."""
    model: bytes = quantize(seen.graph, seen.plan, thresholds(seen.histograms, method)).SerializeToString(
        deterministic=True
    )
    calibration = QuantizationCalibration(method=method, images=seen.images, digest=seen.digest)
    draft = dataclasses.replace(_described(seen, name, calibration), onnx_sha256=sha256_hex(model))
    golden = golden_of(model, draft)
    return ExportedEngine(
        manifest=dataclasses.replace(draft, golden_sha256=sha256_hex(golden)), model=model, golden=golden
    )


def write_unsigned(engine: ExportedEngine, folder: Path) -> None:
    """Its files, for whoever has the key to sign."""
    folder.mkdir(parents=True, exist_ok=True)
    name = engine.manifest.name
    model_path(folder, name).write_bytes(engine.model)
    golden_path(folder, name).write_bytes(engine.golden)
    manifest_path(folder, name).write_bytes(engine.manifest.to_json())


def golden_of(model: bytes, manifest: EngineManifest) -> bytes:
    """Golden outputs from the reference backend."""
    runner = OnnxRuntimeRunner(model, manifest)
    try:
        return golden_bytes(runner.start(golden_pixels(manifest.preprocessing.size)).result())
    finally:
        runner.close()


def _described(seen: Observed, name: str, calibration: QuantizationCalibration) -> EngineManifest:
    architecture = seen.architecture
    preprocessing = Preprocessing(size=architecture.image_size)
    return EngineManifest(
        name=name,
        family=architecture.family,
        onnx_sha256="",
        golden_sha256="",
        precision="int8",
        groups=GROUPS[architecture.family],
        embedding_space=embedding_space(architecture, seen.weights, dataclasses.asdict(preprocessing)),
        preprocessing=preprocessing,
        tiling=TILING[architecture.family],
        embedding_dim=architecture.embedding_dim,
        patch_dim=architecture.patch_dim,
        patch_grid=architecture.patch_grid,
        attention_grid=architecture.attention_grid,
        opset=OPSET,
        calibration=calibration,
        profiles=PROFILES,
    )
