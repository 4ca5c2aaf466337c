"""From a verified graph to a TensorRT plan for the GPU at hand; engines.plan_files keeps it.

A plan is native code: it is built here from bytes whose signature was checked, or read back from a folder that nobody
but this user can write to. It is never taken from anywhere else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from importlib import import_module
from typing import Any, Final

from engines.errors import EngineRefused, RefusalCode
from engines.gpu.device_graph import DeviceGraph
from engines.machine import this_machine
from engines.manifest import EngineManifest
from engines.plan_files import (
    REBUILD,
    KeptTimings,
    PlanFolder,
    PlanHeader,
    made_with_driver,
    profiles_of,
    refuse_other_plan,
)

INPUT: Final = "images"
BUILD_EFFORT: Final = 1  # of 5; TensorRT's own default of 3 takes minutes for a profile of up to 128 images
# the lean one's wheels on PyPI, tensorrt-lean-cu13-libs and -bindings, have no package around them
_RUNTIMES: Final = ("tensorrt", "tensorrt_lean", "tensorrt_lean_bindings")
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """How TensorRT is asked to build: `effort` is its optimization level, 0 to 5. A version-compatible plan carries the
    lean runtime: later versions of the same major run it, and it costs speed, which `assay engine build` measures."""

    effort: int = BUILD_EFFORT
    version_compatible: bool = False

    @property
    def told(self) -> tuple[tuple[str, str], ...]:
        compatible = (("version_compatible", "yes"),) if self.version_compatible else ()
        return (("effort", str(self.effort)), *compatible)


def plan_header(
    graph: DeviceGraph, manifest: EngineManifest, capability: tuple[int, int], options: BuildOptions
) -> PlanHeader:
    """What a plan of this graph depends on here; a version-compatible one on TensorRT's major version alone."""
    version = str(tensorrt().__version__)
    return PlanHeader(
        backend="tensorrt",
        name=manifest.name,
        onnx_sha256=manifest.onnx_sha256,
        graph=f"{graph.recipe} {graph.digest}",
        profiles=profiles_of(manifest),
        version=version.partition(".")[0] if options.version_compatible else version,
        machine=f"{capability[0]}.{capability[1]}",
        options=options.told,
        made_with=made_with_driver(this_machine().versions),
    )


def kept_plan(
    graph: DeviceGraph, manifest: EngineManifest, capability: tuple[int, int], plans: PlanFolder, asked: BuildOptions
) -> tuple[PlanHeader, bytes | None]:
    """The plan for this machine that lies in the folder, a version-compatible one at last; or what to build. Raises
    EngineRefused for another one in its place."""
    for options in dict.fromkeys((asked, dataclasses.replace(asked, version_compatible=True))):
        header = plan_header(graph, manifest, capability, options)
        if (kept := plans.read(header)) is not None:
            return header, kept
    return plan_header(graph, manifest, capability, asked), None


def plan_now(
    graph: DeviceGraph, manifest: EngineManifest, header: PlanHeader, plans: PlanFolder, options: BuildOptions
) -> bytes:
    """Build what `header` describes. In the device's thread. Raises EngineRefused, where this TensorRT cannot build
    (the lean runtime) with what the plans that lie here are for."""
    trt, others = tensorrt(), plans.others(header)
    if not hasattr(trt, "Builder"):
        for other in others:
            refuse_other_plan(other, header)
        fix = f"on a machine with all of TensorRT, {REBUILD}"
        message = f"there is no plan of {manifest.name} for {header.told}, and the lean runtime builds none"
        raise EngineRefused(RefusalCode.WRONG_VERSION, message, fix)
    if others:
        told = "; ".join(sorted({other.told for other in others}))
        _log.warning("plans of %s are for %s: building one for %s (ahead: %s)", header.name, told, header.told, REBUILD)
    timings = KeptTimings(plans, f"tensorrt-{trt.__version__}-{header.machine}")
    plan, learned = build_plan(graph, manifest, options, timings.read())
    timings.keep(learned)
    return plan


def build_plan(
    graph: DeviceGraph, manifest: EngineManifest, options: BuildOptions, timings: bytes
) -> tuple[bytes, bytes]:
    """The plan, and the builder's timings for the next build, which begins with `timings` (empty: none). The graph is
    built as it is typed, with one profile from the smallest to the largest batch of the manifest. Takes a minute or so.
    In the device's thread. Raises EngineRefused."""
    trt = tensorrt()
    builder = trt.Builder(_logger(trt))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, _logger(trt))
    if not parser.parse(graph.model):
        faults = "; ".join(str(parser.get_error(number)) for number in range(parser.num_errors))
        raise _unbuilt(manifest, f"TensorRT {trt.__version__} cannot parse the {graph.recipe} graph: {faults}")
    if graph.input_scale is not None:
        network.get_input(0).allowed_formats = 1 << int(trt.TensorFormat.CHW4)
    config = builder.create_builder_config()
    config.builder_optimization_level = options.effort
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    cache = config.create_timing_cache(timings)
    config.set_timing_cache(cache, False)
    profile = builder.create_optimization_profile()
    profile.set_shape(INPUT, *(_shape(manifest, graph.channels, batch) for batch in _batches(manifest)))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        reason = "found no implementation; its log says why"
        raise _unbuilt(manifest, f"TensorRT {trt.__version__} {reason} ({graph.recipe} graph)")
    return bytes(plan), bytes(config.get_timing_cache().serialize())


def load_plan(plan: bytes) -> Any:
    """Deserialise a plan of ours. In the device's thread. None where this TensorRT or GPU does not take it."""
    trt = tensorrt()
    runtime = trt.Runtime(_logger(trt))
    runtime.engine_host_code_allowed = True  # a version-compatible plan brings its runtime; all of them were built here
    return runtime.deserialize_cuda_engine(plan)


def tensorrt() -> Any:
    """The library, or its lean runtime where nothing else is there. Raises EngineRefused (backend_unavailable)."""
    for name in _RUNTIMES:
        with contextlib.suppress(ImportError):
            return import_module(name)
    fix = "pip install tensorrt (the gpu extra), or choose the openvino backend"
    raise EngineRefused(RefusalCode.BACKEND_UNAVAILABLE, "tensorrt is not installed", fix)


def _logger(trt: Any) -> Any:
    return trt.Logger(trt.Logger.WARNING)


def _batches(manifest: EngineManifest) -> tuple[int, int, int]:
    """Smallest, preferred and largest batch: the preferred one is the middle of the profiles, from above."""
    sizes = sorted(manifest.profiles)
    return sizes[0], sizes[len(sizes) // 2], sizes[-1]


def _shape(manifest: EngineManifest, channels: int, batch: int) -> tuple[int, int, int, int]:
    side = manifest.preprocessing.size
    return batch, channels, side, side


def _unbuilt(manifest: EngineManifest, message: str) -> EngineRefused:
    fix = "use the openvino backend, and report the pair of engine and TensorRT version"
    return EngineRefused(RefusalCode.OUTPUTS_UNEXPECTED, f"{manifest.name}: {message}", fix)
