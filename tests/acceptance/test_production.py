"""F20: no secret is ever said. Canary strings stand in every secret and in what senders may hide secrets in, and are
looked for in all that a worker and the commands write, serve, publish and store beside the message itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from time import monotonic, sleep

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import make_url

from demo.stand import WorkerProcess
from engines.publish import seeded_model
from migrations.roles import set_role_password
from schemas.codec import encode_job, header
from schemas.message import OutputRecord
from tests.acceptance.conftest import Deployment, jobs

CANARY = "c4n4ry"  # each secret holds it, with a tail of its own
DATABASE, REDIS, MAC, SASL = (f"{CANARY}-{name}-{'x' * 16}" for name in ("database", "redis", "mac", "sasl"))
SIGNED = f"https://photographs.invalid/1.jpg?X-Amz-Credential={CANARY}-url&X-Amz-Signature={CANARY}-signature"
BEARER = f"Bearer {CANARY}-token"
WHY = ["malformed_payload", "no_usable_view", "no_usable_view", "retries_exhausted"]
SMALL = {"ASSAY_ENGINES__ENCODERS": "{}", "ASSAY_KAFKA__PARTITIONS": "1", "ASSAY_OBSERVE__LOG_LEVEL": "debug"}


class Collector(BaseHTTPRequestHandler):
    """An OpenTelemetry collector that keeps what it is sent."""

    def do_POST(self) -> None:
        received: list[bytes] = self.server.received  # type: ignore[attr-defined]
        received.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def collector() -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), Collector)
    server.received = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, name="collector")
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def environment(deployment: Deployment, tmp_path: Path) -> dict[str, str]:
    """A small deployment's environment whose secrets lie in files, each of them a canary."""
    seeded_model(tmp_path / "models", "resnet18", 1, Ed25519PrivateKey.generate(), image_size=64)
    stand = deployment.stand
    set_role_password(stand.owner_url, "assay_worker", DATABASE)
    url = make_url(stand.environment["ASSAY_DATABASE__URL"]).set(password=DATABASE)
    secrets = {
        "ASSAY_DATABASE__URL": url.render_as_string(hide_password=False),
        "ASSAY_REDIS__URL": f"redis://:{REDIS}@127.0.0.1:1/0",  # nobody listens: every use of it fails
        "ASSAY_REDIS__MAC_KEY": MAC,
        "ASSAY_KAFKA__SASL_PASSWORD": SASL,
    }
    folder = tmp_path / "secrets"
    folder.mkdir()
    for name, value in secrets.items():
        (folder / name).write_text(f"{value}\n")
    plain = {name: value for name, value in stand.environment.items() if name not in secrets}
    models = {"ASSAY_ENGINES__MODELS_DIR": str(tmp_path / "models"), "ASSAY_SECRETS_DIR": str(folder)}
    return {**plain, **SMALL, **models, "ASSAY_REDIS__CACHE": "true"}


def test_a_worker_and_its_commands_never_say_a_secret(
    deployment: Deployment, environment: dict[str, str], collector: HTTPServer
) -> None:
    said = Said()
    images = {"ASSAY_IMAGES__HTTPS_HOSTS": '["photographs.invalid"]', "ASSAY_IMAGES__ATTEMPTS": "1"}
    traces = {"ASSAY_OBSERVE__OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}/v1/traces"}
    log = deployment.stand.folder / "worker.log"
    worker = WorkerProcess.start({**environment, **images, **traces, "ASSAY_KAFKA__INSTANCE": "w1"}, log)
    deployment.workers.append(worker)
    worker.wait_ready()
    deployment.send(jobs(2))
    deployment.send_raw(refused_jobs(deployment.topic("jobs")))
    assert len(deployment.read("results", 2, more_s=0.0)) == 2
    letters = deployment.read("jobs.dlq", 4, more_s=0.0)
    assert sorted(header(letter.headers, "assay.errors.code") or "" for letter in letters) == WHY
    worker.process.send_signal(signal.SIGUSR2)
    for page in ("/livez", "/readyz", "/metrics"):
        said.hear(page, worker.get(page))
    for letter in letters:
        said.hear("a dead letter's headers", repr(letter.headers))
    said.hear("dead_letters", repr(deployment.rows("SELECT code, stage, detail FROM assay.dead_letters")))
    say_commands(said, environment)
    assert worker.stop() == 0
    said.hear("the log", log.read_text())
    assert "Thread" in log.read_text(), "SIGUSR2 dumped nothing"
    assert collector.received, "no trace was exported"  # type: ignore[attr-defined]
    said.hear("the traces", repr(collector.received))  # type: ignore[attr-defined]
    said.nothing_secret()


