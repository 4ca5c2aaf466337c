"""Headers of retries and dead letters: what is kept, what is replaced, and how a replay gets its own back."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from uuid import UUID

import jsonschema

from schemas import published
from schemas.codec import header
from schemas.codes import ErrorCode
from schemas.envelope import dead_letter_headers, original_headers, retry_headers
from schemas.message import Headers, InputRecord, Source

FIRST = datetime(2026, 1, 31, 12, 0, 0, 1500, tzinfo=UTC)
ID = UUID("6c7b1a52-6f0e-5d0a-9a43-0d8f5b8f3b61")
SENT: Headers = (
    ("ce_type", b"assay.job.v1"),
    ("ce_id", b"job-1"),
    ("content-type", b"application/avro"),
    ("traceparent", b"00-aa-bb-01"),
    ("x-shop", b"\xff\x00"),
)


def record_with(headers: Headers, *, topic: str = "assay.jobs", offset: int = 9) -> InputRecord:
    source = Source(topic=topic, partition=2, offset=offset)
    return InputRecord(source=source, epoch=1, key=b"k", value=b"v", headers=headers, timestamp_ms=0)


def dead(record: InputRecord, detail: str = "no such view") -> Headers:
    return dead_letter_headers(
        record,
        dead_letter_id=ID,
        code=ErrorCode.INVALID_JOB,
        stage="intake",
        detail=detail,
        error_class="InvalidMessage",
        attempt=2,
        first_seen=FIRST,
        source="authenticators",
    )


def retried(record: InputRecord, attempt: int = 2) -> Headers:
    return retry_headers(record, attempt=attempt, due=FIRST + timedelta(seconds=5), first_seen=FIRST)


def test_the_last_header_of_a_name_counts() -> None:
    assert header((("a", b"1"), ("a", b"2")), "a") == "2"
    assert header((("a", b"\xff"),), "a") is None
    assert header((), "a") is None


def test_a_retry_keeps_its_headers_and_says_when_and_whence() -> None:
    headers = retried(record_with(SENT))
    assert headers[: len(SENT)] == SENT
    assert dict(headers[len(SENT) :]) == {
        "src": b"assay.jobs/2/9",
        "assay.attempt": b"2",
        "assay.due-ms": b"1769860805001",
        "assay.first-seen-ms": b"1769860800001",
        "assay.origin": b"assay.jobs/2/9",
    }


def test_a_second_retry_replaces_the_first_and_keeps_the_origin() -> None:
    again = retried(record_with(retried(record_with(SENT)), topic="assay.jobs.retry.1", offset=0), attempt=3)
    assert len(again) == len(dict(again))
    assert header(again, "src") == "assay.jobs.retry.1/2/0"
    assert header(again, "assay.attempt") == "3"
    assert header(again, "assay.origin") == "assay.jobs/2/9"


def test_a_dead_letter_fits_its_published_schema() -> None:
    texts = {name: value.decode(errors="replace") for name, value in dead(record_with(SENT))}
    jsonschema.validate(texts, published.json_schema("deadletter.v1.schema.json"))
    assert texts["assay.errors.code"] == "invalid_job"
    assert texts["ce_source"] == "authenticators"
    assert texts["src"] == "assay.jobs/2/9"


def test_a_dead_letter_keeps_what_it_replaces() -> None:
    headers = dict(dead(record_with(SENT)))
    assert headers["assay.original.ce_type"] == b"assay.job.v1"
    assert headers["assay.original.ce_id"] == b"job-1"
    assert headers["x-shop"] == b"\xff\x00"
    assert headers["traceparent"] == b"00-aa-bb-01"
    assert headers["content-type"] == b"application/avro"


def test_a_long_detail_is_cut_between_characters() -> None:
    message = dict(dead(record_with(SENT), detail="é" * 2000))["assay.errors.message"]
    assert message.decode() == "é" * 512
    assert dict(dead(record_with(SENT), detail="\ud800"))["assay.errors.message"] == b"?"


def test_a_replay_gets_its_original_headers_back() -> None:
    assert original_headers(dead(record_with(SENT))) == SENT
    assert original_headers(dead(record_with(()))) == ()
    assert original_headers(dead(record_with(retried(record_with(SENT))))) == SENT


def test_the_schema_lists_every_error_code() -> None:
    schema = published.json_schema("deadletter.v1.schema.json")
    assert schema["properties"]["assay.errors.code"]["enum"] == [code.value for code in ErrorCode]


def test_every_published_schema_is_readable() -> None:
    assert published.names() == [
        "alert.v1.avsc",
        "alert.v1.schema.json",
        "deadletter.v1.schema.json",
        "job.v1.avsc",
        "job.v1.schema.json",
        "verdict.v1.avsc",
        "verdict.v1.schema.json",
    ]
    for name in published.names():
        json.loads(published.text(name))
        if name.endswith(".schema.json"):
            jsonschema.Draft202012Validator.check_schema(published.json_schema(name))
        else:
            published.avro(name)
