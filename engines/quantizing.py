"""From an FP32 draft and the user's photographs to an INT8 draft: ranges observed, calibration methods compared on
photographs held out, the harm of each layer measured, a mix found that holds the accuracy budget, all recorded."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any, Final, get_args

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from engines.calibration import Method, observe, thresholds
from engines.drafts import Draft, MakingRefused
from engines.export import GROUPS, golden_of
from engines.manifest import EngineManifest, QuantizationCalibration, is_residual, sha256_hex
from engines.onnxruntime_runner import OnnxRuntimeRunner
from engines.photographs import NormalisedSquares, Photographs, looks_random
from engines.quantize import QuantPlan, alone, layers_of, plan_for, quantize, without
from engines.quantizing_search import Closeness, ClosenessBudget, Mix, closeness, search

Pixels = NDArray[np.uint8]
Features = tuple[NDArray[np.float32], NDArray[np.float32]]  # embeddings [n,D], patches [n,P,d]

LEAST: Final = 100
MOST: Final = 500
HELD_OUT_EVERY: Final = 5
_MOST_RANDOM: Final = 0.1
_FP16_LARGEST: Final = 65_504.0
_LARGEST_FILE: Final = 0.30
# GOALS G5; a ViT has no bound on its first percentile there, and one that lets a few photographs go is none
_BUDGETS: Final = {True: ClosenessBudget(mean=0.995, p1=0.98), False: ClosenessBudget(mean=0.99, p1=0.95)}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeRequest:
    """How far INT8 may depart (None: by the family's recipe), and how many held-out photographs rate each layer."""

    budget: ClosenessBudget | None = None
    methods: tuple[Method, ...] = get_args(Method)
    rated_on: int = 16
    threads: int | None = None


def default_budget(family: str) -> ClosenessBudget:
    return _BUDGETS[is_residual(family)]


def check_photographs(found: Photographs) -> None:
    """Raises MakingRefused for what ranges must not be learnt from."""
    faults = f"; {len(found.faults)} could not be used, {': '.join(found.faults[0])}" if found.faults else ""
    twice = f"; {found.duplicates} are copies" if found.duplicates else ""
    if (count := len(found.digests)) < LEAST:
        fix = f"give {LEAST} to {MOST} photographs of your own goods, taken as jobs are"
        raise MakingRefused(f"{count} different photographs that can be used, {LEAST} are needed{faults}{twice}", fix)
    random = sum(looks_random(square) for square in found.pixels)
    if random > _MOST_RANDOM * count:
        fix = "give photographs of your own goods: ranges learnt from noise are wrong for photographs"
        raise MakingRefused(f"{random} of {count} photographs are noise or one flat colour", fix)


def quantized(
    source: Draft,
    photographs: Photographs,
    request: QuantizeRequest,
    *,
    references: Photographs | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Draft:
    """The INT8 draft. `say` is told what goes on, and is warned. Raises MakingRefused."""
    _check_source(source.manifest)
    check_photographs(photographs)
    trial = Trial(source, photographs, request)
    likeness = _likeness(trial, references, say)
    say(f"observing {len(trial.graph.graph.node)} ops on {len(trial.observed)} photographs")
    trial.observe()
    method, compared = trial.best_method()
    say(f"ranges by {method}: cosine {compared[method].mean:.5f} on {len(trial.held_out)} held-out photographs")
    harm = trial.harm(method)
    budget = request.budget or default_budget(source.manifest.family)
    mix = search(tuple(harm), harm, budget, lambda floats: trial.measured(trial.mixed(method, floats)))
    _check_mix(mix, budget)
    say(f"{len(harm) - len(mix.floats)} of {len(harm)} layers are INT8; cosine {mix.closeness.mean:.5f}")
    model = trial.bytes_of(trial.mixed(method, mix.floats))
    manifest, golden = _described(source.manifest, model, photographs, method, mix, compared)
    record = {
        **_record(source, photographs, trial, say),
        "likeness": likeness,
        "methods": {name: dataclasses.asdict(found) for name, found in compared.items()},
        "method": method,
        "harm": harm,
        "budget": dataclasses.asdict(budget),
        "search": {**dataclasses.asdict(mix), "floats": sorted(mix.floats), "steps": _steps(mix)},
        **_sizes(source, model, say),
        "onnx_sha256": manifest.onnx_sha256,
        "golden_sha256": manifest.golden_sha256,
    }
    return Draft(manifest=manifest, model=model, golden=golden, record=record)


def _check_source(manifest: EngineManifest) -> None:
    if manifest.precision != "fp32":
        fix = "quantise the draft that `assay engine import` made"
        raise MakingRefused(f"{manifest.name} is {manifest.precision} already", fix)


def _check_mix(mix: Mix, budget: ClosenessBudget) -> None:
    if not mix.held:
        found = f"cosine {mix.closeness.mean:.5f}, first percentile {mix.closeness.p1:.5f}"
        wanted = f"at least {budget.mean} and {budget.p1}"
        fix = "loosen the budget, or look at the graph: even with all layers float it departs"
        raise MakingRefused(f"no mix of INT8 and float holds the budget: {found}, {wanted}", fix)


class Trial:
    """One encoder under quantisation: its float graph, its plan, and photographs to observe and to measure on."""

    def __init__(self, source: Draft, photographs: Photographs, request: QuantizeRequest) -> None:
        self.graph = ModelProto()
        self.graph.ParseFromString(source.model)
        self.manifest = source.manifest
        self.plan = plan_for(self.graph, source.manifest.family)
        held = np.arange(len(photographs.digests)) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
        self.observed: Pixels = photographs.pixels[~held]
        self.held_out: Pixels = photographs.pixels[held]
        self._request = request
        self._float = source.model
        self.exact = self.run(source.model, self.held_out)
        self.ranges: dict[Method, Mapping[str, float]] = {}

    def run(self, model: bytes, pixels: Pixels) -> Features:
        runner = OnnxRuntimeRunner(model, self.manifest, self._request.threads)
        try:
            outputs = runner.start(pixels).result()
        finally:
            runner.close()
        return outputs.embedding, outputs.patches

    def embedded(self, pixels: Pixels) -> NDArray[np.float32]:
        """FP32 embeddings."""
        return self.run(self._float, pixels)[0]

    def observe(self) -> None:
        squares = NormalisedSquares(self.observed, self.manifest.preprocessing)
        histograms = observe(self.graph, self.plan, squares)
        self.ranges = {method: thresholds(histograms, method) for method in self._request.methods}

    def bytes_of(self, plan_and_method: tuple[QuantPlan, Method]) -> bytes:
        plan, method = plan_and_method
        content: bytes = quantize(self.graph, plan, self.ranges[method]).SerializeToString(deterministic=True)
        return content

    def mixed(self, method: Method, floats: frozenset[str]) -> tuple[QuantPlan, Method]:
        return without(self.graph, self.plan, floats), method

    def measured(self, plan_and_method: tuple[QuantPlan, Method], count: int | None = None) -> Closeness:
        """How close a plan comes on the held-out photographs, or on the first `count` of them."""
        coarse = self.run(self.bytes_of(plan_and_method), self.held_out[:count])
        return closeness((self.exact[0][:count], self.exact[1][:count]), coarse)

    def best_method(self) -> tuple[Method, dict[Method, Closeness]]:
        """The method whose embeddings stay nearest, with everything INT8."""
        compared = {method: self.measured((self.plan, method)) for method in self._request.methods}
        return max(compared, key=lambda method: compared[method].mean), compared

    def harm(self, method: Method) -> dict[str, float]:
        """What each layer costs when it alone is INT8: 1 - cosine, mean."""
        layers = layers_of(self.graph, self.plan)
        plans = {layer.weight: alone(self.graph, self.plan, layer) for layer in layers}
        return {w: 1 - self.measured((plan, method), self._request.rated_on).mean for w, plan in plans.items()}


def _likeness(trial: Trial, references: Photographs | None, say: Callable[[str], None]) -> dict[str, object] | None:
    """How near the photographs come to the enrolled references, against how near those come to each other."""
    if references is None or len(references.digests) < 2:
        say("warning: not compared with the enrolled references: give their photographs with --references")
        return None
    enrolled = trial.embedded(references.pixels)
    among = enrolled @ enrolled.T
    np.fill_diagonal(among, -1.0)
    own = 1 - among.max(1)
    theirs = 1 - (trial.embedded(np.concatenate([trial.observed, trial.held_out])) @ enrolled.T).max(1)
    far = float((theirs > np.percentile(own, 95)).mean())
    if far > 0.5:
        say(
            f"warning: {far:.0%} of the photographs are farther from every enrolled reference than references are from "
            f"each other (median {np.median(theirs):.3f} against {np.median(own):.3f}): are they of these goods?"
        )
    return {
        "references": len(references.digests),
        "references_digest": references.digest,
        "median_distance": float(np.median(theirs)),
        "median_distance_among_references": float(np.median(own)),
        "share_farther_than_references": far,
        "warned": far > 0.5,
    }


def _described(
    source: EngineManifest,
    model: bytes,
    photographs: Photographs,
    method: Method,
    mix: Mix,
    compared: Mapping[Method, Closeness],
) -> tuple[EngineManifest, bytes]:
    report = {f"{m}.cosine_{n}": v for m, c in compared.items() for n, v in (("mean", c.mean), ("p1", c.p1))}
    report |= {"int8.cosine_mean": mix.closeness.mean, "int8.cosine_p1": mix.closeness.p1}
    calibration = QuantizationCalibration(method=method, images=len(photographs.digests), digest=photographs.digest)
    draft = dataclasses.replace(
        source,
        precision="int8",
        groups=tuple(sorted({**_groups(source.family), **{layer: "fp32" for layer in mix.floats}}.items())),
        calibration=calibration,
        report=tuple(sorted(report.items())),
        onnx_sha256=sha256_hex(model),
        key_id="",
        signature="",
    )
    golden = golden_of(model, draft)
    return dataclasses.replace(draft, golden_sha256=sha256_hex(golden)), golden


def _groups(family: str) -> dict[str, str]:
    if family in GROUPS:
        return dict(GROUPS[family])
    return {"convolutions" if is_residual(family) else "linear layers": "int8", "everything else": "fp32"}


def _record(source: Draft, photographs: Photographs, trial: Trial, say: Callable[[str], None]) -> dict[str, object]:
    largest = max(max(trial.ranges[m].values()) for m in trial.ranges)
    if largest > _FP16_LARGEST / 4:
        say(f"warning: an activation reaches {largest:.3g}; above {_FP16_LARGEST:.0f} FP16 would overflow")
    return {
        "made_by": "assay engine quantize",
        "source": {"onnx_sha256": source.manifest.onnx_sha256, "record": source.record},
        "recipe": "residual" if is_residual(source.manifest.family) else "transformer",
        "photographs": {
            "used": len(photographs.digests),
            "held_out": len(trial.held_out),
            "digest": photographs.digest,
            "sha256": list(photographs.digests),
            "passed_over": [f"{name}: {why}" for name, why in photographs.faults],
            "copies": photographs.duplicates,
        },
        "largest_activation": largest,
        "made_with": {"python": platform.python_version(), **{p: version(p) for p in ("numpy", "onnx", "onnxruntime")}},
    }


def _steps(mix: Mix) -> list[dict[str, Any]]:
    return [dataclasses.asdict(step) for step in mix.steps]


def _sizes(source: Draft, model: bytes, say: Callable[[str], None]) -> dict[str, object]:
    share = len(model) / len(source.model)
    if share > _LARGEST_FILE:
        say(f"warning: the file is {share:.2f} of the FP32 one; the goal is {_LARGEST_FILE}")
    return {"bytes": len(model), "source_bytes": len(source.model), "share": share}
