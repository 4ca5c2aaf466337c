"""Reads topics end to end, as a reader of either isolation level sees them, and what the broker holds open."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from sys import intern
from typing import Any, Literal

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from schemas import headers as names
from tests.chaos.observation import Headers, Input, Kind, OpenTransaction, Output, PartitionEnd
from worker.topics import Topics

Isolation = Literal["read_committed", "read_uncommitted"]
Partition = tuple[str, int]
ANSWER_S = 20.0
SILENCE_S = 60.0  # a partition that gives neither a record nor its end for so long cannot be read
MANY = 1_000
# Values that many records share are kept once.
SHARED = frozenset(
    {
        names.CE_SPECVERSION, names.CE_TYPE, names.CE_SOURCE, names.CONTENT_TYPE, names.ATTEMPT, names.ERROR_CODE,
        names.ERROR_STAGE, names.ERROR_CLASS, names.ERROR_TOPIC, names.ERROR_PARTITION,
    }
)  # fmt: skip


class Unreadable(Exception):
    """A topic could not be read to its end; the message says where it stopped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One consumer group and the topics that it works on."""

    group: str
    topics: Topics

    def kinds(self) -> Mapping[str, Kind]:
        """What a worker's record in a topic is."""
        retries: dict[str, Kind] = dict.fromkeys(self.topics.retry, "retry")
        return {self.topics.results: "result", self.topics.dlq: "dead", self.topics.jobs_slow: "slow", **retries}


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """`torn` are records that a read_committed reader gets and a read_uncommitted one does not."""

    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    torn: tuple[str, ...]


def read_streams(kafka: Mapping[str, Any], deployment: Deployment) -> Streams:
    """Every record of the deployment's topics, and which of them are committed. Raises Unreadable."""
    kinds = deployment.kinds()
    topics = tuple(dict.fromkeys((*deployment.topics.consumed, *kinds)))
    committed: dict[Partition, set[int]] = {}
    for message in read_all(kafka, topics, "read_committed"):
        committed.setdefault((message.topic(), message.partition()), set()).add(message.offset())
    inputs, outputs, shared = [], [], _Shared()
    for message in read_all(kafka, topics, "read_uncommitted"):
        offsets = committed.get((message.topic(), message.partition()), set())
        visible = message.offset() in offsets
        offsets.discard(message.offset())
        record = _input(message, visible, shared)
        if message.topic() in deployment.topics.consumed:
            inputs.append(record)
        if message.topic() in kinds and (output := _output(record, kinds[message.topic()])) is not None:
            outputs.append(output)
    torn = tuple(f"{topic}/{number}: {sorted(left)[:9]}" for (topic, number), left in committed.items() if left)
    return Streams(inputs=tuple(inputs), outputs=tuple(outputs), torn=torn)


def read_all(kafka: Mapping[str, Any], topics: Sequence[str], isolation: Isolation) -> Iterator[Message]:
    """Every record that a reader of that level gets before the end of each partition. Raises Unreadable."""
    consumer = open_reader(kafka, isolation)
    try:
        places = partitions_of(consumer, topics)
        consumer.assign([TopicPartition(*place, OFFSET_BEGINNING) for place in places])
        yield from _to_the_ends(consumer, set(places))
    except KafkaException as failure:
        raise Unreadable(f"{isolation}: {failure}") from failure
    finally:
        consumer.close()


def open_reader(kafka: Mapping[str, Any], isolation: Isolation) -> Consumer:
    """A consumer outside every group, which tells the end of each partition."""
    return Consumer(
        {
            **kafka, "group.id": "chaos.reading", "enable.auto.commit": False, "enable.auto.offset.store": False,
            "isolation.level": isolation, "enable.partition.eof": True, "auto.offset.reset": "error",
            "queued.max.messages.kbytes": 65_536, "check.crcs": True,
        }
    )  # fmt: skip


def partitions_of(consumer: Consumer, topics: Sequence[str]) -> list[Partition]:
    known = consumer.list_topics(timeout=ANSWER_S).topics
    return [(topic, number) for topic in topics if topic in known for number in known[topic].partitions]


def read_ends(kafka: Mapping[str, Any], deployment: Deployment) -> tuple[PartitionEnd, ...]:
    """Where each consumed partition begins and ends, and what the group has committed. Raises Unreadable."""
    consumer = open_reader(kafka, "read_committed")
    try:
        places = partitions_of(consumer, deployment.topics.consumed)
        committed = _committed(kafka, deployment.group, places)
        return tuple(_end(consumer, place, committed.get(place)) for place in places)
    except KafkaException as failure:
        raise Unreadable(f"the offsets of {deployment.group}: {failure}") from failure
    finally:
        consumer.close()


