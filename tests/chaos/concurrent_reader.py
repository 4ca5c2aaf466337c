"""A read_committed reader of results and dead letters while the run goes on: what it saw must stay true (I4, I5)."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from tests.chaos.observation import Coverage, Reader, Sighting, record_digest
from tests.chaos.reading_topics import ANSWER_S, Partition, open_reader, partitions_of, plain_headers, value_digest

POLL_S = 0.5
MANY = 500


class ConcurrentReader:
    """Reads `topics` from their beginning, through every outage of the broker, from `start` to `stop`.

    `kafka` is the client's configuration; it may lead through a proxy.
    """

    def __init__(self, kafka: Mapping[str, Any], topics: Sequence[str], *, name: str = "meanwhile") -> None:
        self._kafka = {**kafka, "client.id": name, "log_level": 0}
        self._topics = tuple(topics)
        self._name = name
        self._stopping = threading.Event()
        self._until_s = 0.0
        self._thread = threading.Thread(target=self._run, name=f"reader-{name}", daemon=True)
        self._position: dict[Partition, int] = {}
        self._sightings: list[Sighting] = []
        self._broke_off: str | None = None

    def start(self) -> ConcurrentReader:
        """Raises KafkaException where the topics cannot be asked for."""
        self._consumer = open_reader(self._kafka, "read_committed")
        places = partitions_of(self._consumer, self._topics)
        self._position = dict.fromkeys(places, 0)
        self._consumer.assign([TopicPartition(*place, OFFSET_BEGINNING) for place in places])
        self._thread.start()
        return self

    def stop(self, drain_s: float = 30.0) -> Reader:
        """Read on to the end of each partition, for `drain_s` at most, and tell what was seen. Again: the same."""
        self._until_s = time.monotonic() + drain_s
        self._stopping.set()
        self._thread.join()
        coverage = tuple(
            Coverage(topic=place[0], partition=place[1], first=0, position=position)
            for place, position in self._position.items()
        )
        return Reader(name=self._name, sightings=tuple(self._sightings), coverage=coverage, broke_off=self._broke_off)

    def __enter__(self) -> ConcurrentReader:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._stopping.is_set():
            self.stop(0.0)

    def _run(self) -> None:
        try:
            self._read(self._consumer)
        except KafkaException as failure:
            self._broke_off = str(failure)
        finally:
            self._consumer.close()

    def _read(self, consumer: Consumer) -> None:
        while not self._stopping.is_set() and self._broke_off is None:
            self._take(consumer)
        ends = {place: self._end(consumer, place) for place in self._position}
        while self._broke_off is None and time.monotonic() < self._until_s and self._behind(ends):
            self._take(consumer)

    def _take(self, consumer: Consumer) -> None:
        for message in consumer.consume(MANY, POLL_S):
            self._note(message)

    def _end(self, consumer: Consumer, place: Partition) -> int:
        """Where the partition ends now, control records and open transactions in it."""
        return int(consumer.get_watermark_offsets(TopicPartition(*place), timeout=ANSWER_S)[1])

    def _behind(self, ends: Mapping[Partition, int]) -> bool:
        return any(self._position[place] < end for place, end in ends.items())

    def _note(self, message: Message) -> None:
        error, place = message.error(), (message.topic(), message.partition())
        if error is None:
            self._saw(message)
        elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 (that is its name)
            self._position[place] = max(self._position.get(place, 0), message.offset())
        elif error.fatal() or error.code() == KafkaError._AUTO_OFFSET_RESET:  # noqa: SLF001
            self._broke_off = f"{place[0]}/{place[1]}: {error}"

    def _saw(self, message: Message) -> None:
        place, offset = (message.topic(), message.partition()), message.offset()
        digest = record_digest(message.key(), value_digest(message), plain_headers(message))
        self._sightings.append(Sighting(topic=place[0], partition=place[1], offset=offset, digest=digest))
        self._position[place] = offset + 1
