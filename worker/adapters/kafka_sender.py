"""A plain idempotent producer for clients: what is sent was confirmed by all in-sync replicas, or an error says not.

The worker's own outputs go through KafkaPublisher's transactions; this is for submitting jobs and replaying letters.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from time import monotonic
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from schemas.message import OutputRecord
from worker.adapters.kafka_errors import no_answer, opened
from worker.errors import AssayError, ConfigurationError, ServiceUnavailable

METADATA_TIMEOUT_S = 10.0
MESSAGE_BYTES = 11 * 1024 * 1024
Delivered = Callable[[OutputRecord], None]
_NO_TOPIC = frozenset({"_UNKNOWN_TOPIC", "UNKNOWN_TOPIC_OR_PART"})


class KafkaSender:
    """Owned by one thread. Memory holds at most 64 MiB of records that wait for their confirmation. Raises
    ConfigurationError for settings that no client can be made of."""

    def __init__(self, client_config: Mapping[str, Any], *, delivery_timeout_s: float = 30.0) -> None:
        self._timeout_s = delivery_timeout_s
        config = {
            **client_config,
            "enable.idempotence": True,
            "acks": "all",
            "message.max.bytes": MESSAGE_BYTES,
            "queue.buffering.max.kbytes": 65_536,
            "linger.ms": 5,
            "delivery.timeout.ms": round(delivery_timeout_s * 1000),
        }
        self._producer = opened(lambda: Producer(config, logger=logging.getLogger("librdkafka")))
        self._failure: AssayError | None = None  # of the records that are being sent
        self._turn = 0
        self._known: set[str] = set()

    def send(self, records: Iterable[OutputRecord], *, delivered: Delivered = lambda record: None) -> None:
        """Produce every record and return when all are confirmed; `delivered` hears of each.

        Raises AssayError at the first that is not; others may have been delivered. What came of one call says nothing
        of the next: a broker that was away for longer than a record waits may be back.
        """
        self._begin()
        try:
            for record in records:
                self._find(record.topic)
                self._produce(record, delivered)
                self._check()
            self._drain()
        finally:
            if self._failure is not None:
                self._producer.purge(in_flight=False)

    def _begin(self) -> None:
        self._turn += 1
        self._failure = None

    def _find(self, topic: str) -> None:
        """Refuse a topic that is not there at once; a producer would hope for it until its records time out."""
        if topic in self._known:
            return
        try:
            found = self._producer.list_topics(topic, timeout=METADATA_TIMEOUT_S).topics[topic]
        except KafkaException as failure:
            raise _unavailable(failure.args[0]) from failure
        if found.error is not None and found.error.name() in _NO_TOPIC:
            raise _no_topic(topic)
        self._known.add(topic)

    def _produce(self, record: OutputRecord, delivered: Delivered) -> None:
        turn = self._turn

        def confirm(error: KafkaError | None, _message: Message) -> None:
            if error is None:
                delivered(record)
            elif self._failure is None and turn == self._turn:
                self._failure = _refusal(error, record)

        until = monotonic() + self._timeout_s
        while True:
            try:
                self._producer.produce(
                    record.topic, value=record.value, key=record.key, headers=list(record.headers), on_delivery=confirm
                )
            except BufferError:
                self._producer.poll(0.5)  # the queue is full: confirmations make room
                self._check()
                if monotonic() > until:
                    raise ServiceUnavailable("kafka", "no record was confirmed in time; is the broker up?") from None
            except KafkaException as failure:
                raise _refusal(failure.args[0], record) from failure
            else:
                self._producer.poll(0)
                return

    def _drain(self) -> None:
        # Each record fails by itself after the delivery timeout, so this ends.
        while self._producer.flush(1.0) > 0 and self._failure is None:
            pass
        self._check()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure


def _refusal(error: KafkaError, record: OutputRecord) -> AssayError:
    if error.name() in _NO_TOPIC:
        return _no_topic(record.topic)
    if error.name() in ("MSG_SIZE_TOO_LARGE", "_MSG_SIZE_TOO_LARGE"):
        return ConfigurationError(f"a record of {len(record.value)} bytes is too large for {record.topic}: use --uri")
    if error.retriable() or no_answer(error) or error.name() == "_MSG_TIMED_OUT":
        return _unavailable(error)
    return ConfigurationError(f"Kafka refuses a record for {record.topic}: {error.str()}")


def _no_topic(topic: str) -> AssayError:
    return AssayError(f"topic {topic} does not exist: run `assay topics apply`")


def _unavailable(error: KafkaError) -> ServiceUnavailable:
    return ServiceUnavailable("kafka", f"{error.str()}; check kafka.bootstrap")
