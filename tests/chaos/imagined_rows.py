"""The imagined run's records and rows as the plain values that reading would make of the real ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import sha256
from uuid import UUID

from schemas import headers as names
from schemas.message import InputRecord
from schemas.verdict import result_id
from tests.chaos.observation import (
    Input,
    JobRow,
    Kind,
    LetterRow,
    Output,
    ProcessSample,
    Sighting,
    VerdictRow,
    record_digest,
)
from worker.adapters.outputs import Answer, DeadLetter

JOBS, SLOW, RESULTS, DLQ = "jobs", "jobs.slow", "results", "jobs.dlq"
RETRY = ("jobs.retry.1", "jobs.retry.2")
CONSUMED = (JOBS, SLOW, *RETRY)
KINDS: dict[str, Kind] = {
    RESULTS: "result",
    DLQ: "dead",
    SLOW: "slow",
    "jobs.retry.1": "retry",
    "jobs.retry.2": "retry",
}
KINDS_OF_VERDICT = ("authentic", "counterfeit", "inconclusive")


@dataclass(slots=True, kw_only=True)
class Row:
    """A job's end: `letter` is the latest, which a replay may have overtaken by the `answer`."""

    digest: str
    src: str
    answer: Answer | None = None
    letter: DeadLetter | None = None


def digest(value: bytes) -> str:
    return sha256(value).hexdigest()


def due_ms(record: InputRecord) -> int:
    return int(dict(record.headers).get(names.DUE_MS, b"0"))


def attempt_of(record: InputRecord) -> int:
    return int(dict(record.headers).get(names.ATTEMPT, b"1"))


def sighting(record: InputRecord) -> Sighting:
    at = record.source
    told = record_digest(record.key, digest(record.value), record.headers)
    return Sighting(topic=at.topic, partition=at.partition, offset=at.offset, digest=told)


def an_input(record: InputRecord, committed: bool) -> Input:
    at = record.source
    return Input(
        topic=at.topic, partition=at.partition, offset=at.offset, key=record.key, value_digest=digest(record.value),
        headers=record.headers, timestamp_ms=record.timestamp_ms, committed=committed,
    )  # fmt: skip


def an_output(record: InputRecord, committed: bool) -> Output:
    at = record.source
    return Output(
        topic=at.topic, partition=at.partition, offset=at.offset, kind=KINDS[at.topic], key=record.key,
        value_digest=digest(record.value), headers=record.headers, src=dict(record.headers)[names.SRC].decode(),
        timestamp_ms=record.timestamp_ms, committed=committed,
    )  # fmt: skip


def job_row(key: tuple[str, str], row: Row) -> JobRow:
    return JobRow(
        tenant=key[0], job_id=key[1], payload_digest=row.digest, state="judged" if row.answer else "dead",
        result_id=str(result_id(*key, 1)) if row.answer else None,
        dead_letter_id=str(row.letter.letter_id) if row.letter else None, src=row.src,
    )  # fmt: skip


def verdict_row(key: tuple[str, str], answer: Answer) -> VerdictRow:
    number = int(key[1].rpartition("-")[2])
    return VerdictRow(
        result_id=str(result_id(*key, 1)), tenant=key[0], job_id=key[1], revision=1, supersedes=None,
        verdict=KINDS_OF_VERDICT[number % 7 % 3], reasons=(),
        event_digest=digest(answer.value), digest=digest(answer.value),
        event_headers=tuple((name, value.decode()) for name, value in answer.headers),
        content=f"photographs {number % 7}", engine="resnet18",
    )  # fmt: skip


def letter_row(letter: DeadLetter, replayed: set[UUID]) -> LetterRow:
    at = letter.source
    return LetterRow(
        letter_id=str(letter.letter_id), tenant=letter.tenant, job_id=letter.job_id, topic=at.topic,
        partition=at.partition, offset=at.offset, code=letter.code.value, stage=letter.stage, key=letter.key,
        value_digest=digest(letter.value), headers=letter.headers, attempt=letter.attempt,
        replayed=letter.letter_id in replayed,
    )  # fmt: skip


def process_samples() -> Iterable[ProcessSample]:
    before = ProcessSample(process="worker-1", moment="baseline", rss_bytes=200 << 20, handles=40, threads=20)
    return (before, replace(before, moment="end", rss_bytes=220 << 20, handles=41))
