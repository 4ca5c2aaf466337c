"""F16's poison: real workers that die in native code of one photograph, and workers that are killed at any moment."""

from __future__ import annotations

import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from demo.stand import new_stand
from devstack import Addresses
from engines.publish import seeded_model
from schemas import headers as names
from schemas.codec import header
from tests.acceptance.conftest import Deployment, assert_each_once, ends_in_order, jobs

# `assay worker` whose encoder reads address 0 where it meets the photograph DEADLY; each other batch takes PACE_S.
ENTRY = """
import ctypes, os, resource, sys, time
from worker.adapters.encoder import SessionEncoder, SessionPending

resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
encode, answer = SessionEncoder.start, SessionPending.prompt

def start(self, requests):
    if any(request.view.sha256 == os.environ["DEADLY"] for request in requests):
        ctypes.string_at(0)
    return encode(self, requests)

def prompt(self):
    time.sleep(float(os.environ["PACE_S"]))
    return answer(self)

SessionEncoder.start, SessionPending.prompt = start, prompt
sys.argv = ["assay", "worker"]
from worker.cli.main import main
main()
"""
STARTS = "SELECT count(*) FROM assay.attempts"
UNANSWERED = """SELECT count(*) FROM assay.attempts LEFT JOIN assay.verdicts v USING (tenant, job_id)
    WHERE v.job_id IS NULL"""
ANSWERED = "SELECT DISTINCT job_id FROM assay.attempts JOIN assay.verdicts USING (tenant, job_id)"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # twelve worker starts, on a machine that may be busy


@pytest.fixture
def deployment(stack: Addresses, tmp_path: Path) -> Iterator[Deployment]:
    seeded_model(tmp_path / "models", "resnet18", 1, Ed25519PrivateKey.generate(), image_size=64)
    settings = {
        "ASSAY_ENGINES__MODELS_DIR": str(tmp_path / "models"),
        "ASSAY_ENGINES__ENCODERS": "{}",
        "ASSAY_KAFKA__PARTITIONS": "1",
        "ASSAY_KAFKA__STATIC_MEMBERSHIP": "true",  # or each worker waits for the session of the one before it to end
        "ASSAY_KAFKA__INSTANCE": "w1",
    }
    stand = new_stand(stack, tmp_path / "stand", settings)
    stand.assay("topics", "apply")
    made = Deployment(stand=stand, bootstrap=stack.kafka_bootstrap)
    yield made
    for worker in made.workers:
        if worker.process.poll() is None:
            worker.kill()


def start_worker(
    deployment: Deployment, deadly: str = "", *, pace_s: float = 0.0, **settings: str
) -> subprocess.Popen[bytes]:
    return deployment.planted(ENTRY, DEADLY=deadly, PACE_S=str(pace_s), **settings)


def wait_until(deployment: Deployment, query: str, at_least: int, process: subprocess.Popen[bytes]) -> None:
    until = monotonic() + 120
    while deployment.number(query) < at_least:
        assert process.poll() is None, f"the worker ended with {process.returncode}"
        assert monotonic() < until, f"{query} stayed below {at_least} for 120 s"
        sleep(0.02)


def test_of_21_jobs_in_one_batch_the_poisoned_one_alone_is_buried(deployment: Deployment) -> None:
    sent = jobs(21)
    bad = sent[7]
    deadly = bad.views[0].sha256
    one_batch = {"ASSAY_BATCH__MAX_IMAGES": "21", "ASSAY_BATCH__WINDOW_MS": "10000", "ASSAY_BATCH__EAGER": "false"}
    deployment.send(sent)
    suspected = []
    for _ in range(4):
        assert start_worker(deployment, deadly, **one_batch).wait(120) == -signal.SIGSEGV
        suspected.append(deployment.number(f"{STARTS} WHERE NOT solo"))
    assert suspected[:2] == [21, 42], "it did not die beside its neighbours"
    assert deployment.rows("SELECT job_id, count(*) FROM assay.attempts WHERE solo GROUP BY job_id") == [
        (bad.job_id, 2)
    ]
    survivor = start_worker(deployment, deadly, **one_batch)
    (letter,) = deployment.read("jobs.dlq", 1, more_s=0.0)
    assert (letter.key, header(letter.headers, names.ERROR_CODE)) == (bad.key, "poison")
    assert_each_once(deployment.read("results", 20), [job for job in sent if job is not bad])
    assert ends_in_order(survivor)
    assert deployment.rows(f"{STARTS} WHERE job_id <> '{bad.job_id}'") == [(0,)]


def test_six_kills_at_any_moment_bury_no_one(deployment: Deployment) -> None:
    # 30 batches of 0.3 s: more than six workers of 0.9 s each can do, however fast the machine
    sent = jobs(240)
    deployment.send(sent)
    moments = random.Random(6)  # a seed that replays
    in_flight = []
    answered = set()  # before the kill that came before their end was told: nobody starts them again, nobody ends them
    for _ in range(6):
        ((now,),) = deployment.rows("SELECT now()")
        process = start_worker(deployment, pace_s=0.3, ASSAY_BATCH__MAX_IMAGES="8")
        wait_until(deployment, f"{STARTS} WHERE started_at > '{now}'", 1, process)
        sleep(moments.uniform(0.0, 0.9))
        process.kill()
        process.wait()
        sleep(0.5)  # a commit that was on its way
        answered.update(deployment.rows(ANSWERED))
        in_flight.append(deployment.number(UNANSWERED))
    assert sum(count > 0 for count in in_flight) >= 4, f"the kills met too few jobs: {in_flight}"
    survivor = start_worker(deployment)
    assert_each_once(deployment.read("results", 240), sent)
    assert deployment.rows("SELECT count(*) FROM assay.dead_letters") == [(0,)]
    assert ends_in_order(survivor)
    assert set(deployment.rows(ANSWERED)) <= answered
