"""Golden vectors: today's readers read every message that was ever published in a version of the contract.

Each vector is a value (.bin) and what it must read as (.expected.json), in both encodings. Vectors are never changed:
a contract that grows adds vectors beside the old ones.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from schemas import codec
from schemas.alert_codec import alert_record
from schemas.canonical import canonical_json
from schemas.job_codec import job_json
from schemas.message import Headers, InputRecord, Source
from schemas.verdict_codec import verdict_record

VECTORS = sorted((Path(__file__).parent / "data" / "vectors").glob("*/*.bin"))
JOBS = [path for path in VECTORS if path.name.startswith("job-")]
VERDICTS = [path for path in VECTORS if path.name.startswith("verdict-")]
ALERTS = [path for path in VECTORS if path.name.startswith("alert-")]
NEWEST = [path for path in VECTORS if path.parent.name == VECTORS[-1].parent.name]


def expected_of(path: Path) -> dict[str, Any]:
    expected: dict[str, Any] = json.loads(path.with_suffix(".expected.json").read_text(encoding="utf-8"))
    return expected


def headers_of(expected: dict[str, Any]) -> Headers:
    return tuple((name, value.encode()) for name, value in expected["headers"].items())


def read_job(path: Path) -> codec.AuthenticationJob:
    expected = expected_of(path)
    record = InputRecord(
        source=Source(topic="assay.jobs", partition=0, offset=0),
        epoch=0,
        key=expected["key"].encode(),
        value=path.read_bytes(),
        headers=headers_of(expected),
        timestamp_ms=0,
    )
    return codec.parse_job(record, max_bytes=8 * 1024 * 1024)


def read_verdict(path: Path) -> codec.VerdictEvent:
    return codec.decode_verdict(path.read_bytes(), headers_of(expected_of(path)))


def read_alert(path: Path) -> codec.AlertEvent:
    return codec.decode_alert(path.read_bytes(), headers_of(expected_of(path)))


def test_vectors_of_all_kinds_and_both_encodings_are_there() -> None:
    assert {path.name.split("-")[0] + path.suffixes[0] for path in VECTORS} == {
        "alert.avro",
        "alert.json",
        "job.avro",
        "job.json",
        "verdict.avro",
        "verdict.json",
    }


@pytest.mark.parametrize("path", JOBS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_job_vector_reads(path: Path) -> None:
    expected, job = expected_of(path), read_job(path)
    assert json.loads(canonical_json(job_json(job))) == expected["content"]
    assert job.payload_digest == expected["payload_digest"]


@pytest.mark.parametrize("path", VERDICTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_verdict_vector_reads(path: Path) -> None:
    assert json.loads(canonical_json(verdict_record(read_verdict(path)))) == expected_of(path)["content"]


@pytest.mark.parametrize("path", ALERTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_alert_vector_reads(path: Path) -> None:
    assert json.loads(canonical_json(alert_record(read_alert(path)))) == expected_of(path)["content"]


@pytest.mark.parametrize("path", NEWEST, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_todays_writer_writes_the_newest_vectors(path: Path) -> None:
    expected, encoding = expected_of(path), "avro" if path.suffixes[0] == ".avro" else "json"
    trace = expected["headers"].get("traceparent")
    if path in JOBS:
        message = codec.encode_job(read_job(path), encoding=encoding, source="vectors", traceparent=trace)  # type: ignore[arg-type]
    elif path in ALERTS:
        message = codec.encode_alert(read_alert(path), encoding=encoding, source="vectors")  # type: ignore[arg-type]
    else:
        message = codec.encode_verdict(read_verdict(path), encoding=encoding, source="vectors")  # type: ignore[arg-type]
    assert message.value == path.read_bytes()
    assert dict(message.headers) == dict(headers_of(expected))
    assert message.key == expected["key"].encode()
