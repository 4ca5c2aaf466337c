"""The ledger as it is deployed: a worker, a sealer with its own login and key, an auditor, an eraser, real topics."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import monotonic, sleep

import pytest
from sqlalchemy import make_url
from typer.testing import CliRunner, Result

from demo.stand import WorkerProcess
from migrations.roles import set_role_password
from schemas import headers as names
from schemas.envelope import header
from tests.acceptance.conftest import Deployment, jobs
from worker.cli.main import app
from worker.core.ledger import read_head

DEADLINE_S = 120.0


class Audited:
    """A deployment with the ledger's roles and keys."""

    def __init__(self, deployment: Deployment, folder: Path) -> None:
        self.deployment = deployment
        self.folder = folder
        self._environment = {**deployment.stand.environment, "ASSAY_AUDIT__INTERVAL_S": "0.2"}
        self.processes: list[subprocess.Popen[bytes]] = []
        self.run("audit", "keygen", str(folder / "seal.key"), str(folder / "seal.pub"))
        self._environment["ASSAY_AUDIT__PUBLIC_KEYS"] = json.dumps([str(folder / "seal.pub")])

    def login(self, role: str, **settings: str) -> dict[str, str]:
        password = secrets.token_urlsafe(18)
        set_role_password(self.deployment.stand.owner_url, role, password)
        url = make_url(self.deployment.stand.owner_url).set(username=role, password=password)
        text = url.render_as_string(hide_password=False)
        return {**self._environment, "ASSAY_DATABASE__URL": text, **settings}

    def run(self, *arguments: str, env: Mapping[str, str] | None = None) -> Result:
        """A command, in this process: to start one takes seconds."""
        return CliRunner().invoke(app, arguments, env=dict(env or self._environment))

    def sealer(self) -> WorkerProcess:
        log = self.folder / "sealer.log"
        skip = log.stat().st_size if log.exists() else 0
        env = self.login("assay_sealer", ASSAY_AUDIT__KEY_FILE=str(self.folder / "seal.key"))
        with log.open("ab") as out:
            command = [sys.executable, "-m", "worker.cli.main", "audit", "seal", "--watch"]
            process = subprocess.Popen(command, env=env, stdout=out, stderr=out, start_new_session=True)
        self.processes.append(process)
        return WorkerProcess(process=process, log=log, skip=skip)

    def wait_sealed(self) -> None:
        until = monotonic() + DEADLINE_S
        waiting = "SELECT (SELECT count(*) FROM assay.audit_pending)"
        waiting += " + (SELECT count(*) FROM assay.audit_blocks WHERE published_at IS NULL)"
        while self.deployment.rows(waiting) != [(0,)]:
            assert monotonic() < until, "the sealer did not seal"
            sleep(0.1)

    def verify(self, *options: str) -> tuple[int, str]:
        done = self.run("audit", "verify", *options, env=self.login("assay_auditor", ASSAY_AUDIT__GRACE_S="0"))
        return done.exit_code, done.stdout + done.stderr


@pytest.fixture
def audited(deployment: Deployment, tmp_path: Path) -> Iterator[Audited]:
    made = Audited(deployment, tmp_path)
    yield made
    for process in made.processes:
        process.kill()
        process.wait()


@pytest.mark.timeout(600)
def test_verdicts_are_sealed_verified_and_erased(audited: Audited) -> None:
    deployment = audited.deployment
    sent = jobs(3)
    deployment.worker("worker-1", ready=False)
    sealer = audited.sealer()
    deployment.send(sent[:2])
    deployment.read("results", 2, more_s=0.0)
    audited.wait_sealed()
    (*_, last) = deployment.read("audit", 1, more_s=0.5)
    assert (last.key, read_head(last.value).head.tenant) == (b"demo", "demo")
    code, told = audited.verify()
    assert (code, "2 verdicts" in told, "the chain verifies" in told) == (0, True, True), told

    sealer.kill()  # the next one goes on where this one fell
    audited.sealer()
    saved = audited.folder / "heads.jsonl"
    assert audited.run("audit", "head", "--out", str(saved)).exit_code == 0

    eraser = audited.login("assay_eraser")
    erase = ("erase", "--tenant", "demo", "--job-id", sent[0].job_id, "--by", "ada", "--why", "request 17")
    assert "Nothing was erased" in audited.run(*erase, env=eraser).stderr
    done = audited.run(*erase, "--yes", "--json", env=eraser)
    assert json.loads(done.stdout)["verdicts"] == 1, done.stderr
    deployment.send([sent[0], sent[2]])
    (letter,) = deployment.read("jobs.dlq", 1, more_s=0.0)
    assert (header(letter.headers, names.ERROR_CODE), letter.key, letter.value) == ("erased", sent[0].key, b"")
    deployment.read("results", 3, more_s=0.0)
    audited.wait_sealed()
    assert audited.verify("--head", str(saved))[0] == 0
    code, told = audited.verify()
    assert (code, "1 erased" in told) == (0, True), told

    deployment.rows("UPDATE assay.verdicts SET verdict = 'authentic' RETURNING 1")
    code, told = audited.verify("--json")
    assert code == 1
    assert all("verdict is 'authentic', its event says" in json.loads(line)["what"] for line in told.splitlines()[:2])
