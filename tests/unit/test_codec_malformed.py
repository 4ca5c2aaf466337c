"""Hostile messages: whatever the bytes and headers are, the codec raises InvalidMessage or returns a job."""

from __future__ import annotations

import json
import struct
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas import codec
from schemas.avro import BoundedBytes
from schemas.codec import Encoding, InvalidMessage
from schemas.codes import ErrorCode
from schemas.envelope import event_headers
from schemas.message import Headers, InputRecord, Source
from tests.unit.test_codec_job import LIMIT, NOON, make_job

ENCODINGS: tuple[Encoding, ...] = ("avro", "json")
at_leisure = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no fault


def record_of(value: bytes, headers: Headers, key: bytes | None = b"maison/job-1") -> InputRecord:
    source = Source(topic="assay.jobs", partition=0, offset=0)
    return InputRecord(source=source, epoch=1, key=key, value=value, headers=headers, timestamp_ms=0)


def job_headers(encoding: Encoding) -> Headers:
    return event_headers(event_id="x", source="y", event_type="assay.job.v1", time=NOON, encoding=encoding)


def outcome(record: InputRecord) -> ErrorCode | None:
    try:
        codec.parse_job(record, max_bytes=LIMIT)
    except InvalidMessage as error:
        return error.code
    return None


def avro_long(value: int) -> bytes:
    zigzag = (value << 1) ^ (value >> 63)
    out = bytearray()
    while zigzag > 0x7F:
        out.append(zigzag & 0x7F | 0x80)
        zigzag >>= 7
    return bytes([*out, zigzag])


names = st.one_of(st.sampled_from(["ce_type", "ce_specversion", "content-type", "traceparent", "src"]), st.text())
known = st.sampled_from([b"assay.job.v1", b"1.0", b"application/json", b"application/avro"])
any_headers = st.lists(st.tuples(names, st.one_of(known, st.binary())), max_size=8).map(tuple)


@at_leisure
@given(st.binary(), any_headers, st.none() | st.binary())
def test_arbitrary_messages_only_raise_invalid_message(value: bytes, headers: Headers, key: bytes | None) -> None:
    assert outcome(record_of(value, headers, key)) is not None


@at_leisure
@given(st.binary(max_size=400), st.sampled_from(ENCODINGS))
def test_arbitrary_payloads_only_raise_invalid_message(value: bytes, encoding: Encoding) -> None:
    assert outcome(record_of(value, job_headers(encoding))) is not None


