"""Engines on disk: read once, verify those bytes, load those bytes, self-test, and only then hand out."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Literal

from engines import golden
from engines.cpu_plans import open_cpu_plans
from engines.decode import DecodeLimits
from engines.decoder import PillowDecoder
from engines.errors import EngineRefused, RefusalCode
from engines.gpu.device import Device
from engines.gpu.encoder import GpuOptions
from engines.gpu.opened import Gpu
from engines.gpu.session import DeviceSession
from engines.gpu.tensorrt_runner import TensorRtRunner
from engines.keyring import read_keys
from engines.machine import this_machine
from engines.manifest import EngineManifest, golden_path, manifest_path, sha256_hex
from engines.matrix import Card, Machine, refuse_misfit
from engines.onnxruntime_runner import OnnxRuntimeRunner
from engines.openvino_runner import OpenVinoRunner
from engines.packing import read_model
from engines.plan_files import PlanFolder
from engines.runner import Backend, Runner
from engines.session import CPU_DEADLINE_S, GPU_DEADLINE_S, EncoderSession
from engines.shared_runners import SharedRunners, runner_key
from engines.signing import TrustedKeys, verify

BackendChoice = Literal["auto", "openvino", "onnxruntime", "tensorrt"]

MODELS_DIR = Path(__file__).parent / "models"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedEngine:
    """An engine's bytes, whose signature and digests hold."""

    manifest: EngineManifest
    model: bytes
    golden: bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EngineFiles:
    """An engine's three files, each read once; nothing of them is trusted yet."""

    manifest: bytes
    model: bytes
    golden: bytes


def shipped_keys(models_dir: Path = MODELS_DIR) -> TrustedKeys:
    """The keys that lie beside the engines: right for the demo. A deployment names its own. Raises EngineRefused."""
    return read_keys(models_dir)


def read_engine(
    models_dir: Path, name: str, trusted_keys: TrustedKeys, *, now: datetime | None = None
) -> VerifiedEngine:
    """Read and verify one engine; `now` is this moment unless given. Raises EngineRefused."""
    raw = _read(manifest_path(models_dir, name).read_bytes, RefusalCode.MANIFEST_MISSING)
    manifest = verified_manifest(raw, name, trusted_keys, now=now)
    model = _read(lambda: read_model(models_dir, name), RefusalCode.MODEL_MISSING)
    golden_raw = _read(golden_path(models_dir, name).read_bytes, RefusalCode.MODEL_MISSING)
    return _complete(manifest, model, golden_raw)


def verified_engine(
    files: EngineFiles, name: str, trusted_keys: TrustedKeys, *, now: datetime | None = None
) -> VerifiedEngine:
    """Verify an engine's bytes, wherever they came from. Raises EngineRefused."""
    return _complete(verified_manifest(files.manifest, name, trusted_keys, now=now), files.model, files.golden)


def verified_manifest(
    raw: bytes, name: str, trusted_keys: TrustedKeys, *, now: datetime | None = None
) -> EngineManifest:
    """A manifest whose signature holds, that is `name`'s and has not expired. Raises EngineRefused."""
    moment = now or datetime.now(UTC)
    manifest = EngineManifest.from_json(raw, f"{name}.manifest.json")
    verify(trusted_keys, manifest.key_id, manifest.signature, manifest.signed_bytes(), moment)
    if manifest.name != name:
        fix = "keep an engine's three files under the name it was published with"
        raise EngineRefused(RefusalCode.MANIFEST_INVALID, f"{name}'s manifest is {manifest.name}'s", fix)
    release = manifest.release
    if release is not None and release.expires_at is not None and moment >= release.expires_at:
        fix = "publish a new version of it, or the same files with a later end"
        message = f"{name} version {release.version} expired at {release.expires_at:%Y-%m-%d %H:%M} UTC"
        raise EngineRefused(RefusalCode.EXPIRED, message, fix)
    return manifest


