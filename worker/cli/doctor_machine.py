"""What `assay doctor` looks at without a network: processor, memory, GPU, libraries and folders."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Final

from engines.catalogue import chosen_backend
from engines.machine import Processor, processor, this_machine
from engines.matrix import Machine, unsupported
from engines.runner import Backend
from worker.cli.findings import Finding, fail, ok, warn
from worker.settings import Settings

GIB: Final = 1 << 30
LEAST_MEMORY: Final = 2 * GIB
LIBRARIES: Final = (
    "confluent-kafka",
    "psycopg",
    "sqlalchemy",
    "redis",
    "pillow",
    "numpy",
    "onnx",
    "openvino",
    "onnxruntime",
    "tensorrt",
)
FAST_INT8: Final = frozenset({"avx_vnni", "avx512_vnni", "amx_int8"})


def machine_findings(settings: Settings) -> Iterator[Finding]:
    """This machine against what the settings ask of it."""
    backend = chosen_backend(settings.engines.backend)
    machine = this_machine()
    yield ok("machine", "python", f"{platform.python_version()} on {platform.system()} {platform.release()}")
    yield of_processor(processor(), backend)
    yield of_memory(_memory_bytes())
    yield from of_gpu(machine, backend)
    yield from of_backend(machine, backend)
    versions = [f"{name} {version}" for name in LIBRARIES if (version := _version(name)) is not None]
    yield ok("libraries", "versions", ", ".join(versions))
    yield from _extras(settings)
    yield from _folders(settings)


def of_processor(found: Processor, backend: Backend) -> Finding:
    """INT8 without its instructions runs, several times slower."""
    told = f"{found.model}, {found.cores} cores, {' '.join(found.sets) or 'none of the INT8 instruction sets'}"
    if backend != "tensorrt" and not FAST_INT8 & set(found.sets):
        return warn(
            "machine", "processor", told, "use a processor with VNNI or AMX: INT8 is several times faster there"
        )
    return ok("machine", "processor", told)


def of_memory(available: int | None) -> Finding:
    if available is None:
        return warn("machine", "memory", "unknown", f"see to it that {LEAST_MEMORY // GIB} GiB are free")
    told = f"{available / GIB:.1f} GiB available"
    if available < LEAST_MEMORY:
        return warn("machine", "memory", told, f"free {LEAST_MEMORY // GIB} GiB, or lower intake.held_bytes")
    return ok("machine", "memory", told)


def of_gpu(machine: Machine, backend: Backend) -> Iterator[Finding]:
    """Needed by tensorrt alone."""
    wanted = backend == "tensorrt"
    for card in machine.cards:
        told = f"{card.name}, compute capability {card.capability}, {card.memory_bytes / GIB:.0f} GiB"
        yield ok("gpu", "card", told)
    if not machine.cards:
        fix = "install an NVIDIA driver and give the process a GPU, or set engines.backend to openvino"
        yield fail("gpu", "card", "none is seen", fix) if wanted else ok("gpu", "card", "none; only tensorrt needs one")
    if machine.cards or wanted:
        driver, cuda = (machine.versions.get(name, "unknown") for name in ("driver", "cuda"))
        yield ok("gpu", "driver", f"driver {driver}, CUDA up to {cuda}")


def of_backend(machine: Machine, backend: Backend) -> Iterator[Finding]:
    """What this build needs of the backend, and the opsets that it reads."""
    faults = unsupported(machine, backend)
    yield from (fail("libraries", backend, fault.message, fault.fix) for fault in faults)
    if not faults:
        version = machine.versions.get(backend, "")
        yield ok("libraries", backend, f"{version} runs the engines; ONNX opsets up to {machine.opset}")


def _extras(settings: Settings) -> Iterator[Finding]:
    """Parts that are installed apart, where a setting asks for them."""
    evidence, place = settings.evidence, settings.engines.registry or ""
    in_s3 = bool(settings.images.s3_buckets) or place.startswith("s3://")
    in_s3 |= evidence.keep != "off" and evidence.root is None
    asked = (
        ("s3", "boto3", in_s3),
        ("otel", "opentelemetry-sdk", settings.observe.otlp_endpoint is not None),
        ("registry", "httpx", settings.kafka.schema_registry_url is not None),
    )
    for extra, package, wanted in asked:
        if not wanted:
            continue
        version = _version(package)
        if version is None:
            fix = f"pip install 'assay-worker[{extra}]'"
            yield fail("libraries", f"extra {extra}", f"a setting needs it, and {package} is not installed", fix)
        else:
            yield ok("libraries", f"extra {extra}", f"{package} {version}")


def _folders(settings: Settings) -> Iterator[Finding]:
    root, kept = settings.images.file_root, settings.evidence.root
    if root is not None:
        fix = "make the folder, or correct images.file_root"
        readable = root.is_dir() and os.access(root, os.R_OK | os.X_OK)
        told = str(root) if readable else f"{root} cannot be read as a folder"
        yield ok("folders", "photographs", told) if readable else fail("folders", "photographs", told, fix)
    if settings.evidence.keep != "off" and kept is not None:
        fix = "let the worker's user write there, or correct evidence.root"
        writable = _writable(kept)
        told = str(kept) if writable else f"{kept} cannot be written"
        yield ok("folders", "evidence", told) if writable else fail("folders", "evidence", told, fix)


def _writable(folder: Path) -> bool:
    """Whether it can be written, or made."""
    there = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def _memory_bytes() -> int | None:
    """What the kernel could give, less where a container's limit is nearer."""
    try:
        told = Path("/proc/meminfo").read_text(encoding="ascii")
        available = int(told.partition("MemAvailable:")[2].split()[0]) * 1024
        limit = Path("/sys/fs/cgroup/memory.max")
        used = Path("/sys/fs/cgroup/memory.current")
        if limit.exists() and (most := limit.read_text(encoding="ascii").strip()).isdecimal():
            available = min(available, int(most) - int(used.read_text(encoding="ascii")))
    except (OSError, ValueError, IndexError):
        return None
    return available


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
