"""A judge that raises on one job, in a real worker on real services."""

from __future__ import annotations

from pathlib import Path

import pytest

from devstack import Addresses
from schemas import headers as names
from schemas.codec import header
from tests.acceptance.conftest import assert_each_once, ends_in_order, jobs
from tests.acceptance.small import small_deployment

# `assay worker` whose judge raises where it meets the job BAD.
ENTRY = """
import os, sys
from worker import judging

judge = judging.judge

def planted(evidence, policy):
    if any(item.job.job_id == os.environ["BAD"] for item in evidence):
        raise IndexError("planted")
    return judge(evidence, policy)

judging.judge = planted
sys.argv = ["assay", "worker"]
from worker.cli.main import main
main()
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_of_twenty_jobs_nineteen_are_judged_and_the_worker_lives(stack: Addresses, tmp_path: Path) -> None:
    sent = jobs(20)
    bad = sent[7]
    one_batch = {
        "ASSAY_KAFKA__PARTITIONS": "1",
        "ASSAY_BATCH__MAX_IMAGES": "20",
        "ASSAY_BATCH__WINDOW_MS": "5000",
        "ASSAY_BATCH__EAGER": "false",
    }
    with small_deployment(stack, tmp_path, **one_batch) as deployment:
        deployment.send(sent)
        worker = deployment.planted(ENTRY, BAD=bad.job_id)
        assert_each_once(deployment.read("results", 19), [job for job in sent if job is not bad])
        (letter,) = deployment.read("jobs.dlq", 1)
        assert (letter.key, header(letter.headers, names.ERROR_CODE)) == (bad.key, "internal_error")
        assert deployment.rows("SELECT job_id, code, stage FROM assay.dead_letters") == [
            (bad.job_id, "internal_error", "judge")
        ]
        assert worker.poll() is None, "the worker ended"
        assert ends_in_order(worker)
        said = deployment.workers[0].log.read_text()
    assert said.count('"event": "internal_error"') == 1
    assert "IndexError: planted" in said, "the log has no stack"
