"""Jobs through the codec: round trips in both encodings, one code for each broken rule, the digest of the content."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import fastavro
import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas import codec, published
from schemas.codec import Encoding, InvalidMessage
from schemas.codes import ErrorCode
from schemas.job import AuthenticationJob, JobView
from schemas.job_codec import job_record
from schemas.message import Headers, InputRecord, Source

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
LIMIT = 8 * 1024 * 1024
ENCODINGS: tuple[Encoding, ...] = ("avro", "json")
at_leisure = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no fault


def record_of(message: codec.Encoded, **changes: Any) -> InputRecord:
    fields: dict[str, Any] = {"key": message.key, "value": message.value, "headers": message.headers} | changes
    source = Source(topic="assay.jobs", partition=3, offset=41)
    return InputRecord(source=source, epoch=1, timestamp_ms=0, **fields)


def make_job(**changes: Any) -> AuthenticationJob:
    view = JobView(view="logo", sha256="0" * 64, data=b"\xff\xd8photograph")
    other = JobView(view="lining", sha256="1" * 64, uri="s3://goods/lining.jpg", media_type="image/jpeg")
    fields: dict[str, Any] = {
        "job_id": "job-1",
        "tenant": "maison",
        "sku": "BAG-001",
        "category": "bag",
        "submitted_at": NOON,
        "views": (view, other),
        "serial": "A 17",
        "labels": {"subject": "bag 4", "a": "é"},
    }
    return codec.checked_job(**(fields | changes))


def parse(job: AuthenticationJob, encoding: Encoding = "avro") -> AuthenticationJob:
    return codec.parse_job(record_of(codec.encode_job(job, encoding=encoding, source="test")), max_bytes=LIMIT)


def json_record(change: Callable[[dict[str, Any]], None], **changes: Any) -> InputRecord:
    message = codec.encode_job(make_job(), encoding="json", source="test")
    plain = json.loads(message.value)
    change(plain)
    return record_of(message, **({"value": json.dumps(plain).encode()} | changes))


def rejected(record: InputRecord, max_bytes: int = LIMIT) -> InvalidMessage:
    with pytest.raises(InvalidMessage) as caught:
        codec.parse_job(record, max_bytes=max_bytes)
    assert caught.value.detail
    return caught.value


printable = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=40)
instants = st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1), timezones=st.just(UTC))
uris = st.from_regex(r"\A[!-~]{1,60}\Z")
sha256s = st.from_regex(r"\A[0-9a-f]{64}\Z")


@st.composite
def jobs(draw: st.DrawFn) -> AuthenticationJob:
    roles = draw(st.lists(printable, min_size=1, max_size=24, unique=True))
    inline = st.builds(dict, data=st.binary(min_size=1, max_size=200))
    image = st.one_of(inline, st.builds(dict, uri=uris))
    media = st.none() | st.just("image/jpeg")
    views = tuple(JobView(view=r, sha256=draw(sha256s), media_type=draw(media), **draw(image)) for r in roles)
    submitted_at = draw(instants)
    delay = draw(st.none() | st.timedeltas(timedelta(0), timedelta(days=900)))
    return make_job(
        job_id=draw(st.from_regex(r"\A[!-~]{1,128}\Z")),
        tenant=draw(st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")),
        sku=draw(printable),
        category=draw(printable),
        submitted_at=submitted_at,
        deadline=None if delay is None else submitted_at + delay,
        priority=draw(st.sampled_from(["high", "normal", "bulk"])),
        serial=draw(st.none() | printable),
        labels=draw(st.dictionaries(printable, printable, max_size=32)),
        views=views,
    )


@at_leisure
@given(jobs(), st.sampled_from(ENCODINGS))
def test_a_job_comes_back_as_it_went(job: AuthenticationJob, encoding: Encoding) -> None:
    assert parse(job, encoding) == job


@at_leisure
@given(jobs())
def test_encoded_jobs_fit_the_published_json_schema(job: AuthenticationJob) -> None:
    message = codec.encode_job(job, encoding="json", source="test")
    jsonschema.validate(json.loads(message.value), published.json_schema("job.v1.schema.json"))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_job_may_ask_for_a_verdict_that_supersedes(encoding: Encoding) -> None:
    asked = make_job(supersedes=3)
    assert (parse(asked, encoding), asked.revision, make_job().revision) == (asked, 4, 1)


def test_who_knows_the_first_schema_alone_reads_and_is_read() -> None:
    """Unframed Avro does not tell its revision: the field that was added stands last, and is left out while unset."""
    first = json.loads(published.text("job.v1.avsc"))
    assert first["fields"].pop()["name"] == "supersedes"
    written = io.BytesIO()
    fastavro.schemaless_writer(written, fastavro.parse_schema(first), job_record(make_job()))
    assert codec.encode_job(make_job(), encoding="avro", source="x").value == written.getvalue()
    message = codec.encode_job(make_job(), encoding="avro", source="x")
    assert codec.parse_job(record_of(message, value=message.value + b"\x00"), max_bytes=LIMIT) == make_job()
    for more in (b"\x02", b"\x04\x02", b"\x00\x00", b"\x02\x02\x00"):
        assert rejected(record_of(message, value=message.value + more)).code is ErrorCode.MALFORMED_PAYLOAD


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_equal_jobs_make_equal_bytes(encoding: Encoding) -> None:
    turned = make_job(labels={"a": "é", "subject": "bag 4"})
    assert codec.encode_job(turned, encoding=encoding, source="x") == codec.encode_job(
        make_job(), encoding=encoding, source="x"
    )


def test_headers_follow_the_cloudevents_binding() -> None:
    message = codec.encode_job(make_job(), encoding="avro", source="shop", traceparent="00-aa-bb-01")
    assert message.key == b"maison/job-1"
    assert dict(message.headers) == {
        "ce_specversion": b"1.0",
        "ce_id": b"job-1",
        "ce_source": b"shop",
        "ce_type": b"assay.job.v1",
        "ce_time": b"2026-01-31T12:00:00.000000Z",
        "content-type": b"application/avro",
        "traceparent": b"00-aa-bb-01",
    }


def test_the_digest_ignores_transport_and_urgency() -> None:
    job = make_job()
    same = make_job(
        submitted_at=NOON + timedelta(days=1),
        deadline=NOON + timedelta(days=2),
        priority="high",
        supersedes=7,
        views=(job.views[1], replace(job.views[0], data=None, uri="https://elsewhere/logo.jpg")),
    )
    assert same.payload_digest == job.payload_digest


@pytest.mark.parametrize(
    "change",
    [
        {"job_id": "job-2"},
        {"tenant": "other"},
        {"sku": "BAG-002"},
        {"category": "watch"},
        {"serial": None},
        {"serial": "A 18"},
        {"labels": {}},
        {"views": make_job().views[:1]},
        {"views": (replace(make_job().views[0], sha256="2" * 64), make_job().views[1])},
        {"views": (replace(make_job().views[0], view="hardware"), make_job().views[1])},
        {"views": (replace(make_job().views[0], media_type="image/png"), make_job().views[1])},
    ],
)
def test_the_digest_covers_the_content(change: dict[str, Any]) -> None:
    assert make_job(**change).payload_digest != make_job().payload_digest


def set_view(name: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda plain: plain["views"][0].update({name: value})


def set_field(name: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda plain: plain.update({name: value})


INVALID = [
    set_field("submitted_at", "2026-01-31T12:00:00"),
    set_field("submitted_at", "yesterday"),
    set_field("submitted_at", "2026-02-31T12:00:00Z"),
    set_field("submitted_at", "0001-01-01T00:00:00+14:00"),
    set_field("deadline", "2026-01-31T11:59:59Z"),
    set_field("sku", "x" * 129),
    set_field("sku", ""),
    set_field("sku", "a\x00b"),
    set_field("sku", "a\ud800b"),
    set_field("category", "line\nbreak"),
    set_field("serial", "x" * 257),
    set_field("priority", "urgent"),
    set_field("labels", {str(n): "x" for n in range(33)}),
    set_field("labels", {"a": "\x7f"}),
    set_field("labels", {"": "x"}),
    set_view("view", "x" * 65),
    set_view("sha256", "A" * 64),
    set_view("sha256", "0" * 63),
    set_view("image", {}),
    set_view("image", {"uri": "https://h/x", "bytes": "AAAA"}),
    set_view("image", {"uri": "https://h/x y"}),
    set_view("image", {"uri": "https://h/" + "x" * 2048}),
    set_view("image", {"bytes": ""}),
    set_view("media_type", "a\rb"),
    set_field("supersedes", 0),
    set_field("supersedes", -1),
    set_field("supersedes", 2**31 - 1),
]


@pytest.mark.parametrize("change", INVALID)
def test_a_broken_rule_is_an_invalid_job_that_keeps_its_id(change: Callable[[dict[str, Any]], None]) -> None:
    error = rejected(json_record(change))
    assert (error.code, error.tenant, error.job_id) == (ErrorCode.INVALID_JOB, "maison", "job-1")


MALFORMED = [
    set_field("submitted_at", 1769860800),
    set_field("sku", 7),
    set_field("sku", None),
    set_field("labels", []),
    set_field("labels", {"a": 1}),
    set_field("priority", 1),
    set_field("views", {}),
    set_field("views", "logo"),
    set_field("views", ["logo"]),
    set_view("sha256", None),
    set_view("image", "https://h/x"),
    set_view("image", None),
    set_view("image", {"bytes": "@@@@"}),
    set_view("image", {"bytes": "AAA"}),
    set_view("image", {"bytes": [1, 2]}),
    set_view("media_type", True),
    lambda plain: plain.pop("category"),
]


@pytest.mark.parametrize("change", MALFORMED)
def test_a_wrong_type_is_malformed_and_claims_nothing(change: Callable[[dict[str, Any]], None]) -> None:
    error = rejected(json_record(change))
    assert (error.code, error.tenant, error.job_id) == (ErrorCode.MALFORMED_PAYLOAD, None, None)


@pytest.mark.parametrize("name, value", [("tenant", ".."), ("tenant", "a/b"), ("tenant", ""), ("job_id", "a b")])
def test_bad_ids_are_invalid_and_claim_nothing(name: str, value: str) -> None:
    error = rejected(json_record(set_field(name, value)))
    assert (error.code, error.tenant) == (ErrorCode.INVALID_JOB, None)


@pytest.mark.parametrize("key", [None, b"", b"maison/job-2", b"job-1", "maison/job-1".encode("utf-16")])
def test_a_key_that_is_not_the_jobs_is_told(key: bytes | None) -> None:
    error = rejected(json_record(lambda plain: None, key=key))
    assert (error.code, error.job_id) == (ErrorCode.KEY_MISMATCH, None)


def test_view_counts() -> None:
    assert rejected(json_record(set_field("views", []))).code is ErrorCode.NO_VIEWS
    views = json.loads(codec.encode_job(make_job(), encoding="json", source="x").value)["views"]
    assert rejected(json_record(set_field("views", views + views[:1]))).code is ErrorCode.DUPLICATE_VIEWS
    many = [views[0] | {"view": f"v{n}"} for n in range(25)]
    assert rejected(json_record(set_field("views", many))).code is ErrorCode.TOO_MANY_VIEWS
    assert len(codec.parse_job(json_record(set_field("views", many[:24])), max_bytes=LIMIT).views) == 24


def test_a_large_message_is_refused_before_it_is_read() -> None:
    record = json_record(lambda plain: None)
    assert rejected(record, max_bytes=len(record.value) - 1).code is ErrorCode.MESSAGE_TOO_LARGE


def without(headers: Headers, name: str) -> Headers:
    return tuple(item for item in headers if item[0] != name)


@pytest.mark.parametrize("name", ["ce_type", "ce_specversion", "content-type"])
def test_a_missing_header_is_a_malformed_envelope(name: str) -> None:
    record = json_record(lambda plain: None)
    assert rejected(replace(record, headers=without(record.headers, name))).code is ErrorCode.MALFORMED_ENVELOPE


@pytest.mark.parametrize(
    "name, value, code",
    [
        ("ce_type", b"assay.job.v2", ErrorCode.UNSUPPORTED_VERSION),
        ("ce_type", b"assay.verdict.v1", ErrorCode.UNSUPPORTED_VERSION),
        ("ce_specversion", b"0.3", ErrorCode.UNSUPPORTED_VERSION),
        ("content-type", b"application/cloudevents+json", ErrorCode.MALFORMED_ENVELOPE),
        ("content-type", b"\xff", ErrorCode.MALFORMED_ENVELOPE),
    ],
)
def test_an_unknown_envelope_has_its_code(name: str, value: bytes, code: ErrorCode) -> None:
    record = json_record(lambda plain: None)
    assert rejected(replace(record, headers=(*without(record.headers, name), (name, value)))).code is code


def test_a_content_type_may_have_parameters() -> None:
    record = json_record(lambda plain: None)
    headers = (*without(record.headers, "content-type"), ("content-type", b"Application/JSON; charset=utf-8"))
    assert codec.parse_job(replace(record, headers=headers), max_bytes=LIMIT) == make_job()


def test_fields_of_a_later_version_are_ignored() -> None:
    assert codec.parse_job(json_record(set_field("colour", "red")), max_bytes=LIMIT) == make_job()


def test_null_means_absent() -> None:
    job = codec.parse_job(json_record(set_field("serial", None)), max_bytes=LIMIT)
    assert job == make_job(serial=None)
