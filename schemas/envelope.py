"""CloudEvents in Kafka headers, binary mode: reading them, and building those of retries and dead letters."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal
from uuid import UUID

from schemas import headers as names
from schemas.canonical import instant_text
from schemas.codes import ErrorCode
from schemas.invalid import InvalidMessage, shown
from schemas.message import Headers, InputRecord

Encoding = Literal["avro", "json"]

CONTENT_TYPES: dict[str, Encoding] = {names.AVRO: "avro", names.JSON: "json"}
MEDIA_TYPES: dict[Encoding, str] = {"avro": names.AVRO, "json": names.JSON}
SPEC_VERSION = "1.0"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MAX_MESSAGE_BYTES = 1024
ORIGINAL = "assay.original."  # prefix of what a dead letter replaced

_ERRORS = "assay.errors."
_RETRY_OWN = frozenset({names.SRC, names.ATTEMPT, names.DUE_MS, names.FIRST_SEEN_MS, names.ORIGIN})


def header(headers: Headers, name: str) -> str | None:
    """The last header of that name as text; None where it is absent, null or not UTF-8."""
    for key, value in reversed(headers):
        if key == name:
            try:
                return bytes(value).decode()
            except (UnicodeDecodeError, TypeError):
                return None
    return None


def event_headers(
    *, event_id: str, source: str, event_type: str, time: datetime, encoding: Encoding, traceparent: str | None = None
) -> Headers:
    """The headers of an event, in a fixed order."""
    texts = [
        (names.CE_SPECVERSION, SPEC_VERSION),
        (names.CE_ID, event_id),
        (names.CE_SOURCE, source),
        (names.CE_TYPE, event_type),
        (names.CE_TIME, instant_text(time)),
        (names.CONTENT_TYPE, MEDIA_TYPES[encoding]),
    ]
    if traceparent is not None:
        texts.append((names.TRACEPARENT, traceparent))
    return _encoded(texts)


def read_envelope(headers: Headers, *, event_type: str) -> Encoding:
    """The payload's encoding. Raises InvalidMessage (malformed_envelope, unsupported_version)."""
    version = _required(headers, names.CE_SPECVERSION, SPEC_VERSION)
    if version != SPEC_VERSION:
        raise _unsupported(names.CE_SPECVERSION, version, SPEC_VERSION)
    kind = _required(headers, names.CE_TYPE, event_type)
    if kind != event_type:
        raise _unsupported(names.CE_TYPE, kind, event_type)
    content_type = _required(headers, names.CONTENT_TYPE, names.AVRO)
    encoding = CONTENT_TYPES.get(content_type.partition(";")[0].strip().lower())
    if encoding is None:
        known = " or ".join(CONTENT_TYPES)
        raise _bad_envelope(f"content-type is {shown(content_type)}: send {known} (CloudEvents binary mode)")
    return encoding


def retry_headers(record: InputRecord, *, attempt: int, due: datetime, first_seen: datetime) -> Headers:
    """Headers of a retry: the record's own, traceparent with them, and the retry's.

    `attempt` is the number that the retry will be: the failed one plus one. `due` and `first_seen` are aware.
    """
    origin = header(record.headers, names.ORIGIN) or str(record.source)
    own = [
        (names.SRC, str(record.source)),
        (names.ATTEMPT, str(attempt)),
        (names.DUE_MS, str(epoch_ms(due))),
        (names.FIRST_SEEN_MS, str(epoch_ms(first_seen))),
        (names.ORIGIN, origin),
    ]
    return _without(record.headers, _RETRY_OWN) + _encoded(own)


def dead_letter_headers(
    record: InputRecord,
    *,
    dead_letter_id: UUID,
    code: ErrorCode,
    stage: str,
    detail: str,
    error_class: str,
    attempt: int,
    first_seen: datetime,
    source: str = "assay",
) -> Headers:
    """Headers of a dead letter: the record's own, traceparent with them, and what went wrong.

    Originals that are replaced are kept as `assay.original.NAME`. `source` is the group.
    """
    own = [
        *_event_part(dead_letter_id, source, first_seen),
        (names.SRC, str(record.source)),
        (names.ATTEMPT, str(attempt)),
        (names.FIRST_SEEN_MS, str(epoch_ms(first_seen))),
        (names.DEAD_LETTER_ID, str(dead_letter_id)),
        (names.ERROR_CODE, code.value),
        (names.ERROR_STAGE, stage),
        (names.ERROR_CLASS, error_class),
        (names.ERROR_MESSAGE, _cut(detail)),
        (names.ERROR_TOPIC, record.source.topic),
        (names.ERROR_PARTITION, str(record.source.partition)),
        (names.ERROR_OFFSET, str(record.source.offset)),
    ]
    replaced = frozenset(name for name, _ in own)
    kept = tuple((ORIGINAL + name if name in replaced else name, value) for name, value in record.headers)
    return kept + _encoded(own)


def original_headers(headers: Headers) -> Headers:
    """The headers that a dead letter's record came with, for its replay; without what retries and Assay added."""
    restored = {name for name, _ in headers if name.startswith(ORIGINAL)}
    return tuple(
        (name.removeprefix(ORIGINAL), value)
        for name, value in headers
        if name.removeprefix(ORIGINAL) not in _RETRY_OWN
        and not name.startswith(_ERRORS)
        and (name in restored or name not in _EVENT_NAMES)
    )


def epoch_ms(instant: datetime) -> int:
    """Milliseconds since 1970 of an aware moment, rounded down."""
    return (instant - EPOCH) // timedelta(milliseconds=1)


_EVENT_NAMES = frozenset({names.CE_SPECVERSION, names.CE_ID, names.CE_SOURCE, names.CE_TYPE, names.CE_TIME})


def _event_part(event_id: UUID, source: str, time: datetime) -> list[tuple[str, str]]:
    return [
        (names.CE_SPECVERSION, SPEC_VERSION),
        (names.CE_ID, str(event_id)),
        (names.CE_SOURCE, source),
        (names.CE_TYPE, names.DEAD_LETTER_TYPE),
        (names.CE_TIME, instant_text(time)),
    ]


def _without(headers: Headers, dropped: frozenset[str]) -> Headers:
    return tuple((name, value) for name, value in headers if name not in dropped)


def _encoded(texts: list[tuple[str, str]]) -> Headers:
    return tuple((name, text.encode()) for name, text in texts)


def _cut(detail: str) -> str:
    """At most 1 KiB of UTF-8 without lone surrogates, cut between characters."""
    return detail.encode(errors="replace")[:MAX_MESSAGE_BYTES].decode(errors="ignore")


def _required(headers: Headers, name: str, example: str) -> str:
    value = header(headers, name)
    if value is None:
        raise _bad_envelope(f"the header {name} is missing or not UTF-8: send {name}={example}")
    return value


def _bad_envelope(detail: str) -> InvalidMessage:
    return InvalidMessage(ErrorCode.MALFORMED_ENVELOPE, detail)


def _unsupported(name: str, value: str, supported: str) -> InvalidMessage:
    return InvalidMessage(ErrorCode.UNSUPPORTED_VERSION, f"{name} is {shown(value)}: this version reads {supported}")
