"""`assay worker`: run one worker process, or one or more a GPU under a supervisor."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Final

import typer

from worker.errors import ConfigurationError
from worker.settings import Settings, load_settings
from worker.supervise import Share, Supervisor, cpu_shares, shares, start_process

_ONE_WORKER: Final = (sys.executable, "-m", "worker.cli.main", "worker")


def worker(
    gpus: Annotated[
        str | None, typer.Option(help="One process a GPU: all, a count, or numbers such as 0,2 (3, for that one).")
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(min=1, help="As many processes on each GPU, or without --gpus on the CPU."),
    ] = None,
) -> None:
    """Take jobs from Kafka and answer them until SIGTERM, then drain what is in flight and exit with 0.

    With --gpus or --processes: start that many, start again what ends, and drain all together.
    Everything is set by ASSAY_... variables; docs/operations.md lists them, the exit codes and the metrics.
    """
    settings = load_settings()
    if gpus is not None or processes is not None:
        sys.exit(_supervise(settings, _shares(settings, gpus, processes)))
    from worker.app import run_worker

    run_worker(settings)


def _supervise(settings: Settings, among: Sequence[Share]) -> int:
    from worker.observe import configure_logs

    configure_logs(level=settings.observe.log_level, form=settings.observe.log_format)
    drain_s = settings.drain_deadline_s
    return Supervisor(shares=among, spawn=partial(start_process, _ONE_WORKER), drain_s=drain_s).run()


def _shares(settings: Settings, gpus: str | None, processes: int | None) -> list[Share]:
    cores = len(os.sched_getaffinity(0))
    if gpus is not None:
        return shares(settings, _gpus(gpus), cores, processes or 1)
    return cpu_shares(settings, processes or 1, cores)


def _gpus(wanted: str) -> list[str]:
    """As CUDA_VISIBLE_DEVICES names them. Raises ConfigurationError."""
    from engines.errors import EngineRefused
    from engines.gpu.listing import chosen_gpus, visible_gpus

    try:
        return chosen_gpus(wanted, visible_gpus(os.environ))
    except EngineRefused as refusal:
        raise ConfigurationError(str(refusal)) from refusal
    except ValueError as error:
        raise ConfigurationError(
            f"--gpus {wanted!r} names no GPUs: write all, a count such as 2, or numbers such as 0,2"
        ) from error
