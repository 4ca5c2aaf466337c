"""What `assay doctor` looks at in the plans: whether this machine's lie ready, and for what others were built."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from engines.catalogue import VerifiedEngine, chosen_backend
from engines.cpu_plans import cpu_header
from engines.errors import EngineRefused
from engines.machine import this_machine
from engines.manifest import EngineManifest
from engines.matrix import Machine
from engines.plan_files import REBUILD, PlanFolder, PlanHeader, default_folder, profiles_of
from engines.runner import Backend
from worker.cli.findings import Finding, fail, ok, warn
from worker.settings import Settings


def plan_findings(settings: Settings, engines: Sequence[VerifiedEngine]) -> Iterator[Finding]:
    """Of the backends that keep plans; the folder is only read."""
    backend = chosen_backend(settings.engines.backend)
    if backend == "onnxruntime":
        return
    try:
        headers = _headers(settings.engines.plans_dir or default_folder())
        threads = settings.engines.inference_threads or len(os.sched_getaffinity(0))
        for engine in engines:
            wanted = wanted_header(engine.manifest, backend, this_machine(), threads)
            if wanted is not None:
                yield of_plan(wanted, headers)
    except EngineRefused as refusal:
        told, _, fix = str(refusal).partition(". Fix: ")
        yield fail("plans", "folder", told, fix) if backend == "tensorrt" else warn("plans", "folder", told, fix)
    except OSError as error:
        yield warn("plans", "folder", f"cannot be read: {error}", "set engines.plans_dir to a folder of this user's")


def of_plan(wanted: PlanHeader, headers: Sequence[PlanHeader]) -> Finding:
    """One engine's plan among all that lie there."""
    alike = {h.told for h in headers if (h.backend, h.onnx_sha256) == (wanted.backend, wanted.onnx_sha256)}
    major = replace(wanted, version=wanted.version.partition(".")[0])  # as version-compatible plans are told
    if alike & {wanted.told, major.told}:
        return ok("plans", wanted.name, f"ready for {wanted.told}")
    others = f", only for {'; '.join(sorted(alike))}" if alike else ""
    told = f"none for {wanted.told}{others}"
    if wanted.backend == "openvino":
        return ok("plans", wanted.name, f"{told}: the next start makes it")
    return warn("plans", wanted.name, f"{told}: the next start builds it, for a minute or more", REBUILD)


def wanted_header(manifest: EngineManifest, backend: Backend, machine: Machine, threads: int) -> PlanHeader | None:
    """What a plan must be for here, whichever rewrite it is of; None where the backend is not there, which is told
    already."""
    if backend == "openvino":
        return cpu_header(manifest, threads) if "openvino" in machine.versions else None
    if backend != "tensorrt" or "tensorrt" not in machine.versions or not machine.cards:
        return None
    return PlanHeader(
        backend=backend,
        name=manifest.name,
        onnx_sha256=manifest.onnx_sha256,
        profiles=profiles_of(manifest),
        version=machine.versions["tensorrt"],
        machine=machine.cards[0].capability,
    )


def _headers(folder: Path) -> list[PlanHeader]:
    return list(PlanFolder(folder).headers()) if folder.exists() else []
