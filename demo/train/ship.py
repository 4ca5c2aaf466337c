"""From weights to what is shipped: choose the calibration method, export the INT8 engine, measure it beside its float
twin on SKUs that were never seen, write the files. Needs no torch: whoever has the float encoder hands it in."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from demo.train import measure
from demo.train.layout import RESERVED_SKUS, VIEWS_A_SKU, Dataset
from demo.unseen import UNSEEN_FAMILIES
from engines.architectures import Architecture, Weights
from engines.calibration import Method
from engines.export import ExportedEngine, Observed, export_int8, observed, write_unsigned
from engines.manifest import EngineManifest
from engines.onnxruntime_runner import OnnxRuntimeRunner

LOG = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]
Features = NDArray[np.float32]
Embed = Callable[[Pixels], tuple[Features, Features]]  # uint8 [n,S,S,3] to embedding [n,D] and patches [n,P,d]

_BLOCK = 32
_POINTED = 96  # forgeries on which deviation is measured


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Wall-clock bounds and threads of the measurements."""

    finish: float
    threads: int


def ship(
    architecture: Architecture, weights: Weights, train: Dataset, test: Dataset, exact: Embed, out: Path, clock: Clock
) -> dict[str, float]:
    """Export and measure one encoder, write its files into `out`, give the report."""
    reserved = train.groups[train.groups < RESERVED_SKUS * VIEWS_A_SKU]
    seen = observed(architecture, weights, np.ascontiguousarray(train.pixels[reserved, 0]))
    engine, report = _best(seen, np.ascontiguousarray(train.pixels[reserved, 4]), exact, clock)
    LOG.info("calibrated: %s", report)
    _write(engine, out, report)  # what follows may be cut by the clock
    report |= _compared(engine, test, exact, clock)
    _write(engine, out, report)
    return report


def _best(seen: Observed, pixels: Pixels, exact: Embed, clock: Clock) -> tuple[ExportedEngine, dict[str, float]]:
    """The calibration method whose INT8 embeddings stay nearest to the float ones on forged calibration renders."""
    wanted = np.concatenate([exact(block)[0] for block in _blocks(pixels)])
    engines: dict[Method, ExportedEngine] = {}
    report: dict[str, float] = {}
    for method in get_args(Method):
        engine = export_int8(seen, name=seen.architecture.family, method=method)
        found = np.concatenate([rows[0] for rows in _run(engine, pixels, clock)])
        engines[method] = engine
        report |= {f"{method}.{n}": v for n, v in measure.closeness(found, wanted[: len(found)]).items()}
    chosen = max(engines, key=lambda m: report[f"{m}.cosine_mean"])
    return engines[chosen], report


def _compared(engine: ExportedEngine, test: Dataset, exact: Embed, clock: Clock) -> dict[str, float]:
    """Float and INT8 on the evaluation set. INT8 runs until the clock ends; the report says on how many images."""
    groups = test.groups
    places = range(test.pixels.shape[1])
    order = [(g, p) for g in range(len(groups)) for p in places]  # whole groups: any number of them can be measured
    floats = np.zeros((len(groups), len(places), engine.manifest.embedding_dim), np.float32)
    coarse = np.zeros_like(floats)
    known = np.zeros(floats.shape[:2], bool)
    for part in _parts(order):
        floats[tuple(zip(*part, strict=True))] = exact(_gathered(test, part))[0]
    everything = np.ones_like(known)
    report = {f"fp32.{n}": v for n, v in accuracy(floats, test, everything).items()}
    report["fp32.deviation_auc"] = _pointing(test, exact)
    LOG.info("float: %s", report)
    gathered = (_gathered(test, part) for part in _parts(order))
    for part, rows in zip(_parts(order), _run_blocks(engine, gathered, clock), strict=False):
        at = tuple(zip(*part, strict=True))
        coarse[at], known[at] = rows[0], True
    report |= {f"int8.{n}": v for n, v in accuracy(coarse, test, known).items()}
    report |= {f"int8.{n}": v for n, v in measure.closeness(coarse[known], floats[known]).items()}
    return report | {f"fp32_same.{n}": v for n, v in accuracy(floats, test, known).items()}


def accuracy(embeddings: Features, test: Dataset, known: NDArray[np.bool_]) -> dict[str, float]:
    recall, asked = measure.recall_at_1(embeddings, test.groups, known)
    areas = measure.forgery_auc(embeddings, test, known)
    return {"recall_at_1": recall, "queries": float(asked), **{f"forgery_auc.{f}": a for f, a in areas.items()}}


def _pointing(test: Dataset, exact: Embed) -> float:
    """Deviation's ROC area on forgeries that can be seen, against two references each."""
    seen = [g for g in test.groups if test.masks[g, 4].max() > 127]
    chosen = seen[:: max(1, len(seen) // _POINTED)]
    patches = [exact(np.ascontiguousarray(test.pixels[g, [0, 1, 4]]))[1] for g in chosen]
    return measure.deviation_auc(np.stack(patches), test.masks[chosen, 4]) if chosen else float("nan")


def _parts(order: list[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    return (order[first : first + _BLOCK] for first in range(0, len(order), _BLOCK))


def _gathered(data: Dataset, part: list[tuple[int, int]]) -> Pixels:
    groups = data.groups
    return np.stack([data.pixels[groups[row], place] for row, place in part])


def _blocks(pixels: Pixels) -> Iterator[Pixels]:
    return (pixels[first : first + _BLOCK] for first in range(0, len(pixels), _BLOCK))


def _run(engine: ExportedEngine, pixels: Pixels, clock: Clock) -> Iterator[tuple[Features, Features]]:
    return _run_blocks(engine, _blocks(pixels), clock)


def _run_blocks(engine: ExportedEngine, blocks: Iterator[Pixels], clock: Clock) -> Iterator[tuple[Features, Features]]:
    """The INT8 graph on ONNX Runtime, a block after another, until the clock ends; the first block always runs."""
    runner = OnnxRuntimeRunner(engine.model, engine.manifest, clock.threads)
    try:
        for block in blocks:
            outputs = runner.start(block).result()
            yield outputs.embedding, outputs.patches
            if time.time() > clock.finish:
                return
    finally:
        runner.close()


def _write(engine: ExportedEngine, out: Path, report: dict[str, float]) -> None:
    """The unsigned engine; `publish` signs it where the key is."""
    told = {n: v for n, v in report.items() if np.isfinite(v)}
    told |= {f"kept_from_training.{family}": 1.0 for family in UNSEEN_FAMILIES}
    manifest: EngineManifest = dataclasses.replace(engine.manifest, report=tuple(sorted(told.items())))
    write_unsigned(dataclasses.replace(engine, manifest=manifest), out)
    (out / f"{manifest.name}.report.json").write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")
