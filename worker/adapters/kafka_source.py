"""The consumer side on librdkafka: one record at a time, explicit start offsets, rebalances told to a listener.

Records are read with `poll()`; `consume(n)` may return records of partitions that were revoked during the call.

Two faults of the client (confluent-kafka 2.16) decide how it is used here. On Python 3.11 an exception that leaves a
rebalance callback comes out of `poll` or `close` as a SystemError, or as a KafkaError that no `except` catches: so
none leaves it, see `_kept`. And a consumer that is dropped without `close` while a rebalance waits for its callback
blocks the garbage collector for ever: so whoever makes a KafkaSource closes it, come what may.
"""

from __future__ import annotations

import logging
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import structlog
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from schemas.message import InputRecord, Source
from worker.adapters.kafka_errors import EXIT_KAFKA, check_consumer_error, no_answer, opened, raise_fatal
from worker.adapters.kafka_topic_ids import TopicIds
from worker.errors import AbortTransaction, Fatal
from worker.ports import Partition, RebalanceListener

Assignor = Literal["cooperative-sticky", "range", "consumer"]  # the last is KIP-848

SESSION_TIMEOUT_MS = 6_000
# Longer than the 10 s after which the broker aborts the transaction of a killed predecessor, plus its cleaning.
OFFSET_DEADLINE_S = 30.0
OFFSET_TRY_S = 5.0
READ_SETTINGS: Mapping[str, Any] = {
    "enable.auto.commit": False,
    "isolation.level": "read_committed",
    "auto.offset.reset": "error",
    "socket.timeout.ms": 30_000,  # a connection whose broker has gone without a word is given up after this
    "fetch.max.bytes": 8 * 1024 * 1024,  # on a thin line an answer must come within the time above
    "queued.max.messages.kbytes": 131_072,
    "fetch.queue.backoff.ms": 20,
    "fetch.error.backoff.ms": 100,
}
LAG_EVERY_S = 2.0
METADATA_EVERY_S = 0.5
METADATA_MAGIC = b"CGMDv2:"
_log = structlog.get_logger()


