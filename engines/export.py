"""From float weights to the files of an engine: graph, quantization calibration, golden outputs, manifest. Needs ONNX
Runtime; signing is apart (engines.publish), so that weights can be exported where the key is not."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from engines.architectures.family import Architecture, Weights, embedding_space
from engines.architectures.graph import OPSET
from engines.calibration import Method, observe, thresholds
from engines.golden import golden_bytes, golden_pixels
from engines.manifest import EngineManifest, QuantizationCalibration, sha256_hex
from engines.onnxruntime_runner import OnnxRuntimeRunner
from engines.preprocess import Preprocessing, normalised
from engines.quantize import plan_for, quantize

_PROFILES: Final = (1, 8, 32, 128)
_GROUPS: Final = {
    "resnet18": (("convolutions", "int8"), ("embedding head", "fp32")),
    "vit_tiny16": (("linear layers", "int8"), ("attention, norms, patch embedding and embedding head", "fp32")),
}
_TILING: Final = {"resnet18": "whole view", "vit_tiny16": "overview at half size and four quarters"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ExportedEngine:
    """An engine's files before signing."""

    manifest: EngineManifest
    model: bytes
    golden: bytes


def export_int8(
    architecture: Architecture,
    weights: Weights,
    *,
    name: str,
    pixels: NDArray[np.uint8],
    method: Method,
    report: Mapping[str, float] | None = None,
) -> ExportedEngine:
    """Build, calibrate on `pixels` uint8 [n,S,S,3], quantise, and describe an encoder."""
    preprocessing = Preprocessing(size=architecture.image_size)
    graph = architecture.build(weights)
    plan = plan_for(graph, architecture.family)
    ranges = thresholds(observe(graph, plan, normalised(pixels, preprocessing)), method)
    model: bytes = quantize(graph, plan, ranges).SerializeToString(deterministic=True)
    digest = hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
    calibration = QuantizationCalibration(method=method, images=len(pixels), digest=digest)
    draft = _described(architecture, weights, name, preprocessing, calibration)
    draft = dataclasses.replace(draft, onnx_sha256=sha256_hex(model), report=tuple(sorted((report or {}).items())))
    golden = _golden(model, draft)
    manifest = dataclasses.replace(draft, golden_sha256=sha256_hex(golden))
    return ExportedEngine(manifest=manifest, model=model, golden=golden)


def _golden(model: bytes, manifest: EngineManifest) -> bytes:
    """Golden outputs from the reference backend."""
    runner = OnnxRuntimeRunner(model, manifest)
    try:
        return golden_bytes(runner.start(golden_pixels(manifest.preprocessing.size)).result())
    finally:
        runner.close()


def _described(
    architecture: Architecture,
    weights: Weights,
    name: str,
    preprocessing: Preprocessing,
    calibration: QuantizationCalibration,
) -> EngineManifest:
    return EngineManifest(
        name=name,
        family=architecture.family,
        onnx_sha256="",
        golden_sha256="",
        precision="int8",
        groups=_GROUPS[architecture.family],
        embedding_space=embedding_space(architecture, weights, dataclasses.asdict(preprocessing)),
        preprocessing=preprocessing,
        tiling=_TILING[architecture.family],
        embedding_dim=architecture.embedding_dim,
        patch_dim=architecture.patch_dim,
        patch_grid=architecture.patch_grid,
        attention_grid=architecture.attention_grid,
        opset=OPSET,
        calibration=calibration,
        profiles=_PROFILES,
    )
