"""Looks at this machine: libraries, processor, GPUs and their driver. Loads no backend and makes no CUDA context."""

from __future__ import annotations

import csv
import ctypes
import dataclasses
import hashlib
import os
import platform
import re
import shutil
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Final

from engines.matrix import Card, Machine

_PACKAGES: Final = ("onnx", "onnxruntime", "openvino", "pycuda", "tensorrt")
_DRIVER = re.compile(r"NVRM version:.*?(\d+\.\d+(?:\.\d+)?)")
_DRIVER_FILE: Final = Path("/proc/driver/nvidia/version")
_CPU_FILE: Final = Path("/proc/cpuinfo")
_QUERY: Final = "driver_version,name,compute_cap,memory.total"
_MIB: Final = 1024 * 1024
_CODE_FOR: Final = ("vendor_id", "cpu family", "model", "flags", "CPU part", "Features")
# What makes INT8 fast, from the plainest to the best.
INT8_SETS: Final = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Processor:
    """`cores` are those that this process may use; `sets` the instruction sets of INT8_SETS that it has."""

    model: str
    cores: int
    sets: tuple[str, ...]


@cache
def this_machine() -> Machine:
    """What there is, looked up once a process: none of it changes while one runs."""
    from onnx.defs import onnx_opset_version

    versions = {name: found for name in _PACKAGES if (found := _installed(name)) is not None}
    driver, cards = _cards()
    if (driver := driver or _driver(_DRIVER_FILE)) is not None:
        versions["driver"] = driver
    if (cuda := _cuda()) is not None:
        versions["cuda"] = cuda
    return Machine(versions=versions, opset=int(onnx_opset_version()), cards=cards)


def made_with(machine: Machine) -> tuple[tuple[str, str], ...]:
    """What a manifest records of the machine that signed it."""
    cards = [("gpu", f"{machine.cards[0].name} ({machine.cards[0].capability})")] if machine.cards else []
    return tuple(sorted([*machine.versions.items(), *cards]))


def processor(cpuinfo: Path = _CPU_FILE) -> Processor:
    """This machine's processor; a field that the kernel does not tell is empty."""
    try:
        told = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        told = ""
    fields = dict(re.findall(r"^([\w ]+?)\s*:\s*(.+)$", told, re.MULTILINE))
    flags = set(fields.get("flags", "").split())
    return Processor(
        model=fields.get("model name", "unknown"),
        cores=len(os.sched_getaffinity(0)),
        sets=tuple(name for name in INT8_SETS if name in flags),
    )


@cache
def processor_digest(cpuinfo: Path = _CPU_FILE) -> str:
    """What compiled code depends on: the kind of processor and every instruction set that it has."""
    try:
        told = cpuinfo.read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
    except OSError:
        told = ""
    kept = [line for line in told.splitlines() if line.startswith(_CODE_FOR)]
    return f"{platform.machine()}-{hashlib.sha256(chr(10).join(kept).encode()).hexdigest()[:16]}"


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cards() -> tuple[str | None, tuple[Card, ...]]:
    """The driver's version and the GPUs that this process would see, in CUDA's order."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None, ()
    command = [program, f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)  # noqa: S603 # fixed
    except (OSError, subprocess.SubprocessError):
        return None, ()
    return parsed_cards(done.stdout, os.environ.get("CUDA_VISIBLE_DEVICES"))


def parsed_cards(listing: str, visible: str | None) -> tuple[str | None, tuple[Card, ...]]:
    """From nvidia-smi's lines; `visible` is CUDA_VISIBLE_DEVICES, which may choose and order GPUs by number. GPUs named
    otherwise (UUIDs, MIG) keep the driver's order."""
    rows = [row for row in csv.reader(listing.splitlines(), skipinitialspace=True) if len(row) == 4]
    cards = [Card(name=row[1], capability=row[2], memory_bytes=_bytes(row[3])) for row in rows]
    driver = rows[0][0] if rows else None
    if visible is None or not re.fullmatch(r"\s*(-?\d+\s*(,\s*-?\d+\s*)*)?", visible):
        return driver, tuple(cards)
    chosen = []
    for number in (int(part) for part in visible.split(",") if part.strip()):
        if not 0 <= number < len(cards):
            break  # as CUDA does: what comes after a wrong number is not seen
        chosen.append(cards[number])
    return driver, tuple(chosen)


def _bytes(mebibytes: str) -> int:
    return int(mebibytes) * _MIB if mebibytes.isdecimal() else 0


def _driver(path: Path) -> str | None:
    try:
        found = _DRIVER.search(path.read_text(encoding="utf-8"))
    except OSError:
        return None
    return found[1] if found else None


def _cuda() -> str | None:
    """The newest CUDA that the driver runs."""
    version = ctypes.c_int()
    try:
        library = ctypes.CDLL("libcuda.so.1")
        if library.cuDriverGetVersion(ctypes.byref(version)) != 0:
            return None
    except (OSError, AttributeError):
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}"
