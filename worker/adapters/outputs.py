"""The one output record of each outcome: an answer, a retry or a dead letter. Pure: the memory twin uses it too.

Every output names its input in the header `src` and carries the input's trace on.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Protocol
from uuid import UUID, uuid5

from schemas import headers as names
from schemas.codes import ErrorCode
from schemas.envelope import dead_letter_headers, header, retry_headers
from schemas.message import Headers, InputRecord, OutputRecord, Source
from worker.outcomes import Judged, Rejected, Retry

DEAD_LETTER_NAMESPACE = UUID("0e0a1c53-3b0e-5f2b-9d5c-6f0b5a6a7e11")
TRACE = (names.TRACEPARENT, names.TRACESTATE)


class OutputTopics(Protocol):
    @property
    def results(self) -> str: ...
    @property
    def dlq(self) -> str: ...
    @property
    def retry(self) -> tuple[str, ...]: ...
    @property
    def jobs_slow(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A verdict as it was published first: `headers` without src and trace."""

    key: bytes
    value: bytes = field(repr=False)
    headers: Headers


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A message that got no verdict, with its original bytes. `letter_id` is the same at each redelivery."""

    letter_id: UUID
    tenant: str | None
    job_id: str | None
    source: Source
    code: ErrorCode
    stage: str
    detail: str
    key: bytes | None
    value: bytes = field(repr=False)
    headers: Headers
    attempt: int
    first_seen: datetime


def answer_record(answer: Answer, record: InputRecord, *, topic: str, duplicate: bool = False) -> OutputRecord:
    own = _own(record, duplicate=duplicate)
    return OutputRecord(topic=topic, key=answer.key, value=answer.value, headers=answer.headers + own)


def retry_record(outcome: Retry, topics: OutputTopics) -> OutputRecord:
    """The original record, for the lane of its next attempt or, a straggler's, for the slow lane."""
    record = outcome.record
    attempt = outcome.attempt if outcome.straggler else outcome.attempt + 1
    headers = retry_headers(record, attempt=attempt, due=outcome.due, first_seen=outcome.first_seen)
    lane = topics.retry[min(outcome.attempt, len(topics.retry)) - 1]
    topic = topics.jobs_slow if outcome.straggler else lane
    return OutputRecord(topic=topic, key=record.key, value=record.value, headers=headers)


def dead_letter_record(
    letter: DeadLetter, record: InputRecord, *, topic: str, group: str, duplicate: bool = False
) -> OutputRecord:
    """The letter's original key, value and headers, and what went wrong, in answer to `record`."""
    headers = dead_letter_headers(
        replace(record, source=letter.source, headers=letter.headers),
        dead_letter_id=letter.letter_id,
        code=letter.code,
        stage=letter.stage,
        detail=letter.detail,
        error_class="RejectJob",
        attempt=letter.attempt,
        first_seen=letter.first_seen,
        source=group,
    )
    own = _own(record, duplicate=duplicate)
    anew = {name for name, _ in own}
    kept = tuple((name, value) for name, value in headers if name not in anew)
    return OutputRecord(topic=topic, key=letter.key, value=letter.value, headers=kept + own)


def rejected_letter(outcome: Rejected) -> DeadLetter:
    job = outcome.job
    return _letter(
        outcome.record,
        job_key=(job.tenant, job.job_id) if job else (None, None),
        code=outcome.code,
        stage=outcome.stage,
        detail=outcome.detail,
        attempt=outcome.attempt,
        first_seen=outcome.first_seen,
    )


def conflict_letter(outcome: Judged | Rejected, *, stored_digest: str) -> DeadLetter:
    """The job's id was taken by other content."""
    job = outcome.job
    assert job is not None  # noqa: S101 # only readable jobs claim
    return _letter(
        outcome.record,
        job_key=(job.tenant, job.job_id),
        code=ErrorCode.JOB_ID_CONFLICT,
        stage="settle",
        detail=f"job_id {job.job_id!r} was answered with other content (payload digest {stored_digest[:12]}..., "
        f"this one {job.payload_digest[:12]}...): send new content under a new job_id",
        attempt=outcome.attempt,
        first_seen=first_seen(outcome.record),
    )


def erased_letter(outcome: Judged | Rejected) -> DeadLetter:
    """The job's data was erased. The letter keeps nothing of the message but its key: its content would come back."""
    job = outcome.job
    assert job is not None  # noqa: S101 # only readable jobs claim
    letter = _letter(
        outcome.record,
        job_key=(job.tenant, job.job_id),
        code=ErrorCode.ERASED,
        stage="settle",
        detail=f"job_id {job.job_id!r} was answered, and its data erased since: it is not judged again",
        attempt=outcome.attempt,
        first_seen=first_seen(outcome.record),
    )
    return replace(letter, value=b"", headers=())


def nothing_letter(outcome: Judged | Rejected, *, why: str) -> DeadLetter:
    """The record supersedes a verdict that there is not."""
    job = outcome.job
    assert job is not None  # noqa: S101 # only readable jobs claim
    return _letter(
        outcome.record,
        job_key=(job.tenant, job.job_id),
        code=ErrorCode.NOTHING_TO_SUPERSEDE,
        stage="settle",
        detail=f"{why}; send the job itself, without supersedes",
        attempt=outcome.attempt,
        first_seen=first_seen(outcome.record),
    )


def letter_id(record: InputRecord) -> UUID:
    """The id of the letter that would answer this record. The content is part of it: topics can be made anew under an
    old database, with the offsets of the first ones."""
    content = sha256((record.key or b"") + b"\x00" + record.value).hexdigest()
    return uuid5(DEAD_LETTER_NAMESPACE, f"{record.source}\x00{content}")


def first_seen(record: InputRecord) -> datetime:
    """When the job was first delivered: kept in a header through retries, else the record's own time."""
    kept = header(record.headers, names.FIRST_SEEN_MS) or ""
    milliseconds = int(kept) if kept.isascii() and kept.isdigit() and len(kept) < 15 else max(record.timestamp_ms, 0)
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def replay_of(record: InputRecord) -> UUID | None:
    """The dead letter that the record says it is a replay of."""
    try:
        return UUID(header(record.headers, names.REPLAY_OF) or "")
    except ValueError:
        return None


def _letter(
    record: InputRecord,
    *,
    job_key: tuple[str | None, str | None],
    code: ErrorCode,
    stage: str,
    detail: str,
    attempt: int,
    first_seen: datetime,
) -> DeadLetter:
    tenant, job_id = job_key
    return DeadLetter(
        letter_id=letter_id(record),
        tenant=tenant,
        job_id=job_id,
        source=record.source,
        code=code,
        stage=stage,
        detail=_storable(detail),
        key=record.key,
        value=record.value,
        headers=record.headers,
        attempt=attempt,
        first_seen=first_seen,
    )


def _own(record: InputRecord, *, duplicate: bool = False) -> Headers:
    trace = [(name, value) for name, value in record.headers if name in TRACE]
    mark = [(names.DUPLICATE, b"1")] if duplicate else []
    return ((names.SRC, str(record.source).encode()), *trace, *mark)


def _storable(detail: str) -> str:
    """PostgreSQL's text knows neither NUL nor lone surrogates, and a malformed message may quote either."""
    return detail.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
