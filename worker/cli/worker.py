"""`assay worker`: run one worker process."""

from __future__ import annotations

from worker.settings import load_settings


def worker() -> None:
    """Take jobs from Kafka and answer them until SIGTERM, then drain what is in flight and exit with 0.

    Everything is set by ASSAY_... variables; docs/operations.md lists them, the exit codes and the metrics.
    """
    from worker.app import run_worker

    run_worker(load_settings())
