"""A real worker that starts with engines from the registry: the current one, the one before where that was tampered
with, none where both were; and `assay doctor` on the same deployment."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.stand import CommandFailed
from devstack import Addresses
from tests.acceptance.conftest import Deployment, jobs
from tests.acceptance.registered import NAME, Registered, registered_deployment


@pytest.fixture
def registry(stack: Addresses, tmp_path: Path) -> Iterator[Registered]:
    with registered_deployment(stack, tmp_path) as made:
        yield made


def chosen(log: str) -> list[tuple[int, str]]:
    lines = [json.loads(line) for line in log.splitlines() if '"engine_chosen"' in line]
    return [(line["version"], line["engine"]) for line in lines]


def doctor(deployment: Deployment, *arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    command = [sys.executable, "-m", "worker.cli.main", "doctor", "--json", *arguments]
    done = subprocess.run(command, env=dict(deployment.stand.environment), capture_output=True, text=True)
    told = json.loads(done.stdout)
    assert told["can_run"] == (done.returncode == 0)
    return done.returncode, {f"{one['area']}/{one['what']}": one for one in told["findings"]}


def test_a_worker_serves_what_is_current(registry: Registered) -> None:
    deployment = registry.deployment
    with pytest.raises(CommandFailed, match="ended with 78"):
        deployment.worker("w0")
    assert "not_published" in deployment.workers[-1].log_tail()

    first = registry.serve(1)
    code, found = doctor(deployment, "--load")
    assert code == 0, found
    assert found[f"engines/{NAME}"]["state"] == "ok"
    assert "version 1 for any" in found[f"engines/{NAME}"]["found"]
    assert found["engines/self-test"]["state"] == "ok"
    assert {found[f"kafka/{what}"]["state"] for what in ("brokers", "topics")} == {"ok"}
    assert {found[f"postgres/{what}"]["state"] for what in ("revision", "role", "partitions")} == {"ok"}
    assert found[f"postgres/calibration of {NAME}"]["state"] == "warn"

    worker = deployment.worker("w1")
    assert chosen(worker.log_tail()) == [(1, first)]
    deployment.send(jobs(2))
    assert len(deployment.read("results", 2, more_s=0.0)) == 2
    assert worker.stop() == 0
    second = registry.serve(2)

    worker = deployment.worker("w1")
    assert chosen(worker.log_tail()) == [(2, second)]
    assert worker.stop() == 0

    model = registry.model(second)
    model.write_bytes(model.read_bytes()[:-1])
    worker = deployment.worker("w2")  # with what was current before, and says so
    assert chosen(worker.log_tail()) == [(1, first)]
    assert "digest_mismatch" in worker.log_tail()
    assert "assay_degraded 1.0" in worker.get("/metrics")
    assert worker.stop() == 0
    model = registry.model(first)
    model.write_bytes(model.read_bytes()[:-1])
    with pytest.raises(CommandFailed, match="ended with 78"):
        deployment.worker("w3")
    assert "digest_mismatch" in deployment.workers[-1].log_tail()
    code, found = doctor(deployment)
    assert (code, found[f"engines/{registry.folder / 'registry'}"]["state"]) == (1, "fail")
