"""From items to jobs on their topic, and back to what answered them: for `assay submit`, the demo and benchmarks."""

from __future__ import annotations

import hashlib
import secrets
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any, Literal, Protocol
from urllib.parse import quote

from schemas.codec import InvalidMessage, checked_job, decode_verdict, encode_job
from schemas.codes import ErrorCode
from schemas.envelope import Encoding, header
from schemas.headers import DEAD_LETTER_ID, ERROR_CODE, ERROR_MESSAGE
from schemas.job import AuthenticationJob, JobView, Priority
from schemas.message import InputRecord, OutputRecord
from schemas.verdict import VerdictEvent
from worker.adapters.kafka_follower import KafkaFollower
from worker.adapters.kafka_sender import KafkaSender
from worker.errors import AssayError
from worker.items import InvalidItems, Item

JOB_BYTES = 8 * 1024 * 1024
OTHER_BYTES = 64 * 1024  # of a job: all but its photographs
INLINE_BYTES: Mapping[Encoding, int] = {
    "avro": JOB_BYTES - OTHER_BYTES,
    "json": (JOB_BYTES - OTHER_BYTES) * 3 // 4,  # base64 takes a third more
}
SOURCE = "assay-submit"
MEDIA_TYPES = ((b"\xff\xd8\xff", "image/jpeg"), (b"\x89PNG\r\n", "image/png"), (b"RIFF", "image/webp"))
Transport = Literal["auto", "inline", "uri"]


