"""The contract's face: parse and encode jobs, verdicts and alerts. Whatever a message does wrong is InvalidMessage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from schemas import avro, framing, json_text
from schemas import headers as names
from schemas.alert import AlertEvent
from schemas.alert_codec import alert_from, alert_record
from schemas.canonical import canonical_json, payload_digest
from schemas.codes import ErrorCode
from schemas.envelope import Encoding, event_headers, header, read_envelope
from schemas.fields import Fields
from schemas.invalid import InvalidMessage, malformed, shown
from schemas.job import AuthenticationJob
from schemas.job_codec import check_ids, checked_job, job_from, job_json, job_record
from schemas.message import Headers, InputRecord
from schemas.verdict import VerdictEvent
from schemas.verdict_codec import verdict_from, verdict_record, with_branches

JOB_SCHEMA = "job.v1.avsc"
VERDICT_SCHEMA = "verdict.v1.avsc"
ALERT_SCHEMA = "alert.v1.avsc"
OF_ALL = b"*"  # key of an alert that concerns no one tenant


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """A message ready to produce; equal input makes equal bytes."""

    key: bytes
    value: bytes = field(repr=False)
    headers: Headers


def parse_job(record: InputRecord, *, max_bytes: int, lookup: framing.SchemaLookup | None = None) -> AuthenticationJob:
    """The job of a record. With a `lookup`, payloads may be framed for a Schema Registry.

    Raises InvalidMessage for whatever is wrong with the message, and nothing else save what the lookup raises.
    """
    if len(record.value) > max_bytes:
        raise _too_large(len(record.value), max_bytes)
    encoding = read_envelope(record.headers, event_type=names.JOB_TYPE)
    fields = _decoded(JOB_SCHEMA, encoding, record.value, lookup)
    tenant, job_id = fields.text("tenant"), fields.text("job_id")
    check_ids(tenant, job_id)
    _check_key(record.key, f"{tenant}/{job_id}".encode())
    try:
        return job_from(fields)
    except InvalidMessage as error:
        if error.code is not ErrorCode.MALFORMED_PAYLOAD:
            error.tenant, error.job_id = tenant, job_id
        raise


def encode_job(job: AuthenticationJob, *, encoding: Encoding, source: str, traceparent: str | None = None) -> Encoded:
    """The message of a job; `source` names the client."""
    value = avro.encode(JOB_SCHEMA, job_record(job)) if encoding == "avro" else canonical_json(job_json(job))
    headers = event_headers(
        event_id=job.job_id,
        source=source,
        event_type=names.JOB_TYPE,
        time=job.submitted_at,
        encoding=encoding,
        traceparent=traceparent,
    )
    return Encoded(key=job.key, value=value, headers=headers)


def encode_verdict(event: VerdictEvent, *, encoding: Encoding, source: str) -> Encoded:
    """The message of a verdict, without `src` and `traceparent`, which belong to a delivery; `source` is the group.

    Raises ValueError for NaN, for a naive time and for a map of the wrong size.
    """
    plain = verdict_record(event)
    value = avro.encode(VERDICT_SCHEMA, with_branches(plain)) if encoding == "avro" else canonical_json(plain)
    headers = event_headers(
        event_id=str(event.result_id),
        source=source,
        event_type=names.VERDICT_TYPE,
        time=event.judged_at,
        encoding=encoding,
    )
    return Encoded(key=f"{event.tenant}/{event.job_id}".encode(), value=value, headers=headers)


def decode_verdict(value: bytes, headers: Headers, *, lookup: framing.SchemaLookup | None = None) -> VerdictEvent:
    """The event of a message of the results topic. Raises InvalidMessage."""
    encoding = read_envelope(headers, event_type=names.VERDICT_TYPE)
    return verdict_from(_decoded(VERDICT_SCHEMA, encoding, value, lookup))


def encode_alert(event: AlertEvent, *, encoding: Encoding, source: str) -> Encoded:
    """The message of an alert. Raises ValueError for NaN, for a naive time and for too many jobs."""
    plain = alert_record(event)
    value = avro.encode(ALERT_SCHEMA, plain) if encoding == "avro" else canonical_json(plain)
    headers = event_headers(
        event_id=str(event.alert_id),
        source=source,
        event_type=names.ALERT_TYPE,
        time=event.raised_at,
        encoding=encoding,
    )
    return Encoded(key=event.tenant.encode() if event.tenant is not None else OF_ALL, value=value, headers=headers)


def decode_alert(value: bytes, headers: Headers) -> AlertEvent:
    """The event of a message of the alerts topic. Raises InvalidMessage."""
    encoding = read_envelope(headers, event_type=names.ALERT_TYPE)
    return alert_from(_decoded(ALERT_SCHEMA, encoding, value, None))


def _decoded(schema: str, encoding: Encoding, value: bytes, lookup: framing.SchemaLookup | None) -> Fields:
    if framing.is_framed(value) and lookup is None:
        raise malformed("the payload is framed for a Schema Registry: configure one, or send without the frame")
    if encoding == "json":
        plain = json_text.decode(framing.unframe(value)[1] if framing.is_framed(value) else value)
        return Fields(plain)
    return Fields(_decoded_avro(schema, value, lookup))


def _decoded_avro(schema: str, value: bytes, lookup: framing.SchemaLookup | None) -> Mapping[str, object]:
    if lookup is None or not framing.is_framed(value):
        return avro.decode(schema, value)
    writer_schema, payload = framing.sender_schema(value, lookup)
    return avro.decode(schema, payload, writer_schema=writer_schema)


def _check_key(key: bytes | None, expected: bytes) -> None:
    if key != expected:
        detail = f"the key is {shown(key)}: it must be tenant/job_id, here {shown(expected)}"
        raise InvalidMessage(ErrorCode.KEY_MISMATCH, detail)


def _too_large(size: int, limit: int) -> InvalidMessage:
    detail = f"the message has {size} bytes of at most {limit}: send its images by URI"
    return InvalidMessage(ErrorCode.MESSAGE_TOO_LARGE, detail)


__all__ = [
    "AlertEvent",
    "Encoded",
    "Encoding",
    "InvalidMessage",
    "checked_job",
    "decode_alert",
    "decode_verdict",
    "encode_alert",
    "encode_job",
    "encode_verdict",
    "header",
    "parse_job",
    "payload_digest",
]
