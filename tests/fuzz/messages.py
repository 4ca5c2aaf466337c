"""Malformed messages through the codec: each ends as a job or as one code of the closed set, and as nothing else. Half
are drawn by hypothesis, half are jobs that were taken apart and put together wrongly."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from schemas import codec, published
from schemas.codec import Encoding, InvalidMessage
from schemas.codes import ErrorCode
from schemas.envelope import event_headers
from schemas.message import Headers, InputRecord, Source
from tests.fuzz.findings import Findings
from tests.unit.test_codec_job import LIMIT, NOON, make_job

ENCODINGS: tuple[Encoding, ...] = ("avro", "json")
KEY = b"maison/job-1"
Message = tuple[bytes, Headers, bytes | None]
Confusion = Callable[[random.Random], Message]


class Registry:
    """A Schema Registry that holds the right schema, a wrong one, rubbish, and nothing else."""

    def __init__(self) -> None:
        job = json.dumps(published.avro(codec.JOB_SCHEMA), default=list)
        verdict = json.dumps(published.avro(codec.VERDICT_SCHEMA), default=list)
        self._schemas = {1: job, 2: verdict, 3: '"string"', 4: "{", 5: '{"type": "record"}', 6: "[]"}

    def schema(self, schema_id: int) -> str | None:
        return self._schemas.get(schema_id)


def run(count: int, seed: int) -> list[Findings]:
    found = Findings(part=f"malformed messages, seed {seed}")
    registry = Registry()
    _drawn(found, count // 2, seed, registry)
    chance = random.Random(seed)
    for _ in range(count - found.tried):
        confusion = chance.choice(CONFUSIONS)
        _try(found, confusion(chance), registry if chance.random() < 0.5 else None, confusion.__name__)
    return [found]


def _try(found: Findings, message: Message, registry: Registry | None, what: str) -> None:
    first, again = (_outcome(message, registry) for _ in range(2))
    found.ended(first)
    found.expect(first == "a valid job" or first in set(ErrorCode), f"{what}: {first}")
    found.expect(first == again, f"{what}: {first}, and {again} on replay")


def _outcome(message: Message, registry: Registry | None) -> str:
    value, headers, key = message
    source = Source(topic="assay.jobs", partition=0, offset=0)
    record = InputRecord(source=source, epoch=1, key=key, value=value, headers=headers, timestamp_ms=0)
    try:
        codec.parse_job(record, max_bytes=LIMIT, lookup=registry)
    except InvalidMessage as error:
        return error.code
    except BaseException as error:
        return f"raised {type(error).__name__}: {error}"
    return "a valid job"


def _drawn(found: Findings, count: int, seed: int, registry: Registry) -> None:
    """Hypothesis draws the message; it is asked for no shrinking, since each outcome is only counted."""
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
    options = settings(
        max_examples=count, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=quiet
    )

    @options
    @given(messages, st.booleans())
    def drawn(message: Message, framed: bool) -> None:
        if found.tried < count:
            _try(found, message, registry if framed else None, "drawn")

    drawn._hypothesis_internal_use_seed = seed  # type: ignore[attr-defined]  # noqa: SLF001 (what @seed sets)
    drawn()


def valid(encoding: Encoding) -> bytes:
    return codec.encode_job(make_job(), encoding=encoding, source="fuzz").value


def headers_of(encoding: Encoding) -> Headers:
    return event_headers(event_id="x", source="y", event_type="assay.job.v1", time=NOON, encoding=encoding)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
job_fields = st.sampled_from(sorted(json.loads(valid("json"))))
header_names = st.sampled_from(["ce_type", "ce_specversion", "ce_id", "content-type", "traceparent", "src"]) | st.text()
header_values = st.sampled_from([b"assay.job.v1", b"1.0", b"application/json", b"application/avro"]) | st.binary()
any_headers = st.lists(st.tuples(header_names, header_values), max_size=8).map(tuple)
right_headers = st.sampled_from(ENCODINGS).map(headers_of)
keys = st.just(KEY) | st.none() | st.binary(max_size=40)
changed_jobs = st.dictionaries(job_fields, json_values, min_size=1, max_size=3).map(
    lambda changes: json.dumps(json.loads(valid("json")) | changes).encode()
)
messages = (
    st.tuples(st.binary(max_size=600), any_headers | right_headers, keys)
    | st.tuples(changed_jobs, st.just(headers_of("json")), keys)
    | st.tuples(json_values.map(lambda value: json.dumps(value).encode()), st.just(headers_of("json")), keys)
    | st.tuples(st.sampled_from([valid("avro"), valid("json")]), any_headers, keys)
)


def other_encoding(chance: random.Random) -> Message:
    """Avro that says it is JSON, or JSON that says it is Avro."""
    said, meant = chance.sample(ENCODINGS, 2)
    return valid(meant), headers_of(said), KEY


def framed_by_any_id(chance: random.Random) -> Message:
    schema_id = chance.choice((0, 1, 2, 3, 4, 5, 6, 7, 2**31 - 1, 2**32 - 1))
    encoding = chance.choice(ENCODINGS)
    value = b"\0" + struct.pack(">I", schema_id) + valid(encoding)
    return value[: chance.choice((len(value), 5, 4, 1))], headers_of(encoding), KEY


def mutated(chance: random.Random) -> Message:
    encoding = chance.choice(ENCODINGS)
    value = bytearray(valid(encoding))
    for _ in range(2 ** chance.randrange(6)):
        value[chance.randrange(len(value))] = chance.randrange(256)
    return bytes(value[: chance.randrange(1, len(value) + 1)]), headers_of(encoding), KEY


def huge_arrays(chance: random.Random) -> Message:
    many = 10 ** chance.randrange(2, 6)
    name = chance.choice(("views", "labels", "colour", "serial"))
    filler = chance.choice((b"{}", b"[]", b"0", b'""', b"null"))
    return _json_with(b'"%s": [%s]' % (name.encode(), b",".join([filler] * many)))


def deep_nesting(chance: random.Random) -> Message:
    depth = 10 ** chance.randrange(2, 5)
    opened, closed = chance.choice(((b"[", b"]"), (b'{"a":', b"}")))
    return _json_with(b'"colour": ' + opened * depth + b"1" + closed * chance.choice((depth, 0)))


def bad_text(chance: random.Random) -> Message:
    pieces = (b"\xff\xfe", b"\xc0\x80", b"\xed\xa0\x80", b"\\ud800", b"\\u0000", b"\x00", b"\xf4\x90\x80\x80")
    name = chance.choice((b"sku", b"category", b"serial", b"job_id", b"tenant"))
    return _json_with(b'"%s": "a%sb"' % (name, chance.choice(pieces)), without=name.decode())


def not_a_number(chance: random.Random) -> Message:
    value = chance.choice((b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-0", b"9" * 5000, b"0x10", b"1_000"))
    name = chance.choice((b"submitted_at", b"deadline", b"colour", b"views"))
    return _json_with(b'"%s": %s' % (name, value), without=name.decode())


def doubled_headers(chance: random.Random) -> Message:
    encoding = chance.choice(ENCODINGS)
    headers = list(headers_of(encoding))
    name, value = chance.choice(headers)
    headers.insert(chance.randrange(len(headers) + 1), (name, chance.choice((value, b"", b"\xff", b"assay.job.v2"))))
    return valid(encoding), tuple(headers), KEY


def missing_headers(chance: random.Random) -> Message:
    encoding = chance.choice(ENCODINGS)
    headers = [header for header in headers_of(encoding) if chance.random() < 0.7]
    return valid(encoding), tuple(headers), KEY


def other_key(chance: random.Random) -> Message:
    key = chance.choice((None, b"", b"maison", b"maison/job-2", b"Maison/job-1", b"maison/job-1\0", b"\xff" * 9))
    encoding = chance.choice(ENCODINGS)
    return valid(encoding), headers_of(encoding), key


def name_twice(chance: random.Random) -> Message:
    return _json_with(chance.choice((b'"sku": "BAG-2"', b'"tenant": "other"', b'"views": []', b'"a": 1, "a": 2')))


def too_large(chance: random.Random) -> Message:
    return _json_with(b'"colour": "' + b"x" * (LIMIT + chance.randrange(-2000, 2000)) + b'"')


def a_verdict(chance: random.Random) -> Message:
    """The right envelope around the wrong kind of event, and the other way round."""
    encoding = chance.choice(ENCODINGS)
    event_type = chance.choice(("assay.verdict.v1", "assay.job.v0", "assay.job.v10", "", "assay.job.v1 "))
    headers = event_headers(event_id="x", source="y", event_type=event_type, time=NOON, encoding=encoding)
    return valid(encoding), headers, KEY


def wrong_views(chance: random.Random) -> Message:
    """None, one role twice, more than there may be, or with nothing in them."""
    plain: dict[str, Any] = json.loads(valid("json"))
    (first, *others) = plain["views"]
    many = [{**first, "view": f"view-{number}"} for number in range(chance.randrange(20, 60))]
    image = chance.choice(({}, None, {"bytes": "", "uri": ""}, {"bytes": "%%%"}, {"uri": "x" * 5000}, {"path": "x"}))
    plain["views"] = chance.choice(([], [first, first], many, [{**first, "image": image}], [{}], first, None, others))
    return json.dumps(plain).encode(), headers_of("json"), KEY


def absurd_avro(chance: random.Random) -> Message:
    lengths = (b"\xff" * chance.randrange(1, 30), b"\x01", b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x80" * 12)
    value, at = valid("avro"), chance.randrange(60)
    return value[:at] + chance.choice(lengths) + value[at:], headers_of("avro"), KEY


def _json_with(more: bytes, without: str = "") -> Message:
    """A job in JSON with more put before its fields, and one of them left out."""
    plain: dict[str, Any] = json.loads(valid("json"))
    plain.pop(without, None)
    return b"{" + more + b"," + json.dumps(plain).encode()[1:], headers_of("json"), KEY


CONFUSIONS: Sequence[Confusion] = (
    other_encoding,
    framed_by_any_id,
    framed_by_any_id,
    mutated,
    mutated,
    mutated,
    huge_arrays,
    deep_nesting,
    bad_text,
    not_a_number,
    doubled_headers,
    missing_headers,
    other_key,
    name_twice,
    too_large,
    a_verdict,
    absurd_avro,
    wrong_views,
    wrong_views,
)
