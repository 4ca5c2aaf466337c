"""Compiles an engine for the CPU in a process of its own, on cores that nothing else wants, and keeps the plan. What
ends that process would have ended the worker."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from engines.cpu_plans import cpu_header
from engines.errors import EngineRefused, RefusalCode
from engines.lesser_process import lessen, yield_cores
from engines.manifest import EngineManifest
from engines.openvino_runner import OpenVinoRunner
from engines.plan_files import PlanFolder
from engines.sandbox import bare_environment

_NICE: Final = 10  # a tenth of the share of what answers jobs, where it may not be less
_LONGEST_S: Final = 600.0  # of a machine whose cores are all wanted; then the graph is compiled where it is used
_LOOK_S: Final = 0.1
_log = logging.getLogger(__name__)


def compile_apart(
    model: bytes, manifest: EngineManifest, threads: int, plans: PlanFolder, stopped: Callable[[float], bool]
) -> bool:
    """See that the plan of a verified graph lies in `plans`; False where there is none all the same, as on a machine
    without room for one more process. `stopped` waits for so many seconds and says whether nobody wants it any more;
    that leaves no plan either.

    Raises EngineRefused (outputs_unexpected) where a signal ended the process.
    """
    if _is_kept(plans, manifest, threads):
        return True
    try:
        process = _started(manifest.to_json() + model, str(plans.folder), str(threads))
    except OSError as fault:
        _log.warning("%s is compiled beside jobs: no process of its own can be started: %s", manifest.name, fault)
        return False
    status = _waited(process, stopped)
    if status is not None and status < 0:
        message = f"{manifest.name} does not load: compiling it ended a process with signal {-status}"
        fix = "build the engine again with this version's tools; where the signal is 9, give the worker more memory"
        raise EngineRefused(RefusalCode.OUTPUTS_UNEXPECTED, message, fix)
    return _is_kept(plans, manifest, threads)


def _started(given: bytes, *arguments: str) -> subprocess.Popen[bytes]:
    """`main` in a process that reads `given`. Raises OSError."""
    with tempfile.TemporaryFile() as file:
        file.write(given)
        file.seek(0)
        return subprocess.Popen(  # noqa: S603 (our own interpreter and module)
            [sys.executable, "-P", "-s", "-m", __name__, *arguments],
            stdin=file,
            stdout=subprocess.DEVNULL,
            env=bare_environment(),
            process_group=0,  # not a session: Linux may share the cores among sessions before it looks at who yields
        )


def _waited(process: subprocess.Popen[bytes], stopped: Callable[[float], bool]) -> int | None:
    """The exit status; None where it was not waited for to the end."""
    for _ in range(int(_LONGEST_S / _LOOK_S)):
        if process.poll() is not None:
            return process.returncode
        if stopped(_LOOK_S):
            break
    process.kill()
    process.wait()
    return None


def _is_kept(plans: PlanFolder, manifest: EngineManifest, threads: int) -> bool:
    with contextlib.suppress(EngineRefused, OSError):  # another machine's plan lies there, or one that is going
        return plans.read(cpu_header(manifest, threads)) is not None
    return False


def main(folder: str, threads: str) -> None:
    """In the process of its own: a manifest's line on standard input, then its graph."""
    lessen(_NICE)
    yield_cores()
    manifest = EngineManifest.from_json(sys.stdin.buffer.readline(), "the given manifest")
    OpenVinoRunner(sys.stdin.buffer.read(), manifest, int(threads), PlanFolder(Path(folder)))


if __name__ == "__main__":
    main(*sys.argv[1:])
