"""A published engine under today's placement of Q/DQ pairs: its weights and ranges stay, what reads them may change. A
better placement needs no training, and no photographs to observe."""

from __future__ import annotations

import dataclasses

import numpy as np
from onnx import ModelProto, numpy_helper

from demo.int8 import embedded
from demo.train.layout import Dataset
from demo.train.measure import closeness
from demo.train.ship import accuracy
from engines.catalogue import VerifiedEngine
from engines.export import GROUPS, ExportedEngine, golden_of
from engines.manifest import is_residual, sha256_hex
from engines.onnxruntime_runner import OnnxRuntimeRunner
from engines.quantize import LEVELS, float_twin, plan_for, quantize

_OF_THE_FLOAT = ("fp32.", "kept_from_training.")  # what was measured of the INT8 graph before says nothing of this one


def measured(engine: ExportedEngine, test: Dataset, threads: int) -> ExportedEngine:
    """The engine with what INT8 makes of the evaluation set in its report, and how near its float twin's embeddings
    lie; a transformer as it is."""
    if not is_residual(engine.manifest.family):
        return engine
    twin = float_twin(ModelProto.FromString(engine.model)).SerializeToString()
    coarse, exact = (
        embedded(OnnxRuntimeRunner(model, engine.manifest, threads), test) for model in (engine.model, twin)
    )
    found = {f"int8.{n}": v for n, v in accuracy(coarse, test, np.ones(coarse.shape[:2], bool)).items()}
    dims = coarse.shape[-1]
    near = closeness(coarse.reshape(-1, dims), exact.reshape(-1, dims))
    found |= {f"twin.{n}": v for n, v in near.items()}
    report = tuple(sorted({**dict(engine.manifest.report), **found}.items()))
    return dataclasses.replace(engine, manifest=dataclasses.replace(engine.manifest, report=report))


def replanned(engine: VerifiedEngine) -> ExportedEngine:
    """The engine, to be signed, its report without what INT8 is measured for; a transformer as it is. Raises KeyError
    for a placement that needs the range of a tensor that had no pair."""
    manifest = engine.manifest
    if not is_residual(manifest.family):
        return ExportedEngine(manifest=manifest, model=engine.model, golden=engine.golden)
    published = ModelProto.FromString(engine.model)
    twin = float_twin(published)
    plan = plan_for(twin, manifest.family)
    scales = {i.name: numpy_helper.to_array(i) for i in published.graph.initializer if i.name.endswith("/scale")}
    ranges = {tensor: float(scales[f"{tensor}/scale"]) * LEVELS for tensor in plan.activations}
    model: bytes = quantize(twin, plan, ranges).SerializeToString(deterministic=True)
    draft = dataclasses.replace(
        manifest,
        groups=GROUPS[manifest.family],
        onnx_sha256=sha256_hex(model),
        report=tuple(row for row in manifest.report if row[0].startswith(_OF_THE_FLOAT)),
    )
    golden = golden_of(model, draft)
    return ExportedEngine(
        manifest=dataclasses.replace(draft, golden_sha256=sha256_hex(golden)), model=model, golden=golden
    )
