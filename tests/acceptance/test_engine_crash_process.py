"""Real workers whose engines end the process in native code: they are left, and a photograph that does so is not their
fault."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack import Addresses
from schemas import headers as names
from schemas.codec import decode_verdict, header
from tests.acceptance.conftest import assert_each_once, jobs
from tests.acceptance.registered import NAME, Registered, registered_deployment

# `assay worker` that reads address 0: at a job's photographs on the engine with the digest BAD, while that engine is
# opened if WHEN is "opening", and at the photograph DEADLY on any engine.
ENTRY = """
import ctypes, os, resource, sys
from engines import catalogue
from worker.adapters.encoder import SessionEncoder

resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
open_runner, encode = catalogue.open_runner, SessionEncoder.start
BAD, DEADLY, WHEN = (os.environ.get(name) for name in ("BAD", "DEADLY", "WHEN"))

def opened(engine, *given, **more):
    if WHEN == "opening" and engine.manifest.onnx_sha256 == BAD:
        ctypes.string_at(0)
    return open_runner(engine, *given, **more)

def start(self, requests):
    bad = WHEN == "encoding" and any(use.digest == BAD for use in self.engines.values())
    if bad or any(request.view.sha256 == DEADLY for request in requests):
        ctypes.string_at(0)
    return encode(self, requests)

catalogue.open_runner, SessionEncoder.start = opened, start
sys.argv = ["assay", "worker"]
from worker.cli.main import main
main()
"""
SLOT = {
    "ASSAY_KAFKA__INSTANCE": "w1",
    "ASSAY_KAFKA__STATIC_MEMBERSHIP": "true",  # or each worker waits for the session of the one before it to end
    "ASSAY_KAFKA__PARTITIONS": "1",
    "ASSAY_ENGINES__RETRY_BETTER_S": "600",
    "ASSAY_ENGINES__POLL_S": "3600",
    "ASSAY_BATCH__MAX_IMAGES": "4",  # all jobs of a test, and no process waits for more
    "ASSAY_BATCH__WINDOW_MS": "10000",
    "ASSAY_BATCH__EAGER": "false",
}
FAILED = "SELECT labels ->> 'step', labels ->> 'failure' FROM assay.alarms WHERE kind = 'engine_failed' ORDER BY id"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def registry(stack: Addresses, tmp_path: Path) -> Iterator[Registered]:
    with registered_deployment(stack, tmp_path, **SLOT) as made:
        yield made


def dies(registry: Registered, **planted: str) -> None:
    assert registry.deployment.planted(ENTRY, **planted).wait(120) == -signal.SIGSEGV


def test_an_engine_that_kills_its_process_with_job_after_job_is_left_and_no_job_is_lost(registry: Registered) -> None:
    deployment = registry.deployment
    first, second = registry.serve(1), registry.serve(2)
    planted = {"BAD": registry.digest(second), "WHEN": "encoding"}
    sent = jobs(4)
    deployment.send(sent)
    for _ in range(5):  # twice together, then three of them alone
        dies(registry, **planted)
    survivor = deployment.planted(ENTRY, **planted)
    records = deployment.read("results", 4)
    assert_each_once(records, sent)
    events = [decode_verdict(record.value or b"", record.headers) for record in records]
    assert {tuple(use.digest for use in one.provenance.engines) for one in events} == {(registry.digest(first),)}
    assert all(one.provenance.degraded for one in events)
    assert deployment.rows("SELECT count(*) FROM assay.dead_letters") == [(0,)]
    assert set(deployment.rows(FAILED)) == {(f"{NAME}={second[:12]} on openvino", "crashed")}
    assert survivor.poll() is None
    assert deployment.workers[-1].stop() == 0


def test_a_photograph_that_kills_every_engine_takes_none_a_step_down(registry: Registered) -> None:
    deployment = registry.deployment
    registry.serve(1)
    second = registry.serve(2)
    sent = jobs(4)
    bad = sent[1]
    deployment.send(sent)
    for _ in range(4):
        dies(registry, DEADLY=bad.views[0].sha256)
    deployment.planted(ENTRY, DEADLY=bad.views[0].sha256)
    (letter,) = deployment.read("jobs.dlq", 1, more_s=0.0)
    assert (letter.key, header(letter.headers, names.ERROR_CODE)) == (bad.key, "poison")
    records = deployment.read("results", 3)
    assert_each_once(records, [job for job in sent if job is not bad])
    events = [decode_verdict(record.value or b"", record.headers) for record in records]
    assert {tuple(use.digest for use in one.provenance.engines) for one in events} == {(registry.digest(second),)}
    assert not any(one.provenance.degraded for one in events)
    assert len(deployment.rows(FAILED)) == 4, "the crashes were noticed"
    assert deployment.workers[-1].stop() == 0


def test_a_candidate_that_kills_the_worker_while_it_is_opened_does_so_once(registry: Registered) -> None:
    deployment = registry.deployment
    first, second = registry.serve(1), registry.verified(2)
    registry.engine("shadow", NAME)
    planted = {"BAD": registry.digest(second), "WHEN": "opening"}
    dies(registry, **planted)
    deployment.planted(ENTRY, **planted)
    sent = jobs(4)
    deployment.send(sent)
    records = deployment.read("results", 4)
    assert_each_once(records, sent)
    events = [decode_verdict(record.value or b"", record.headers) for record in records]
    assert {tuple(use.digest for use in one.provenance.engines) for one in events} == {(registry.digest(first),)}
    assert deployment.rows(FAILED) == [(f"{NAME}={second[:12]} on openvino", "died")]
    assert deployment.workers[-1].stop() == 0
