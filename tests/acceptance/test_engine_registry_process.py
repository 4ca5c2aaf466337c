"""A real worker that takes its engines from the registry: the current one, the promoted one after a restart, none that
was tampered with; and `assay doctor` on the same deployment."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from demo.stand import CommandFailed
from devstack import Addresses
from engines.publish import publish, seeded_engine
from tests.acceptance.conftest import Deployment, jobs
from tests.acceptance.small import small_deployment

NAME = "resnet18"
DID = ("--by", "ada", "--why", "a test")


@pytest.fixture
def registered(stack: Addresses, tmp_path: Path) -> Iterator[Deployment]:
    """A deployment with a registry and no engine in it."""
    keys = tmp_path / "keys"
    keys.mkdir()
    settings = {"ASSAY_ENGINES__REGISTRY": str(tmp_path / "registry"), "ASSAY_ENGINES__KEYS_DIR": str(keys)}
    with small_deployment(stack, tmp_path, models=False, **settings) as made:
        made.stand.assay("engine", "keygen", str(tmp_path / "private.pem"), str(keys / "own.pub"))
        yield made


def serve(deployment: Deployment, folder: Path, seed: int) -> str:
    """Publish an engine, verify and promote it; returns its id."""
    publish(seeded_engine(NAME, seed, image_size=64), folder / f"made-{seed}", Ed25519PrivateKey.generate())
    stand = deployment.stand

    def assay(*arguments: str) -> str:
        return stand.assay("engine", *arguments, *DID, env=stand.curator)

    made = str(folder / f"made-{seed}")
    told = json.loads(assay("publish", made, NAME, "--key", str(folder / "private.pem"), "--json"))
    assay("verify", NAME)
    assay("promote", NAME)
    return str(told["id"])


def chosen(log: str) -> list[tuple[int, str]]:
    lines = [json.loads(line) for line in log.splitlines() if '"engine_chosen"' in line]
    return [(line["version"], line["engine"]) for line in lines]


def doctor(deployment: Deployment, *arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    command = [sys.executable, "-m", "worker.cli.main", "doctor", "--json", *arguments]
    done = subprocess.run(command, env=dict(deployment.stand.environment), capture_output=True, text=True)
    told = json.loads(done.stdout)
    assert told["can_run"] == (done.returncode == 0)
    return done.returncode, {f"{one['area']}/{one['what']}": one for one in told["findings"]}


def test_a_worker_serves_what_is_current(registered: Deployment, tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="ended with 78"):
        registered.worker("w0")
    assert "not_published" in registered.workers[-1].log_tail()

    first = serve(registered, tmp_path, 1)
    code, found = doctor(registered, "--load")
    assert code == 0, found
    assert found[f"engines/{NAME}"]["state"] == "ok"
    assert "version 1 for any" in found[f"engines/{NAME}"]["found"]
    assert found["engines/self-test"]["state"] == "ok"
    assert {found[f"kafka/{what}"]["state"] for what in ("brokers", "topics")} == {"ok"}
    assert {found[f"postgres/{what}"]["state"] for what in ("revision", "role", "partitions")} == {"ok"}
    assert found[f"postgres/calibration of {NAME}"]["state"] == "warn"

    worker = registered.worker("w1")
    assert chosen(worker.log_tail()) == [(1, first)]
    registered.send(jobs(2))
    assert len(registered.read("results", 2, more_s=0.0)) == 2
    second = serve(registered, tmp_path, 2)
    assert worker.stop() == 0

    worker = registered.worker("w1")
    assert chosen(worker.log_tail()) == [(2, second)]
    assert worker.stop() == 0

    model = tmp_path / "registry" / second / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1])
    with pytest.raises(CommandFailed, match="ended with 78"):
        registered.worker("w2")
    assert "digest_mismatch" in registered.workers[-1].log_tail()
    code, found = doctor(registered)
    assert (code, found[f"engines/{tmp_path / 'registry'}"]["state"]) == (1, "fail")

    registered.stand.assay("engine", "rollback", NAME, *DID, env=registered.stand.curator)
    worker = registered.worker("w3")
    assert chosen(worker.log_tail()) == [(1, first)]
    assert worker.stop() == 0
