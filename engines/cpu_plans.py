"""CPU plans: what OpenVINO compiled, kept so that the next start need not compile it again. Nothing depends on a plan:
where one cannot be kept, read or imported, the graph is compiled as ever."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from engines.errors import EngineRefused
from engines.machine import processor_digest
from engines.manifest import EngineManifest
from engines.plan_files import PlanFolder, PlanHeader, default_folder

_log = logging.getLogger(__name__)


def open_cpu_plans(folder: Path | None) -> PlanFolder | None:
    """The folder of CPU plans, by default among the user's caches; None, and a line in the log, where there can be
    none."""
    try:
        return PlanFolder(folder or default_folder())
    except EngineRefused as fault:
        _log.warning("no CPU plans are kept: %s", fault)
        return None


def cpu_header(manifest: EngineManifest, threads: int) -> PlanHeader:
    """What a compiled model depends on: the graph, what is put before it, OpenVINO's build, processor and threads."""
    rule = manifest.preprocessing
    levels = " ".join(f"{value:g}" for value in (*rule.mean, *rule.std))
    return PlanHeader(
        backend="openvino",
        name=manifest.name,
        onnx_sha256=manifest.onnx_sha256,
        profiles=(1,),
        version=metadata.version("openvino"),
        machine=processor_digest(),
        options=(("levels", levels), ("side", str(rule.size)), ("threads", str(threads))),
    )


def kept_model(core: Any, plans: PlanFolder, header: PlanHeader, settings: Mapping[str, object]) -> Any:
    """The compiled model of a kept plan, or None."""
    try:
        plan = plans.read(header)
        return None if plan is None else core.import_model(io.BytesIO(plan), "CPU", dict(settings))
    except (EngineRefused, OSError, RuntimeError) as fault:
        _log.warning("the CPU plan of %s is not used: %s", header.name, fault)
        return None


def keep_model(compiled: Any, plans: PlanFolder, header: PlanHeader) -> None:
    """Keep what was compiled; a full disk costs the next start its half second."""
    try:
        plans.write(header, compiled.export_model().getvalue())
    except (OSError, RuntimeError) as fault:
        _log.warning("the CPU plan of %s is not kept: %s", header.name, fault)
