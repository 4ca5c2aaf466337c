"""`assay reevaluate` on a running worker: each record answered once, nothing overwritten, what is gone is named."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from devstack import Addresses
from schemas.codec import decode_verdict, header
from schemas.message import InputRecord
from schemas.verdict import VerdictEvent
from tests.acceptance.conftest import Deployment, jobs
from tests.acceptance.small import small_deployment
from worker.adapters.database import connect
from worker.adapters.policy_rows import write_calibration, write_profiles
from worker.adapters.revisions import EVERYONE, move
from worker.core.policy import CategoryProfile, ScoreCalibration, ViewRequirement

VIEWS = ("logo", "lining")


def reevaluate(deployment: Deployment, *options: str) -> dict[str, Any]:
    arguments = ("reevaluate", "--since", "2026-01-01", *options, "--json")
    told: dict[str, Any] = json.loads(deployment.stand.assay(*arguments, env=deployment.stand.curator))
    return told


def events(records: list[InputRecord], revision: int) -> dict[str, VerdictEvent]:
    read = [decode_verdict(record.value, record.headers) for record in records]
    return {event.job_id: event for event in read if event.revision == revision}


def calibrate(deployment: Deployment, engine: str) -> None:
    """A profile, and a calibration that holds nothing, for the engine that runs."""
    calibration = ScoreCalibration(
        calibration_id="empty", backend="openvino", engine_digests=frozenset({engine}), views={}, genuine_scores={},
        counterfeit_scores={},
    )  # fmt: skip
    profile = CategoryProfile(category="bag", views=(ViewRequirement(view="logo", required=True),))
    database = connect(deployment.stand.owner_url)
    with database.begin() as connection:
        write_profiles(connection, [profile])
        write_calibration(connection, calibration, n=1)
        move(connection, EVERYONE, why="test", by="test")
    database.dispose()


def test_verdicts_are_decided_again(stack: Addresses, tmp_path: Path) -> None:
    with small_deployment(stack, tmp_path) as deployment:
        sent = jobs(3, views=VIEWS)
        deployment.worker("w1")
        deployment.send(sent)
        first = deployment.read("results", 3, more_s=0.0)
        counted = reevaluate(deployment, "--dry-run")
        assert (counted["verdicts"], counted["from_photographs"], counted["more"]) == (3, 3, False)
        gone = sent[0].views[1].sha256
        (deployment.stand.folder / "evidence" / sent[0].tenant / gone[:2] / gone).unlink()

        done = reevaluate(deployment, "--wait")
        assert done["out_of_reach"] == [
            {"tenant": sent[0].tenant, "job_id": sent[0].job_id, "why": "photographs_gone", "views": ["lining"]}
        ]
        assert (done["from_photographs"], done["answered"], done["flipped"]) == (2, 2, [])
        assert done["dead_letters"] == done["unanswered"] == []

        engine = events(first, 1)[sent[0].job_id].provenance.engines[0].digest
        calibrate(deployment, engine)
        shutil.rmtree(deployment.stand.folder / "evidence" / sent[0].tenant)
        third = reevaluate(deployment, "--wait", "--engine", engine[:8])
        assert (third["from_stored"], third["from_photographs"], third["answered"]) == (3, 0, 3)

        records = deployment.read("results", 8)
        assert len(records) == 8
        assert events(records, 1) == events(first, 1)
        assert_each_record_once(deployment, records)
        assert set(events(records, 2)) == {job.job_id for job in sent}
        assert set(events(records, 3)) == {job.job_id for job in sent[1:]}
        rerun, stored = events(records, 2)[sent[1].job_id], events(records, 3)[sent[1].job_id]
        assert [v.attention for v in stored.views] == [v.attention for v in rerun.views]
        assert stored.provenance.engines == rerun.provenance.engines
        pointers = "SELECT count(*) FROM assay.jobs j JOIN assay.verdicts v USING (result_id) WHERE v.revision = 1"
        assert deployment.number(pointers) == 3
        assert deployment.number("SELECT count(*) FROM assay.dead_letters") == 0


def assert_each_record_once(deployment: Deployment, results: list[InputRecord]) -> None:
    """I2: one output a record, on the topic of jobs and on that of bulk jobs."""
    inputs = [str(r.source) for topic, n in (("jobs", 3), ("jobs.bulk", 5)) for r in deployment.read(topic, n)]
    assert Counter(header(record.headers, "src") for record in results) == Counter(inputs)