def _complete(manifest: EngineManifest, model: bytes, golden_raw: bytes) -> VerifiedEngine:
    _refuse_other(f"{manifest.name}'s graph", model, manifest.onnx_sha256)
    _refuse_other(f"{manifest.name}'s golden outputs", golden_raw, manifest.golden_sha256)
    return VerifiedEngine(manifest=manifest, model=model, golden=golden_raw)


def _read(read: Callable[[], bytes], code: RefusalCode) -> bytes:
    try:
        return read()
    except OSError as error:
        fix = "check the models folder and the encoder's name, or publish the engine there"
        raise EngineRefused(code, f"{error.filename} cannot be read ({error.strerror})", fix) from error


def _refuse_other(what: str, raw: bytes, sha256: str) -> None:
    if (found := sha256_hex(raw)) != sha256:
        fix = "fetch the engine again: this file is not the one that was signed"
        raise EngineRefused(RefusalCode.DIGEST_MISMATCH, f"{what}: SHA-256 {found}, its manifest says {sha256}", fix)


def open_runner(
    engine: VerifiedEngine,
    backend: BackendChoice = "auto",
    threads: int | None = None,
    gpu: Gpu | None = None,
    cpu_plans: PlanFolder | None = None,
) -> Runner:
    """Load, warm and self-test an engine. `auto` takes OpenVINO where it is installed. `gpu` is needed for tensorrt,
    and may serve many runners; OpenVINO keeps what it compiles in `cpu_plans`. Raises EngineRefused."""
    try:
        return _loaded(engine, backend, threads, gpu, cpu_plans)
    except EngineRefused as refusal:
        # a plan that loads and is wrong must not cost more than its compilation
        if cpu_plans is None or refusal.code is not RefusalCode.GOLDEN_MISMATCH:
            raise
        cpu_plans.forget(engine.manifest.onnx_sha256)
    return _loaded(engine, backend, threads, gpu, cpu_plans)


def _loaded(
    engine: VerifiedEngine, backend: BackendChoice, threads: int | None, gpu: Gpu | None, cpu_plans: PlanFolder | None
) -> Runner:
    try:
        return _opened_runner(engine, chosen_backend(backend), threads, gpu, cpu_plans)
    except EngineRefused:
        raise
    except Exception as error:  # each backend has its own tree of errors, and here each means the same
        fix = "build the engine again with this version's tools"
        message = f"{engine.manifest.name} does not load on {chosen_backend(backend)}: {error}"
        raise EngineRefused(RefusalCode.OUTPUTS_UNEXPECTED, message, fix) from error


def _opened_runner(
    engine: VerifiedEngine, backend: Backend, threads: int | None, gpu: Gpu | None, cpu_plans: PlanFolder | None
) -> Runner:
    if backend == "tensorrt":
        if gpu is None:
            fix = "open the runner with a Gpu, as load_session does"
            raise EngineRefused(RefusalCode.BACKEND_UNAVAILABLE, "tensorrt was given no GPU", fix)
        return gpu.runner(engine.model, engine.manifest, engine.golden)
    runner: Runner
    if backend == "openvino":
        runner = OpenVinoRunner(engine.model, engine.manifest, threads, cpu_plans)
    else:
        runner = OnnxRuntimeRunner(engine.model, engine.manifest, threads)
    try:
        golden.self_test(runner, engine.golden)
    except BaseException:
        runner.close()
        raise
    return runner


def chosen_backend(backend: BackendChoice) -> Backend:
    """What `auto` means on this machine."""
    if backend != "auto":
        return backend
    return "openvino" if importlib.util.find_spec("openvino") else "onnxruntime"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """How a session works. Threads default to this process's cores, the deadline to the backend's usual one. TensorRT
    keeps its plans in `plans_dir`, by default among the user's caches; with `cpu_plans` OpenVINO does as well."""

    threads: int | None = None
    decode_threads: int | None = None
    decode_helpers: int = 2
    plans_dir: Path | None = None
    cpu_plans: bool = False
    limits: DecodeLimits | None = None
    reduced_decode: bool = True
    deadline_s: float | None = None
    gpu: GpuOptions = GpuOptions()  # noqa: RUF009 (a frozen value)


