"""The chaos verdict's JSON, and the one answer of Kafka's protocol that the harness reads by itself."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.imagined_run import ImaginedRun
from tests.chaos.observation import Chronicle, FaultRecord, KillRecord, Observation, Rebalance, Recovery
from tests.chaos.transactions import Refused, answer, request
from tests.chaos.verdict import SHOWN, reach_verdict

KILL = KillRecord(at_ms=1, service="worker", how="SIGKILL", instance="static-0", failpoint="after_produce")
CHRONICLE = Chronicle(
    seed=7, commit="abc", started_at_ms=1_000, ended_at_ms=3_500, host=(("cores", "2"),),
    kills=(KILL, replace(KILL, failpoint=None), replace(KILL, service="kafka", failpoint=None)),
    faults=(FaultRecord(at_ms=1, kind="blackhole"),) * 2,
    rebalances=(Rebalance(at_ms=1, protocol="static"), Rebalance(at_ms=2, protocol="consumer")),
    recoveries=(Recovery(service="worker", seconds=1.0), Recovery(service="worker", seconds=4.0)),
)  # fmt: skip


@pytest.fixture(scope="module")
def clean() -> Observation:
    return ImaginedRun(3, jobs=80).run().observation()


def written(observation: Observation, folder: Path) -> Mapping[str, Any]:
    path = folder / "out" / "verdict.json"
    reach_verdict(observation, CHRONICLE).write(path)
    document: Mapping[str, Any] = json.loads(path.read_text())
    return document


def test_a_clean_run_holds_and_tells_what_was_done(clean: Observation, tmp_path: Path) -> None:
    document = written(clean, tmp_path)
    assert (document["held"], document["unproven"]) == (True, [])
    assert {facts["state"] for facts in document["invariants"].values()} == {"held"}
    assert list(document["invariants"]) == [f"I{number}" for number in range(1, 13)]
    assert document["counts"]["submissions"] == len(clean.submissions)
    assert sum(document["counts"]["jobs"].values()) == len(clean.jobs)
    assert document["kills"] == {"kafka SIGKILL": 1, "worker SIGKILL": 2}
    assert (document["failpoints"], document["faults"]) == ({"after_produce": 1}, {"blackhole": 2})
    assert document["rebalances"] == {"consumer": 1, "static": 1}
    assert document["recovery_s"] == {"worker": {"count": 2, "median": 2.5, "longest": 4.0}}
    assert (document["seed"], document["commit"], document["seconds"]) == (7, "abc", 2.5)
    assert document["host"] == {"cores": "2"}


def test_what_was_not_checked_is_unproven_and_what_broke_is_counted(clean: Observation, tmp_path: Path) -> None:
    document = written(replace(clean, outputs=(), readers=(), audit_findings=None), tmp_path)
    assert not document["held"]
    assert document["unproven"] == ["I10", "I3", "I5", "I7"]
    lost = document["invariants"]["I2"]
    assert (lost["state"], lost["violations"], len(lost["examples"])) == ("violated", lost["checked"], SHOWN)
    assert document["invariants"]["I5"]["state"] == "unproven"


def compact(text: str) -> bytes:
    return bytes([len(text) + 1]) + text.encode()


def listing(*transactions: tuple[str, str], code: int = 0, correlation: int = 7) -> bytes:
    head = struct.pack(">i", correlation) + b"\x00" + struct.pack(">ih", 0, code) + b"\x01"
    rows = b"".join(compact(name) + struct.pack(">q", 1) + compact(state) + b"\x00" for name, state in transactions)
    return head + bytes([len(transactions) + 1]) + rows + b"\x00"


def test_the_brokers_listing_is_read() -> None:
    long = "assay." + "x" * 100
    found = list(answer(listing((long, "Ongoing"), ("other", "Empty"))))
    assert [(one.transactional_id, one.state) for one in found] == [(long, "Ongoing"), ("other", "Empty")]


@pytest.mark.parametrize("data", [listing(code=14), listing(correlation=8)], ids=["error", "other answer"])
def test_a_refusal_is_no_empty_listing(data: bytes) -> None:
    with pytest.raises(Refused):
        list(answer(data))


def test_the_request_names_its_call() -> None:
    assert struct.unpack_from(">hhih", request()) == (66, 0, 7, 5)