def read_unstable(kafka: Mapping[str, Any], deployment: Deployment) -> tuple[OpenTransaction, ...]:
    """Partitions whose committed readers are held back by an open transaction. Raises Unreadable."""
    admin, consumer = AdminClient(dict(kafka)), open_reader(kafka, "read_committed")
    try:
        topics = tuple(dict.fromkeys((*deployment.topics.consumed, *deployment.kinds())))
        places = partitions_of(consumer, topics)
        stable = _latest(admin, places, IsolationLevel.READ_COMMITTED)
        last = _latest(admin, places, IsolationLevel.READ_UNCOMMITTED)
    except KafkaException as failure:
        raise Unreadable(f"the ends of the topics of {deployment.group}: {failure}") from failure
    finally:
        consumer.close()
    return tuple(
        OpenTransaction(transactional_id=f"unknown, in {place[0]}/{place[1]} at {stable[place]}", state="Ongoing")
        for place in places
        if stable[place] < last[place]
    )


def plain_headers(message: Message) -> Headers:
    """As the worker reads them: a null value is an empty one."""
    return tuple((name, value or b"") for name, value in message.headers() or ())


def value_digest(message: Message) -> str:
    return sha256(message.value() or b"").hexdigest()


class _Shared:
    """One copy of each header's name and of values that many records share."""

    def __init__(self) -> None:
        self._values: dict[bytes, bytes] = {}

    def headers(self, message: Message) -> Headers:
        return tuple((intern(name), self._value(name, value)) for name, value in plain_headers(message))

    def _value(self, name: str, value: bytes | None) -> bytes | None:
        return self._values.setdefault(value, value) if name in SHARED and value is not None else value


def _to_the_ends(consumer: Consumer, open_places: set[Partition]) -> Iterator[Message]:
    while open_places:
        messages = consumer.consume(MANY, 0.2) or consumer.consume(1, SILENCE_S)
        if not messages:
            raise Unreadable(f"nothing came for {SILENCE_S:.0f} s, and the end of {sorted(open_places)} neither")
        for message in messages:
            error = message.error()
            if error is None:
                yield message
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 (that is its name)
                open_places.discard((message.topic(), message.partition()))
            elif not error.retriable():
                raise Unreadable(f"{message.topic()}/{message.partition()}: {error}")


def _input(message: Message, visible: bool, shared: _Shared) -> Input:
    return Input(
        topic=intern(message.topic()), partition=message.partition(), offset=message.offset(), key=message.key(),
        value_digest=value_digest(message), headers=shared.headers(message), timestamp_ms=message.timestamp()[1],
        committed=visible,
    )  # fmt: skip


def _output(record: Input, kind: Kind) -> Output | None:
    """None for what no worker wrote: a dead letter's replay, sent to the lane that it came from."""
    src = next((value for name, value in reversed(record.headers) if name == names.SRC), None)
    replayed = any(name == names.REPLAY_OF for name, _ in record.headers)
    if src is None and replayed and kind in ("retry", "slow"):
        return None
    return Output(
        topic=record.topic, partition=record.partition, offset=record.offset, kind=kind, key=record.key,
        value_digest=record.value_digest, headers=record.headers, timestamp_ms=record.timestamp_ms,
        src=None if src is None else src.decode(errors="replace"), committed=record.committed,
    )  # fmt: skip


def _committed(kafka: Mapping[str, Any], group: str, places: Sequence[Partition]) -> dict[Partition, int]:
    """Asked by a consumer that joins nothing: the admin client's list_consumer_group_offsets ends the process where
    the coordinator still loads."""
    consumer = Consumer({**kafka, "group.id": group, "enable.auto.commit": False})
    try:
        found = consumer.committed([TopicPartition(*place) for place in places], timeout=ANSWER_S)
    finally:
        consumer.close()
    return {(place.topic, place.partition): place.offset for place in found if place.offset >= 0}


def _end(consumer: Consumer, place: Partition, committed: int | None) -> PartitionEnd:
    low, high = consumer.get_watermark_offsets(TopicPartition(*place), timeout=ANSWER_S)
    return PartitionEnd(topic=place[0], partition=place[1], low=low, high=high, committed=committed)


def _latest(admin: AdminClient, places: Sequence[Partition], isolation: IsolationLevel) -> dict[Partition, int]:
    asked = {TopicPartition(*place): OffsetSpec.latest() for place in places}
    futures = admin.list_offsets(asked, isolation_level=isolation, request_timeout=ANSWER_S) if asked else {}
    return {(place.topic, place.partition): future.result(ANSWER_S + 1).offset for place, future in futures.items()}