class KafkaSource:
    """A JobSource of one consumer. `subscribe` starts it; `group_metadata` and `lag` may be called by any thread."""

    def __init__(
        self,
        *,
        client_config: Mapping[str, Any],
        group: str,
        topics: Sequence[str],
        assignor: Assignor = "cooperative-sticky",
        instance_id: str | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> None:
        self._topics = list(topics)
        self._incremental = assignor != "range"
        self._epochs: dict[Partition, int] = {}
        self._paused: set[Partition] = set()  # as the client has them, also of partitions that were given up
        config = {
            **client_config,
            **READ_SETTINGS,
            **_membership(group, assignor, instance_id),
            **(overrides or {}),
            "error_cb": _log_client_error,
        }
        self._consumer = opened(lambda: Consumer(config, logger=logging.getLogger("librdkafka")))
        self._topic_ids = TopicIds(client_config, topics)
        self._listener: RebalanceListener | None = None
        self._closing = False
        self._failure: BaseException | None = None  # what a rebalance raised
        self._metadata: bytes | None = None
        self._metadata_read_s = 0.0
        self._metadata_used = False
        self._lag: dict[Partition, int] = {}
        self._lag_read_s = 0.0

    def subscribe(self, listener: RebalanceListener) -> KafkaSource:
        """Join the group. The listener is called inside `poll` and `close`."""
        self._listener = listener
        self._consumer.subscribe(
            self._topics,
            on_assign=self._kept(self._assigned), on_revoke=self._kept(self._revoked), on_lost=self._kept(self._lost),
        )  # fmt: skip
        return self

    def poll(self, timeout_s: float) -> InputRecord | None:
        """The next record, or None. Raises what a rebalance raised; Fatal, ConfigurationError for what nobody mends."""
        try:
            message = self._consumer.poll(timeout_s)
        except KafkaException as failure:  # so the client tells of a fatal error
            raise_fatal(failure.args[0], "polling")
        self._raise_kept()
        self._refresh()
        if message is None:
            return None
        error = message.error()
        if error is not None:
            self._note(error, f"{message.topic()}/{message.partition()}")
            return None
        epoch = self._epochs.get((message.topic(), message.partition()))
        return None if epoch is None else input_record(message, epoch)

    def pause(self, partitions: Iterable[Partition]) -> None:
        owned = [partition for partition in partitions if partition in self._epochs]
        self._paused.update(owned)
        self._consumer.pause([TopicPartition(*partition) for partition in owned])

    def resume(self, partitions: Iterable[Partition]) -> None:
        owned = [partition for partition in partitions if partition in self._epochs]
        self._paused.difference_update(owned)
        self._consumer.resume([TopicPartition(*partition) for partition in owned])

    def close(self) -> None:
        """Leave the group; the listener hears of the partitions that are given up. Raises what it raised."""
        self._closing = True
        self._consumer.close()
        self._topic_ids.close()
        self._metadata = None
        self._epochs.clear()
        self._raise_kept()

    def group_metadata(self) -> bytes:
        """The group's metadata for a transaction, half a second old at most. Raises AbortTransaction outside a group.

        Without a generation the broker would take the offsets of anybody: a consumer that has not joined, or was
        thrown out, must not commit. It is read by the polling thread, because the client lets no other thread in
        while a rebalance callback waits for settle: in each rebalance, and after each use, so that a transaction
        which the broker refused for its old generation is not made again with the same. Not with every poll: it
        asks another thread and holds the interpreter meanwhile.
        """
        metadata = self._metadata
        self._metadata_used = True
        if metadata is None or generation_of(metadata) < 0:
            raise AbortTransaction("the consumer is not a member of its group", fenced=True)
        return metadata

    def lag(self) -> dict[Partition, int]:
        """Records between the position and the end of each assigned partition, as of a moment ago; any thread.

        It is read by the polling thread: the client lets no other thread in while that one waits for records.
        """
        return self._lag

    def _refresh(self) -> None:
        now_s = time.monotonic()
        if self._metadata_used or now_s - self._metadata_read_s >= METADATA_EVERY_S:
            self._refresh_metadata()
        if now_s - self._lag_read_s >= LAG_EVERY_S:
            self._lag_read_s = now_s
            self._lag = {partition: self._behind(partition) for partition in self._epochs}
        self._topic_ids.check()

    def _behind(self, partition: Partition) -> int:
        try:
            place = TopicPartition(*partition)
            low, high = self._consumer.get_watermark_offsets(place, cached=True)
            position = self._consumer.position([place])[0].offset
        except (RuntimeError, KafkaException):  # closed, or revoked a moment ago
            return 0
        return max(0, high - max(position, low)) if high >= 0 else 0

    def _refresh_metadata(self) -> None:
        self._metadata_used = False
        self._metadata_read_s = time.monotonic()
        try:
            self._metadata = self._consumer.consumer_group_metadata()
        except RuntimeError as gone:
            # Inside `close` the client may have left the group before it calls back; the broker judges what was known.
            _log.info("group_metadata_unavailable", closing=self._closing, error=str(gone))

    def _note(self, error: KafkaError, place: str) -> None:
        check_consumer_error(error, place)
        _log.warning("kafka_consumer_error", place=place, error=str(error))

    def _kept(
        self, callback: Callable[[list[TopicPartition]], None]
    ) -> Callable[[Consumer, list[TopicPartition]], None]:
        """`callback` as the client may call it: what it raises is raised when `poll` or `close` is over."""

        def call(_consumer: Consumer, partitions: list[TopicPartition]) -> None:
            try:
                callback(partitions)
            except BaseException as error:
                self._failure = self._failure or error

        return call

    def _raise_kept(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _assigned(self, partitions: list[TopicPartition]) -> None:
        if self._closing:  # an assignment that came too late
            return self._take([])
        self._refresh_metadata()
        places = self._start_offsets(partitions)
        if self._listener is not None and (places or not self._incremental):
            names = _names(places)
            self._epochs.update(dict.fromkeys(names, self._listener.assigned(names)))
        self._take(places)
        # A pause from before they were revoked would hold on in the client, for ever. What was never paused is left
        # alone: a resumption so close to the assignment can meet the start of the fetching.
        self.resume(self._paused.intersection(_names(places)))
        _log.info("partitions_assigned", partitions=len(places))

    def _revoked(self, partitions: list[TopicPartition]) -> None:
        self._refresh_metadata()  # what drains now is committed under the generation of the revocation
        if self._listener is not None:
            self._listener.revoked(_names(partitions))
        self._unassign(partitions)
        _log.info("partitions_revoked", partitions=len(partitions))

    def _lost(self, partitions: list[TopicPartition]) -> None:
        self._metadata = None
        if self._listener is not None:
            self._listener.lost(_names(partitions))
        self._unassign(partitions)
        _log.warning("partitions_lost", partitions=len(partitions))

    def _take(self, places: list[TopicPartition]) -> None:
        with self._unless_gone():
            (self._consumer.incremental_assign if self._incremental else self._consumer.assign)(places)

    def _unassign(self, partitions: list[TopicPartition]) -> None:
        for name in _names(partitions):
            self._epochs.pop(name, None)
        with self._unless_gone():
            if self._incremental:
                self._consumer.incremental_unassign(partitions)
            else:
                self._consumer.unassign()

    @contextmanager
    def _unless_gone(self) -> Iterator[None]:
        """Inside `close` the client may have left the group before it calls back; then nothing takes the answer."""
        try:
            yield
        except KafkaException as failure:
            if not self._closing:
                raise_fatal(failure.args[0], "answering a rebalance")
            _log.info("left_during_rebalance", error=str(failure.args[0]))

    def _start_offsets(self, partitions: list[TopicPartition]) -> list[TopicPartition]:
        """The committed offsets, or the beginning where the group has none: then nothing was ever read.

        Explicit, because a reset policy cannot tell a new group from one whose offset was deleted unread.
        """
        places = self._committed(partitions) if partitions else []
        for place in places:
            if place.offset < 0:
                place.offset = OFFSET_BEGINNING
        return places

    def _committed(self, partitions: list[TopicPartition]) -> list[TopicPartition]:
        """Waits for a predecessor's open transaction, which hides its offsets. Raises Fatal after the deadline."""
        deadline_s = time.monotonic() + OFFSET_DEADLINE_S
        while True:
            try:
                found: list[TopicPartition] = self._consumer.committed(partitions, timeout=OFFSET_TRY_S)
                return found
            except KafkaException as failure:
                error = failure.args[0]
                if not (no_answer(error) or error.retriable()):
                    raise_fatal(error, "reading the committed offsets")
                if time.monotonic() > deadline_s:
                    raise Fatal(
                        f"no committed offsets in {OFFSET_DEADLINE_S} s: {error}", exit_code=EXIT_KAFKA
                    ) from failure


def input_record(message: Message, epoch: int) -> InputRecord:
    """A client's message as an InputRecord; the value is not copied again."""
    return InputRecord(
        source=Source(topic=message.topic(), partition=message.partition(), offset=message.offset()),
        epoch=epoch,
        key=message.key(),
        value=message.value() or b"",
        headers=tuple((name, value or b"") for name, value in message.headers() or ()),
        timestamp_ms=max(0, message.timestamp()[1]),
    )


def generation_of(metadata: bytes) -> int:
    """The generation in serialised group metadata; -1 outside a group. Raises Fatal for a form that is not known."""
    if not metadata.startswith(METADATA_MAGIC):
        raise Fatal(f"unknown group metadata {metadata[:8]!r}: this librdkafka is not supported", exit_code=EXIT_KAFKA)
    (generation,) = struct.unpack_from("<i", metadata, len(METADATA_MAGIC))
    return int(generation)


def _membership(group: str, assignor: Assignor, instance_id: str | None) -> dict[str, Any]:
    config: dict[str, Any] = {"group.id": group}
    if instance_id is not None:
        config["group.instance.id"] = instance_id
    if assignor == "consumer":  # the session is the broker's setting then
        return {**config, "group.protocol": "consumer"}
    classic = {"partition.assignment.strategy": assignor, "session.timeout.ms": SESSION_TIMEOUT_MS}
    return {**config, **classic, "heartbeat.interval.ms": SESSION_TIMEOUT_MS // 3}


def _names(partitions: Iterable[TopicPartition]) -> list[Partition]:
    return [(place.topic, place.partition) for place in partitions]


def _log_client_error(error: KafkaError) -> None:
    _log.warning("kafka_client_error", client="consumer", error=str(error))


SourceFactory = Callable[[RebalanceListener], KafkaSource]