def test_who_cannot_connect_says_no_secret_either(deployment: Deployment, environment: dict[str, str]) -> None:
    said = Said()
    sasl = {
        "ASSAY_KAFKA__SECURITY_PROTOCOL": "SASL_PLAINTEXT",  # the devstack's listener takes no password
        "ASSAY_KAFKA__SASL_MECHANISM": "PLAIN",
        "ASSAY_KAFKA__SASL_USERNAME": "assay",
    }
    lost = {**environment, **sasl, "ASSAY_DATABASE__URL": f"postgresql+psycopg://assay_worker:{DATABASE}@127.0.0.1:1/a"}
    log = deployment.stand.folder / "lost.log"
    worker = WorkerProcess.start(lost, log)
    deployment.workers.append(worker)
    wait_for(lambda: "kafka_client_error" in log.read_text() or worker.process.poll() is not None)
    say_commands(said, lost, expect_failure=True)
    wrong = {
        **environment,
        "ASSAY_DATABASE__URL": f"postgresql+psycopg://assay_worker:{CANARY}-old@{place(deployment)}",
    }
    said.hear("a wrong password", assay(wrong, "results", "list")[1])
    production = {**lost, "ASSAY_MODE": "production"}
    code, told = assay(production, "worker")
    assert code == 78
    assert "production refuses plaintext Kafka" in told
    said.hear("the refusal of production", told)
    worker.process.send_signal(signal.SIGUSR2)
    worker.process.terminate()
    worker.process.wait(60)
    said.hear("the log", log.read_text())
    said.nothing_secret()


def refused_jobs(topic: str) -> list[OutputRecord]:
    """What ends as a dead letter, with secrets where a careless message would repeat them."""
    (plain,) = jobs(1)
    places = {
        "signed": SIGNED,
        "basic": f"https://user:{CANARY}-basic@photographs.invalid/1.jpg",
        "where": f"s3://bucket/1.jpg?token={CANARY}-s3",
        "broken": SIGNED,
    }
    records = []
    for name, uri in places.items():
        view = replace(plain.views[0], data=None, uri=uri)
        job = replace(plain, job_id=name, views=(view,), labels={"authorization": BEARER})
        sent = encode_job(job, encoding="json", source="test")
        value = (
            sent.value.replace(b'"category":"bag"', f'"category":["{BEARER}"]'.encode()) if name == "broken" else None
        )
        records.append(OutputRecord(topic=topic, key=sent.key, value=value or sent.value, headers=sent.headers))
    return records


def place(deployment: Deployment) -> str:
    return deployment.stand.environment["ASSAY_DATABASE__URL"].rpartition("@")[2]


def say_commands(said: Said, environment: Mapping[str, str], *, expect_failure: bool = False) -> None:
    """What a person would look with; of those that read the database, none needs more than the worker's role."""
    listing = (["results", "list"], ["dlq", "list"], ["dlq", "list", "--json"], ["topics", "plan"])
    commands = (*listing, ["doctor"], ["doctor", "--json"])
    with ThreadPoolExecutor(max_workers=3) as pool:  # they wait, most of the time, for what does not answer
        answers = list(pool.map(lambda command: assay(environment, *command), commands))
    for command, (code, told) in zip(commands, answers, strict=True):
        assert (code != 0) == expect_failure, told
        said.hear(" ".join(command), told)


def assay(environment: Mapping[str, str], *arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "worker.cli.main", *arguments]
    given = {"PATH": os.environ["PATH"], **environment}
    done = subprocess.run(command, env=given, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout + done.stderr


def wait_for(done: Callable[[], bool], deadline_s: float = 60.0) -> None:
    until = monotonic() + deadline_s
    while not done():
        assert monotonic() < until
        sleep(0.1)


class Said:
    """All that was heard, by where."""

    def __init__(self) -> None:
        self._heard: dict[str, str] = {}

    def hear(self, where: str, what: str) -> None:
        self._heard[where] = self._heard.get(where, "") + what

    def nothing_secret(self) -> None:
        assert all(self._heard.values()), "silence proves nothing"
        leaks = {where: line for where, what in self._heard.items() for line in what.splitlines() if CANARY in line}
        assert leaks == {}