def load_session(
    models_dir: Path,
    encoders: Sequence[str],
    backend: BackendChoice,
    trusted_keys: TrustedKeys,
    *,
    threads: int | None = None,
    decode_threads: int | None = None,
    plans_dir: Path | None = None,
) -> EncoderSession:
    """A session over the named encoders of a folder, each verified, warmed and self-tested. Raises EngineRefused."""
    engines = [read_engine(models_dir, name, trusted_keys) for name in dict.fromkeys(encoders)]
    options = SessionOptions(threads=threads, decode_threads=decode_threads, plans_dir=plans_dir)
    return open_session(engines, backend, options)


def open_session(
    engines: Sequence[VerifiedEngine],
    backend: BackendChoice,
    options: SessionOptions | None = None,
    machine: Machine | None = None,
    gpu: Gpu | None = None,
    shared: SharedRunners | None = None,
) -> EncoderSession:
    """A session over verified engines, each warmed and self-tested; `machine` is this one unless given. None is loaded
    before all were found to be for it. A `gpu` that is given stays open when the session closes: the sessions of a
    process share one. On a CPU an engine that another session has open in `shared` is used as it is. Raises
    EngineRefused."""
    chosen = options or SessionOptions()
    for engine in engines:
        refuse_misfit(engine.manifest, machine or this_machine(), chosen_backend(backend))
    sizes = {e.manifest.preprocessing.size for e in engines}
    if len(sizes) != 1:
        fix = "load encoders that look at one size, at least one of them"
        raise EngineRefused(RefusalCode.ENCODER_UNKNOWN, f"encoders of {len(sizes)} sizes: {sorted(sizes)}", fix)
    with ExitStack() as undo:
        if gpu is None and chosen_backend(backend) == "tensorrt":
            gpu = Gpu.opened(chosen.plans_dir, chosen.gpu, chosen.limits)
            undo.callback(gpu.close)
        if gpu is not None:
            _refuse_other_card(engines, gpu.device, machine or this_machine())
        kept = open_cpu_plans(chosen.plans_dir) if gpu is None and chosen.cpu_plans else None
        runners: dict[str, Runner] = {}
        common = (shared or SharedRunners()) if gpu is None else SharedRunners()
        for engine in engines:
            key = runner_key(engine.manifest, chosen_backend(backend))
            opening = partial(open_runner, engine, backend, chosen.threads, gpu, kept)
            runners[engine.manifest.name], leave = common.take(key, opening)
            undo.callback(leave)
        on_device = gpu is not None and gpu.decodes()
        closing = undo.pop_all()
    usual_s = CPU_DEADLINE_S if gpu is None else GPU_DEADLINE_S
    deadline_s, decoder = chosen.deadline_s or usual_s, _decoder(chosen, sizes.pop())
    device = gpu.device if gpu is not None else None
    if not on_device:
        return EncoderSession(runners, decoder, closing, deadline_s=deadline_s, device=device)
    photographs = {name: runner.photographs for name, runner in runners.items() if isinstance(runner, TensorRtRunner)}
    return DeviceSession(runners, photographs, decoder, closing, deadline_s=deadline_s, device=device)


def _refuse_other_card(engines: Sequence[VerifiedEngine], device: Device, machine: Machine) -> None:
    """The GPU that was opened counts: where several differ, CUDA may order them otherwise than the driver's list."""
    major, minor = device.capability
    card = Card(name=device.name, capability=f"{major}.{minor}", memory_bytes=0)
    for engine in engines:
        refuse_misfit(engine.manifest, dataclasses.replace(machine, cards=(card,)), "tensorrt")


def _decoder(options: SessionOptions, size: int) -> PillowDecoder:
    workers = options.decode_threads or len(os.sched_getaffinity(0))
    return PillowDecoder(size, workers, options.limits, options.reduced_decode, helpers=options.decode_helpers)