@at_leisure
@given(st.data(), st.sampled_from(ENCODINGS))
def test_mutated_jobs_only_raise_invalid_message(data: st.DataObject, encoding: Encoding) -> None:
    value = bytearray(codec.encode_job(make_job(), encoding=encoding, source="x").value)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(value) - 1))
        value[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
        if not value:
            return
    outcome(record_of(bytes(value), job_headers(encoding)))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
job_names = st.sampled_from(list(json.loads(codec.encode_job(make_job(), encoding="json", source="x").value)))


@at_leisure
@given(st.dictionaries(job_names, json_values))
def test_json_of_any_shape_only_raises_invalid_message(changes: dict[str, object]) -> None:
    plain = json.loads(codec.encode_job(make_job(), encoding="json", source="x").value) | changes
    outcome(record_of(json.dumps(plain).encode(), job_headers("json")))


@at_leisure
@given(st.binary(max_size=300), any_headers)
def test_arbitrary_verdicts_only_raise_invalid_message(value: bytes, headers: Headers) -> None:
    with pytest.raises(InvalidMessage):
        codec.decode_verdict(value, headers)


def avro_prefix() -> bytes:
    """A job up to its views: the array's first block count comes next."""
    texts = [b"job-1", b"maison", b"BAG-001", b"bag"]
    head = b"".join(avro_long(len(text)) + text for text in texts)
    return head + avro_long(0) + avro_long(0) + avro_long(6) + b"normal" + avro_long(0) + avro_long(0)


ABSURD_AVRO = {
    "empty": b"",
    "huge string": avro_long(2**62),
    "negative string": avro_long(-5) + b"12345",
    "endless varint": b"\xff" * 4096,
    "huge block": avro_prefix() + avro_long(2**62),
    "negative block": avro_prefix() + avro_long(-(2**62)) + avro_long(1),
    "most negative block": avro_prefix() + avro_long(-(2**63)) + avro_long(-1),
    "endless blocks": avro_prefix() + (avro_long(-1) + avro_long(0)) * 1000,
    "union out of range": avro_prefix() + avro_long(1) + avro_long(0) * 2 + avro_long(9),
    "not UTF-8": avro_long(2) + b"\xff\xfe",
    "time out of range": avro_prefix().replace(avro_long(0), avro_long(2**62), 1),
    "trailing bytes": codec.encode_job(make_job(), encoding="avro", source="x").value + b"\x01",
    "cut short": codec.encode_job(make_job(), encoding="avro", source="x").value[:-1],
    "framed without a registry": b"\0" + struct.pack(">I", 7) + b"anything",
}


@pytest.mark.parametrize("name", ABSURD_AVRO)
def test_absurd_avro_is_a_malformed_payload(name: str) -> None:
    assert outcome(record_of(ABSURD_AVRO[name], job_headers("avro"))) is ErrorCode.MALFORMED_PAYLOAD


def job_json_with(more: bytes) -> bytes:
    """A valid job but for what is put before its fields."""
    return b"{" + more + b"," + codec.encode_job(make_job(), encoding="json", source="x").value[1:]


ABSURD_JSON = {
    "NaN": job_json_with(b'"colour": NaN'),
    "infinity": job_json_with(b'"colour": -Infinity'),
    "repeated name": job_json_with(b'"sku": "BAG-002"'),
    "empty": b"",
    "deep arrays": b"[" * 90_000,
    "deep objects": b'{"a":' * 90_000,
    "array": b"[]",
    "null": b"null",
    "utf-16": json.dumps({"job_id": "x"}).encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf{}",
    "long integer": b'{"job_id": ' + b"9" * 100_000 + b"}",
    "two values": b"{}{}",
}


def test_an_unknown_name_alone_does_no_harm() -> None:
    assert outcome(record_of(job_json_with(b'"colour": 1'), job_headers("json"))) is None


@pytest.mark.parametrize("size", [-1, -(2**62), 4, 2**62])
def test_no_length_reads_outside_the_message(size: int) -> None:
    reader = BoundedBytes(b"abc")
    with pytest.raises(EOFError):
        reader.read(size)
    assert reader.read(3) == b"abc"


@pytest.mark.parametrize("name", ABSURD_JSON)
def test_absurd_json_is_a_malformed_payload(name: str) -> None:
    assert outcome(record_of(ABSURD_JSON[name], job_headers("json"))) is ErrorCode.MALFORMED_PAYLOAD


@pytest.mark.parametrize(
    "value, encoding",
    [
        (b"[" + b"{}," * 2_000_000 + b"{}]", "json"),
        (avro_prefix() + avro_long(1_000_000) + b"\0" * 6_000_000, "avro"),
    ],
    ids=["json", "avro"],
)
def test_millions_of_small_values_cost_no_memory(value: bytes, encoding: Encoding) -> None:
    record = record_of(value, job_headers(encoding))
    tracemalloc.start()
    code = outcome(record)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert code is ErrorCode.MALFORMED_PAYLOAD
    assert peak_bytes < 40_000_000


def test_details_are_short_and_printable() -> None:
    value = json.dumps({"job_id": "x", "tenant": "\x1b[2J" * 100_000}).encode()
    with pytest.raises(InvalidMessage) as caught:
        codec.parse_job(record_of(value, job_headers("json")), max_bytes=LIMIT)
    assert len(caught.value.detail) < 400
    assert caught.value.detail.isprintable()
