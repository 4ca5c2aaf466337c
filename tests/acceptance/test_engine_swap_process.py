"""Real workers that follow the registry: engines are swapped, tried on a share of the jobs and left for the one before,
under load, and every job is answered once."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import pytest

from demo.stand import TENANT, WorkerProcess
from devstack import Addresses
from schemas.codec import decode_alert, decode_verdict
from schemas.job import AuthenticationJob
from schemas.message import InputRecord, OutputRecord
from schemas.verdict import VerdictEvent
from tests.acceptance.conftest import Deployment, assert_each_once, jobs
from tests.acceptance.registered import NAME, Registered, registered_deployment
from tests.engine_life.repeating import repeated
from worker.core.split import in_share

# A lost message only delays: here it would delay for longer than a test, so these find that the topic wakes workers.
NEVER = {"ASSAY_ENGINES__POLL_S": "3600", "ASSAY_ENGINES__RETRY_BETTER_S": "1"}
WITHIN_S = 120.0
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# `assay worker` whose engine with the digest BAD hangs at the second batch of photographs that it is given.
HANGS = """
import os, sys, threading
from engines import catalogue
open_real = catalogue.open_runner

class Planted:
    def __init__(self, runner):
        self.runner, self.info, self.close = runner, runner.info, runner.close

    def start(self, pixels):
        if self.info.digest == os.environ["BAD"]:
            return Never()
        return self.runner.start(pixels)

class Never:
    def result(self, timeout_s=None):
        from engines.errors import RunnerFailed
        raise RunnerFailed("planted: it did not end in time")

