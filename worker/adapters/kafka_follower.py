"""Reads topics without a group, committed records only: from now on, or from the beginning."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition

from schemas.message import InputRecord
from worker.adapters.kafka_errors import opened
from worker.adapters.kafka_source import READ_SETTINGS, input_record
from worker.errors import AssayError, ServiceUnavailable

TIMEOUT_S = 10.0


class KafkaFollower:
    """Starts at the end of `topics` as they stand when it is made: what is answered later is not missed.

    Raises ServiceUnavailable without a broker, AssayError for a topic that does not exist, ConfigurationError for
    settings that no client can be made of.
    """

    def __init__(
        self, client_config: Mapping[str, Any], topics: Sequence[str], *, from_beginning: bool = False
    ) -> None:
        # Nothing is committed and no group is joined; the client demands a name all the same.
        config = {**client_config, **READ_SETTINGS, "group.id": "assay.follower", "auto.offset.reset": "earliest"}
        self._consumer = opened(lambda: Consumer(config, logger=logging.getLogger("librdkafka")))
        try:
            places = [place for topic in topics for place in self._places(topic, from_beginning)]
            self._consumer.assign(places)
        except KafkaException as failure:
            self._consumer.close()
            raise ServiceUnavailable("kafka", f"{failure.args[0].str()}; check kafka.bootstrap") from failure
        except AssayError:
            self._consumer.close()
            raise

    def poll(self, timeout_s: float) -> InputRecord | None:
        """The next committed record, or None. Raises ServiceUnavailable for what librdkafka gives up on."""
        message = self._consumer.poll(timeout_s)
        if message is None:
            return None
        error = message.error()
        if error is None:
            return input_record(message, 0)
        if error.fatal():
            raise ServiceUnavailable("kafka", error.str())
        return None

    def rest(self) -> Iterator[InputRecord]:
        """Every record up to the end of the topics as it is now. Raises ServiceUnavailable."""
        ends = self._ends()
        while ends:
            record = self.poll(TIMEOUT_S)
            if record is None:
                raise ServiceUnavailable("kafka", f"nothing came within {TIMEOUT_S:.0f} s; check kafka.bootstrap")
            yield record
            place = (record.source.topic, record.source.partition)
            if record.source.offset + 1 >= ends.get(place, 0):
                ends.pop(place, None)

    def close(self) -> None:
        self._consumer.close()

    def __enter__(self) -> KafkaFollower:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _places(self, topic: str, from_beginning: bool) -> list[Any]:
        found = self._consumer.list_topics(topic, timeout=TIMEOUT_S).topics[topic]
        if found.error is not None or not found.partitions:
            raise AssayError(f"topic {topic} does not exist: run `assay topics apply`")
        return [
            TopicPartition(topic, number, self._start(topic, number, from_beginning)) for number in found.partitions
        ]

    def _ends(self) -> dict[tuple[str, int], int]:
        """The next offset of each partition that holds anything."""
        try:
            bounds = {
                (place.topic, place.partition): self._consumer.get_watermark_offsets(place, timeout=TIMEOUT_S)
                for place in self._consumer.assignment()
            }
        except KafkaException as failure:
            raise ServiceUnavailable("kafka", f"{failure.args[0].str()}; check kafka.bootstrap") from failure
        return {place: high for place, (low, high) in bounds.items() if high > low}

    def _start(self, topic: str, number: int, from_beginning: bool) -> int:
        if from_beginning:
            return int(OFFSET_BEGINNING)
        _, end = self._consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=TIMEOUT_S)
        return int(end)