class LaneTopics(Protocol):
    """worker.settings.Topics, or anything with its names."""

    @property
    def jobs(self) -> str: ...
    @property
    def jobs_high(self) -> str: ...
    @property
    def jobs_bulk(self) -> str: ...
    @property
    def results(self) -> str: ...
    @property
    def dlq(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """A job that was answered with a dead letter."""

    letter_id: str
    code: ErrorCode | str
    detail: str


Reply = VerdictEvent | Lost


def build_job(
    item: Item,
    *,
    tenant: str,
    transport: Transport = "auto",
    encoding: Encoding = "avro",
    file_root: Path | None = None,
    priority: Priority = "normal",
    job_id: str | None = None,
    deadline: datetime | None = None,
) -> AuthenticationJob:
    """The job of an item: bytes inline up to 8 MiB, else `file:` URIs below `file_root`. Raises InvalidItems."""
    data = {view: _read(item, view, place) for view, place in item.views.items() if isinstance(place, Path)}
    inline = _goes_inline(item, data, transport, INLINE_BYTES[encoding])
    views = [_job_view(item, view, data.get(view), inline, file_root) for view in item.views]
    try:
        return checked_job(
            job_id=job_id or str(uuid.uuid4()),
            tenant=tenant,
            sku=item.sku,
            category=item.category,
            submitted_at=datetime.now(UTC),
            deadline=deadline,
            priority=priority,
            serial=item.serial,
            labels=item.labels,
            views=views,
        )
    except InvalidMessage as error:
        raise InvalidItems(f"item {item.name!r}: {error.detail}") from error


def submit_jobs(
    jobs: Iterable[AuthenticationJob],
    *,
    client_config: Mapping[str, Any],
    topics: LaneTopics,
    encoding: Encoding = "avro",
    source: str = SOURCE,
    delivered: Callable[[OutputRecord], None] = lambda record: None,
) -> None:
    """Produce each job to its priority's topic and return once all are confirmed.

    Raises AssayError: ServiceUnavailable without a broker, others for what Kafka refuses.
    """
    sender = KafkaSender(client_config)
    sender.send((job_record(job, topics, encoding, source) for job in jobs), delivered=delivered)


def job_record(
    job: AuthenticationJob, topics: LaneTopics, encoding: Encoding = "avro", source: str = SOURCE
) -> OutputRecord:
    """The job's record, with a trace of its own."""
    encoded = encode_job(job, encoding=encoding, source=source, traceparent=new_traceparent())
    return OutputRecord(
        topic=lane_of(job.priority, topics), key=encoded.key, value=encoded.value, headers=encoded.headers
    )


def lane_of(priority: Priority, topics: LaneTopics) -> str:
    return {"high": topics.jobs_high, "normal": topics.jobs, "bulk": topics.jobs_bulk}[priority]


def new_traceparent() -> str:
    """A sampled W3C trace context of random ids."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


class Answers:
    """What answers jobs, from the moment this is made. Make it before submitting, and close it."""

    def __init__(self, client_config: Mapping[str, Any], topics: LaneTopics) -> None:
        self._dlq = topics.dlq
        self._follower = KafkaFollower(client_config, [topics.results, topics.dlq])

    def wait(self, jobs: Sequence[AuthenticationJob], *, timeout_s: float) -> Iterator[tuple[AuthenticationJob, Reply]]:
        """Yield each job with its first answer, as they come; ends when all have one or the time is up. To a job that
        supersedes a verdict, that verdict published once more is no answer."""
        open_jobs = {job.key: job for job in jobs}
        until = monotonic() + timeout_s
        while open_jobs and (left_s := until - monotonic()) > 0:
            record = self._follower.poll(min(left_s, 1.0))
            if record is None or record.key not in open_jobs:
                continue
            reply = read_reply(record, self._dlq)
            if isinstance(reply, Lost) or reply.revision == open_jobs[record.key].revision:
                yield open_jobs.pop(record.key), reply

    def close(self) -> None:
        self._follower.close()


def read_reply(record: InputRecord, dlq_topic: str) -> Reply:
    """The verdict or dead letter of a record of the results or dead-letter topic. Raises AssayError."""
    if record.source.topic == dlq_topic:
        return Lost(
            letter_id=header(record.headers, DEAD_LETTER_ID) or "",
            code=header(record.headers, ERROR_CODE) or "unknown",
            detail=header(record.headers, ERROR_MESSAGE) or "",
        )
    try:
        return decode_verdict(record.value, record.headers)
    except InvalidMessage as error:
        raise AssayError(f"the record {record.source} is no verdict that this version reads: {error.detail}") from error


def _read(item: Item, view: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidItems(f"item {item.name!r}, view {view}: {path} cannot be read: {error.strerror}") from error


def _goes_inline(item: Item, data: Mapping[str, bytes], transport: Transport, limit: int) -> bool:
    size = sum(len(photograph) for photograph in data.values())
    if transport == "inline" and size > limit:
        raise InvalidItems(
            f"item {item.name!r}: {size} bytes of photographs exceed a job's limit of {limit}; use --uri"
        )
    return transport == "inline" or (transport == "auto" and size <= limit)


def _job_view(item: Item, view: str, data: bytes | None, inline: bool, file_root: Path | None) -> JobView:
    place = item.views[view]
    if data is None:
        digest = item.digests.get(view)
        if digest is None:
            raise InvalidItems(f"item {item.name!r}, view {view}: a URI needs its 'sha256' in the manifest")
        return JobView(view=view, sha256=digest, uri=str(place))
    digest = hashlib.sha256(data).hexdigest()
    if inline:
        return JobView(view=view, sha256=digest, data=data, media_type=_media_type(data))
    return JobView(view=view, sha256=digest, uri=_file_uri(Path(place), file_root), media_type=_media_type(data))


def _media_type(data: bytes) -> str | None:
    return next((name for magic, name in MEDIA_TYPES if data.startswith(magic)), None)


def _file_uri(path: Path, file_root: Path | None) -> str:
    """The photograph's place below the folder that workers serve `file:` from."""
    if file_root is None:
        raise InvalidItems(f"{path} must be sent by URI: set ASSAY_IMAGES__FILE_ROOT to the folder that workers read")
    try:
        relative = path.resolve().relative_to(file_root.resolve())
    except ValueError:
        raise InvalidItems(f"{path} is not below the file root {file_root}; move it there or use --inline") from None
    return f"file:{quote(relative.as_posix())}"