catalogue.open_runner = lambda *given, **more: Planted(open_real(*given, **more))
sys.argv = ["assay", "worker"]
from worker.cli.main import main
main()
"""


@pytest.fixture
def registry(stack: Addresses, tmp_path: Path) -> Iterator[Registered]:
    with registered_deployment(stack, tmp_path, **NEVER) as made:
        yield made


def serves(worker: WorkerProcess, engine_id: str, candidate: str | None = None, degraded: bool = False) -> None:
    """Wait until the log says so."""
    wanted = (f"{NAME}={engine_id[:12]} on openvino", candidate and f"{NAME}={candidate[:12]} on openvino", degraded)
    until = monotonic() + WITHIN_S
    while not (said := served(worker)) or said[-1] != wanted:
        assert worker.process.poll() is None, worker.log_tail()
        assert monotonic() < until, (wanted, said, worker.log_tail())
        threading.Event().wait(0.05)


def served(worker: WorkerProcess) -> list[tuple[str, str | None, bool]]:
    lines = worker.log.read_bytes()[worker.skip :].splitlines()
    told = [json.loads(line) for line in lines if b'"engines_serve"' in line]
    return [(one["engines"], one["candidate"], one["degraded"]) for one in told]


@contextmanager
def load(deployment: Deployment, sent: list[AuthenticationJob]) -> Iterator[None]:
    """Jobs all the time, in `sent` when it ends."""

    def send() -> None:
        more = jobs(4, views=("logo", "lining"))
        deployment.send(more)
        sent.extend(more)

    with repeated(send, every_s=0.5):
        yield


def verdicts(records: Sequence[InputRecord]) -> list[VerdictEvent]:
    return [decode_verdict(record.value or b"", record.headers) for record in records]


def engines_of(event: VerdictEvent) -> tuple[str, ...]:
    return tuple(engine.digest for engine in event.provenance.engines)


def metric(worker: WorkerProcess, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", worker.get("/metrics"), re.MULTILINE)
    assert found, name
    return float(found[1])


def ring(deployment: Deployment) -> None:
    deployment.send_raw([OutputRecord(topic=deployment.topic("control"), key=b"", value=b"{}", headers=())])


def test_engines_are_swapped_under_load_and_a_failed_load_keeps_the_old_one(registry: Registered) -> None:
    deployment, sent = registry.deployment, list[AuthenticationJob]()
    first = registry.serve(1)
    second, third = registry.verified(2), registry.verified(3)
    whole = registry.model(third).read_bytes()
    registry.model(third).write_bytes(whole[:-1])
    worker = deployment.worker("w1")
    with load(deployment, sent):
        registry.engine("promote", NAME, "--id", second)
        serves(worker, second)
        registry.engine("rollback", NAME)
        serves(worker, first)
        registry.engine("promote", NAME, "--id", third)
        serves(worker, first, degraded=True)
    assert "digest_mismatch" in worker.log.read_text()
    assert metric(worker, "assay_degraded") == 1.0
    last = jobs(3)
    deployment.send(last)
    records = deployment.read("results", len(sent) + len(last))
    assert_each_once(records, [*sent, *last])
    events = {event.job_id: event for event in verdicts(records)}
    digests = {(registry.digest(first),), (registry.digest(second),)}
    assert {engines_of(event) for event in events.values()} == digests, "no job's views are of two engines"
    assert all(events[one.job_id].provenance.degraded for one in last)
    stand = deployment.stand
    stand.assay("watch", "--once", env={**stand.environment, "ASSAY_DATABASE__URL": stand.owner_url})
    (alert,) = [decode_alert(record.value or b"", record.headers) for record in deployment.read("alerts", 1, more_s=0)]
    assert (alert.kind, "digest_mismatch" in alert.detail) == ("engine_degraded", True)
    assert metric(worker, "assay_engine_swap_seconds_count") >= 3

    registry.model(third).write_bytes(whole)
    threading.Event().wait(1.5)  # the engine that failed rests so long
    ring(deployment)
    serves(worker, third)
    assert metric(worker, "assay_degraded") == 0.0
    assert deployment.number("SELECT count(*) FROM assay.alarms WHERE event_id IS NOT NULL AND cleared_at IS NULL") == 0
    assert worker.stop() == 0


def test_a_candidate_answers_the_same_share_after_a_restart_and_every_answer_is_compared(registry: Registered) -> None:
    deployment = registry.deployment
    first = registry.serve(1)
    second = registry.verified(2)
    worker = deployment.worker("w1")
    registry.engine("canary", NAME, "--share", "50%")
    serves(worker, first, second)
    sent = jobs(20, views=("logo", "lining"))
    deployment.send(sent[:10])
    assert len(deployment.read("results", 10, more_s=0)) == 10
    assert worker.stop() == 0
    worker = deployment.worker("w1")
    serves(worker, first, second)
    deployment.send(sent[10:])
    records = deployment.read("results", 20)
    assert_each_once(records, sent)
    shared = {one.job_id for one in sent if in_share(TENANT, one.job_id, second, 0.5)}
    answers = {event.job_id: engines_of(event) for event in verdicts(records)}
    assert answers == {one.job_id: (registry.digest(second if one.job_id in shared else first),) for one in sent}
    compared = "SELECT job_id FROM assay.engine_comparisons WHERE published = '{}' AND candidate_error IS NULL"
    assert {row[0] for row in deployment.rows(compared.format("candidate"))} == shared

    registry.engine("shadow", NAME)
    until = monotonic() + WITHIN_S
    while metric(worker, "assay_engine_trial_share") != 1.0:  # the same engines as before: no line tells
        assert monotonic() < until, worker.log_tail()
        threading.Event().wait(0.05)
    more = jobs(4)
    deployment.send(more)
    records = deployment.read("results", 24, more_s=0)
    late = {event.job_id: engines_of(event) for event in verdicts(records)}
    assert {late[one.job_id] for one in more} == {(registry.digest(first),)}
    assert {row[0] for row in deployment.rows(compared.format("current"))} == {one.job_id for one in more}
    registry.engine("take-back", NAME)
    serves(worker, first)
    states = deployment.rows("SELECT mode, state FROM assay.engine_releases ORDER BY started_at")
    assert states == [("canary", "held"), ("shadow", "taken_back")]
    assert worker.stop() == 0


def test_an_engine_that_hangs_again_and_again_is_left_for_the_one_before(registry: Registered) -> None:
    deployment = registry.deployment
    first, second = registry.serve(1), registry.serve(2)
    sent = jobs(2)
    deployment.send(sent)
    given = {"BAD": registry.digest(second), "ASSAY_KAFKA__INSTANCE": "w1", "ASSAY_ENGINES__RETRY_BETTER_S": "600"}
    for _ in range(2):
        assert deployment.planted(HANGS, **given).wait(WITHIN_S) == 74
    deployment.planted(HANGS, **given)
    serves(deployment.workers[-1], first, degraded=True)
    records = deployment.read("results", 2)
    assert_each_once(records, sent)
    found = {(engines_of(event), event.provenance.degraded) for event in verdicts(records)}
    assert found == {((registry.digest(first),), True)}
    assert deployment.workers[-1].stop() == 0
