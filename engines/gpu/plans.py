"""From a verified graph to a TensorRT plan for the GPU at hand, and plans kept from one start to the next.

A plan is native code: it is built here from bytes whose signature was checked, or read back from a folder that nobody
but this user can write to. It is never taken from anywhere else.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from pathlib import Path
from typing import Any, Final

from engines.errors import EngineRefused, RefusalCode
from engines.gpu.rewrite import DeviceGraph
from engines.manifest import EngineManifest, sha256_hex

INPUT: Final = "images"
BUILD_EFFORT: Final = 1  # of 5; TensorRT's own default of 3 takes minutes for a profile of up to 128 images
_DIGEST_BYTES: Final = 32
_log = logging.getLogger(__name__)


class PlanFolder:
    """Plans by what they were made of. Raises EngineRefused where others could write into the folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
        if found.st_uid != os.geteuid() or found.st_mode & 0o022:
            fix = f"chown the folder to the worker's user and chmod 700 it, or name another one than {folder}"
            raise EngineRefused(RefusalCode.SIGNATURE_INVALID, f"others can write plans into {folder}", fix)
        self._folder = folder

    def read(self, key: str) -> bytes | None:
        """The plan kept under `key`; None where there is none, or where the file was cut short or altered."""
        try:
            raw = self._path(key).read_bytes()
        except FileNotFoundError:
            return None
        digest, plan = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES:]
        if hashlib.sha256(plan).digest() != digest:
            _log.warning("the plan %s is damaged and will be built again", self._path(key))
            return None
        return plan

    def write(self, key: str, plan: bytes) -> None:
        """Keep a plan; readers see all of it or nothing."""
        with tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as file:
            file.write(hashlib.sha256(plan).digest() + plan)
        Path(file.name).rename(self._path(key))

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.plan"


def plan_key(graph: DeviceGraph, manifest: EngineManifest, capability: tuple[int, int], effort: int) -> str:
    """What a plan depends on: the graph that was built, the profiles, TensorRT's version, the GPU's compute capability
    and the effort."""
    trt = tensorrt()
    parts = (graph.digest, str(manifest.profiles), trt.__version__, str(capability), str(effort))
    return sha256_hex("\n".join(parts).encode())


def timing_key(capability: tuple[int, int]) -> str:
    """Where the builder's timings lie in a PlanFolder: another TensorRT or GPU has its own."""
    return f"timings-{tensorrt().__version__}-{capability[0]}{capability[1]}"


def build_plan(graph: DeviceGraph, manifest: EngineManifest, effort: int, timings: bytes) -> tuple[bytes, bytes]:
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
    config.builder_optimization_level = effort
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
    return trt.Runtime(_logger(trt)).deserialize_cuda_engine(plan)


def tensorrt() -> Any:
    """The library. Raises EngineRefused (backend_unavailable)."""
    try:
        import tensorrt as found
    except ImportError as error:
        fix = "pip install tensorrt (the gpu extra), or choose the openvino backend"
        raise EngineRefused(RefusalCode.BACKEND_UNAVAILABLE, "tensorrt is not installed", fix) from error
    return found


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
