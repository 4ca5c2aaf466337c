"""The GPU and the code that a figure belongs to."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.host import ROOT, commit, cpu_model

MEASURED = ("worker", "engines", "schemas", "benchmarks")
QUERY = ("name", "uuid", "driver_version", "memory.total", "memory.used", "clocks.sm", "clocks.mem", "temperature.gpu",
         "power.draw", "utilization.gpu", "utilization.decoder")  # fmt: skip
PACKAGES = ("torch", "torchvision", "timm", "tensorrt-cu12-bindings", "tensorrt", "nvidia-nvimgcodec-cu13", "pycuda",
            "onnx", "onnxruntime", "numpy", "pillow", "confluent-kafka", "psycopg")  # fmt: skip


def facts() -> dict[str, object]:
    """For whoever repeats a measurement."""
    found: dict[str, object] = {
        "commit": commit(),
        "digest": source_digest(),
        "CPU": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "GPUs": gpus(),
    }
    return found | {name: known for name in PACKAGES if (known := _version(name))}


def gpus(fields: Sequence[str] = QUERY) -> list[dict[str, str]]:
    """What the driver tells of each GPU that this process may see; none where there is no driver."""
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    if seen := os.environ.get("CUDA_VISIBLE_DEVICES"):
        command.append(f"--id={seen}")
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [line.split(", ") for line in told.splitlines() if line.strip()]
    return [dict(zip(fields, row, strict=True)) for row in rows if len(row) == len(fields)]


def memory_used_mb() -> float:
    """Of the first GPU, by all processes; 0 without one."""
    found = gpus(("memory.used",))
    return float(found[0]["memory.used"]) if found else 0.0


def source_digest() -> str:
    """SHA-256 over the sources whose figures may be put together."""
    digest = hashlib.sha256()
    for folder in MEASURED:
        for path in sorted((ROOT / folder).rglob("*.py")) + sorted((ROOT / folder).rglob("*.cu")):
            digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def library_sizes_mb() -> dict[str, float]:
    """Shared libraries of TensorRT where this process finds them, builder apart."""
    folders = [Path(p) for p in os.environ.get("LD_LIBRARY_PATH", "").split(":") if p]
    for package in ("tensorrt_libs", "tensorrt"):
        spec = importlib.util.find_spec(package)
        folders += [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    found: dict[str, float] = {}
    for folder in folders:
        for path in folder.glob("libnv*infer*.so*"):
            found.setdefault(path.name.split(".so")[0], round(path.stat().st_size / 1e6, 1))
    return found


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
