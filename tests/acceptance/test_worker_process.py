"""The worker as a process: what crashes, stops and rebalances must not lose or repeat."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from time import monotonic, sleep

import psycopg
import pytest

from demo.stand import WorkerProcess
from schemas.codec import decode_verdict, header
from schemas.message import OutputRecord
from tests.acceptance.conftest import Deployment, assert_each_once, jobs

KILLED_BETWEEN_THE_COMMITS = """
import os, signal, sys
from worker.adapters.kafka import KafkaPublisher

def die(self, outputs, offsets):
    os.kill(os.getpid(), signal.SIGKILL)

KafkaPublisher.commit = die
sys.argv = ["assay", "worker"]
from worker.cli.main import main
main()
"""


def wait_for_rows(deployment: Deployment, at_least: int, deadline_s: float = 120.0) -> int:
    until = monotonic() + deadline_s
    while monotonic() < until:
        count = int(str(deployment.rows("SELECT count(*) FROM assay.verdicts")[0][0]))
        if count >= at_least:
            return count
        sleep(0.05)
    raise AssertionError(f"fewer than {at_least} verdicts within {deadline_s} s")


def test_a_killed_worker_loses_nothing_and_repeats_nothing(deployment: Deployment) -> None:
    sent = jobs(300)
    first = deployment.worker("w1")
    deployment.send(sent)
    wait_for_rows(deployment, 60)
    first.kill()
    judged = wait_for_rows(deployment, 60)
    assert judged < 300, "the worker was done before it was killed: nothing was tried"
    deployment.worker("w1", ready=False)
    results = deployment.read("results", 300)
    assert_each_once(results, sent)
    assert deployment.rows("SELECT count(*), count(DISTINCT job_id) FROM assay.verdicts") == [(300, 300)]
    assert deployment.rows("SELECT count(*) FROM assay.dead_letters") == [(0,)]
    stored = {bytes(str(row[0]), "ascii") for row in deployment.rows("SELECT result_id FROM assay.verdicts")}
    assert {str(decode_verdict(r.value, r.headers).result_id).encode() for r in results} == stored


def test_a_death_between_the_two_commits_is_answered_with_the_stored_bytes(deployment: Deployment) -> None:
    sent = jobs(5)
    deployment.send(sent)
    doomed = subprocess.Popen(
        [sys.executable, "-c", KILLED_BETWEEN_THE_COMMITS],
        env={**deployment.stand.environment, "ASSAY_KAFKA__INSTANCE": "w1"},
        stderr=subprocess.DEVNULL,
    )
    assert doomed.wait(120) == -9
    written = deployment.rows("SELECT event FROM assay.verdicts")
    assert written, "the worker died before Postgres was told"
    deployment.worker("w1", ready=False)
    results = deployment.read("results", 5)
    assert_each_once(results, sent)
    assert {bytes(memoryview(row[0])) for row in written} <= {r.value for r in results}  # type: ignore[arg-type]
    assert all(header(r.headers, "assay.duplicate") is None for r in results)


def test_sigterm_drains_and_exits_with_zero(deployment: Deployment) -> None:
    sent = jobs(60)
    worker = deployment.worker("w1")
    deployment.send(sent)
    wait_for_rows(deployment, 5)
    assert worker.stop() == 0
    assert_published_is_written(deployment)
    deployment.worker("w1", ready=False)
    assert_each_once(deployment.read("results", 60), sent)


def assert_published_is_written(deployment: Deployment) -> None:
    """After a drain, Postgres and Kafka agree: nothing was left between the two."""
    written = int(str(deployment.rows("SELECT count(*) FROM assay.verdicts")[0][0]))
    assert len(deployment.read("results", written)) == written


def test_a_rebalance_in_the_middle_of_work(deployment: Deployment) -> None:
    sent = jobs(240)
    first = deployment.worker("w1")
    deployment.send(sent)
    wait_for_rows(deployment, 20)
    second = deployment.worker("w2")
    wait_for_rows(deployment, 80)
    assert first.stop() == 0
    assert_each_once(deployment.read("results", 240), sent)
    assert second.process.poll() is None
    assert deployment.rows("SELECT count(*) FROM assay.verdicts") == [(240,)]


def test_bad_messages_become_dead_letters_and_block_nothing(deployment: Deployment) -> None:
    good = jobs(3)
    topic = deployment.topic("jobs")
    bad = [OutputRecord(topic=topic, key=b"k", value=value, headers=()) for value in (b"", b"\xff" * 40, b"{}")]
    deployment.worker("w1")
    deployment.send_raw(bad)
    deployment.send(good)
    assert_each_once(deployment.read("results", 3), good)
    letters = deployment.read("jobs.dlq", 3)
    assert {letter.value for letter in letters} == {record.value for record in bad}
    assert {header(letter.headers, "assay.errors.code") for letter in letters} == {"malformed_envelope"}


def test_the_same_job_twice_has_one_verdict_and_other_content_is_a_conflict(deployment: Deployment) -> None:
    (job,) = jobs(1)
    other = dataclasses.replace(job, sku="bag-2")
    deployment.worker("w1")
    deployment.send([job])
    first = deployment.read("results", 1)
    deployment.send([job, other])
    results = deployment.read("results", 2)
    assert [r.value for r in results] == [first[0].value] * 2
    assert [header(r.headers, "assay.duplicate") for r in results].count("1") == 1
    (conflict,) = deployment.read("jobs.dlq", 1)
    assert header(conflict.headers, "assay.errors.code") == "job_id_conflict"
    assert deployment.rows("SELECT count(*) FROM assay.verdicts") == [(1,)]


def test_the_analyst_reads_views_and_can_write_nothing(deployment: Deployment) -> None:
    worker = deployment.worker("w1")
    deployment.send(jobs(2))
    deployment.read("results", 2)
    assert_reads_only(deployment.stand.analyst_url.replace("+psycopg", ""))
    assert_pages(worker)


def assert_reads_only(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as analyst:
        found = analyst.execute("SELECT verdict, count(*) FROM analyst.jobs GROUP BY verdict").fetchall()
        assert found == [("inconclusive", 2)]
        for statement in (
            "INSERT INTO assay.reviews DEFAULT VALUES",
            "UPDATE assay.verdicts SET verdict = 'authentic'",
            "DELETE FROM assay.jobs",
            "CREATE TABLE analyst.mine (n int)",
            "SELECT * FROM assay.verdicts",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                analyst.execute(statement.encode())


def assert_pages(worker: WorkerProcess) -> None:
    assert '"ok": true' in worker.get("/livez")
    metrics = worker.get("/metrics")
    assert 'assay_jobs_total{outcome="judged"} 2.0' in metrics
    assert 'assay_verdicts_total{category="bag",verdict="inconclusive"} 2.0' in metrics


def test_a_wrong_setting_is_one_line_that_names_it(deployment: Deployment) -> None:
    environment = {**deployment.stand.environment, "ASSAY_BATCH__MAX_IMAGES": "0"}
    command = [sys.executable, "-m", "worker.cli.main", "worker"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 78
    assert "ASSAY_BATCH__MAX_IMAGES" in done.stderr
    assert "Traceback" not in done.stderr
