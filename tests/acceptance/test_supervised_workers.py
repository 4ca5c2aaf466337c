"""`assay worker --processes 2`: two real workers under one supervisor, of which one is killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from time import monotonic, sleep

from demo.stand import WorkerProcess
from devstack import Addresses
from tests.acceptance.conftest import assert_each_once, jobs
from tests.acceptance.small import small_deployment


def test_every_job_is_answered_once_though_a_worker_is_killed(stack: Addresses, tmp_path: Path) -> None:
    with small_deployment(stack, tmp_path) as deployment:
        stand, sent = deployment.stand, jobs(120)
        environment = {**stand.environment, "ASSAY_KAFKA__INSTANCE": "w", "ASSAY_INTAKE__WINDOW_RECORDS": "4"}
        supervisor = WorkerProcess.start(
            environment, tmp_path / "log", ("-m", "worker.cli.main", "worker", "--processes", "2")
        )
        deployment.workers.append(supervisor)
        deployment.send(sent)
        until = monotonic() + 120.0
        while deployment.number("SELECT count(*) FROM assay.verdicts") < 10:
            assert monotonic() < until, supervisor.log_tail()
            sleep(0.05)
        first, second = children(supervisor.process.pid)
        os.kill(first, signal.SIGKILL)
        results = deployment.read("results", 120)
        assert_each_once(results, sent)
        assert second in children(supervisor.process.pid)
        assert supervisor.stop() == 0, supervisor.log_tail()
        told = supervisor.log.read_text()
        assert told.count('"process_started"') == 3
        assert told.count('"worker_stopped"') == 2


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
