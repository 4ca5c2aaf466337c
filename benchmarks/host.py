"""The machine and the code a figure belongs to."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("numpy", "pillow", "openvino", "onnxruntime", "confluent-kafka", "psycopg")


def host_facts() -> dict[str, object]:
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "CPU": cpu_model(),
        "INT8 instructions": int8_instructions(),
        "cores": len(os.sched_getaffinity(0)),
        "memory, GB": round(psutil.virtual_memory().total / 1e9, 1),
        "load before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def cpu_model() -> str:
    return _cpu_line("model name") or platform.processor()


def int8_instructions() -> list[str]:
    """Those that decide how much faster INT8 is than FP32 here."""
    flags = set(_cpu_line("flags").split())
    return [name for name in ("avx2", "avx_vnni", "avx512_vnni", "amx_int8", "amx_bf16") if name in flags]


def _cpu_line(name: str) -> str:
    """The first core's entry `name` of /proc/cpuinfo; '' where there is none."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def commit() -> str:
    """The commit, marked where the tree differs from it; 'unknown' outside a repository."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        return f"{head} with changes" if _git("status", "--porcelain", "--untracked-files=no") else head
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    done = subprocess.run(("git", *arguments), cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()
