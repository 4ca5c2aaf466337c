"""`python -m benchmarks.at_least_once`: the worker without transactions, to tell what they cost. No setting leads here.

It publishes with a plain idempotent producer, waits until every record is confirmed, and then has the consumer commit
the offsets without waiting for the answer: the fastest honest way to answer every job at least once. A crash between
the two repeats answers; the real worker does not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from confluent_kafka import Producer, TopicPartition

from schemas.message import InputRecord, OutputRecord
from tests.chaos.standin import open_standin
from worker import app
from worker.adapters.kafka_publisher import CALL_TIMEOUT_S, WRITE_SETTINGS
from worker.adapters.kafka_source import KafkaSource
from worker.errors import ServiceUnavailable
from worker.ports import Partition
from worker.settings import load_settings

Offsets = Mapping[Partition, int]
OWN_OF_TRANSACTIONS = ("transaction.timeout.ms",)


class CommittingSource(KafkaSource):
    """The worker's source, whose consumer also commits: in the polling thread, for no other is let in meanwhile."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._published: dict[Partition, int] = {}
        self._lock = threading.Lock()

    def commit(self, offsets: Offsets) -> None:
        """With the next poll. Any thread; returns at once."""
        with self._lock:
            self._published.update(offsets)

    def poll(self, timeout_s: float) -> InputRecord | None:
        self._commit(asynchronous=True)
        return super().poll(timeout_s)

    def close(self) -> None:
        self._commit(asynchronous=False)
        super().close()

    def _commit(self, *, asynchronous: bool) -> None:
        with self._lock:
            published, self._published = self._published, {}
        places = [TopicPartition(topic, number, offset) for (topic, number), offset in published.items()]
        if places:
            self._consumer.commit(offsets=places, asynchronous=asynchronous)


class AtLeastOncePublisher:
    """Implements ports.Publisher without its promise: after a crash outputs come again."""

    def __init__(self, *, client_config: Mapping[str, Any], commit_offsets: Callable[[Offsets], None]) -> None:
        plain = {name: value for name, value in WRITE_SETTINGS.items() if name not in OWN_OF_TRANSACTIONS}
        self._producer = Producer({**client_config, **plain, "enable.idempotence": True, "acks": "all"})
        self._commit_offsets = commit_offsets
        self._failed: list[str] = []

    def commit(self, outputs: Sequence[OutputRecord], offsets: Offsets) -> None:
        for output in outputs:
            self._produce(output)
        if self._producer.flush(CALL_TIMEOUT_S) or self._failed:
            raise ServiceUnavailable("kafka", f"not every output was confirmed: {self._failed[:1]}")
        self._commit_offsets(offsets)

    def committed(self, partitions: Iterable[Partition]) -> Offsets:
        """Nothing is ever in doubt that another delivery would not mend."""
        return {}

    def close(self) -> None:
        self._producer.flush(CALL_TIMEOUT_S)

    def _produce(self, output: OutputRecord) -> None:
        headers = list(output.headers)
        while True:
            try:
                self._producer.produce(
                    output.topic, value=output.value, key=output.key, headers=headers, on_delivery=self._confirmed
                )
                return
            except BufferError:
                self._producer.poll(0.02)

    def _confirmed(self, error: object, _message: object) -> None:
        if error is not None:
            self._failed.append(str(error))


def main() -> None:
    """The worker as it is composed, but for its consumer and its publisher."""
    made: list[CommittingSource] = []

    def source(**given: Any) -> CommittingSource:
        made.append(CommittingSource(**given))
        return made[-1]

    def publisher(*, client_config: Mapping[str, Any], **_unused: object) -> AtLeastOncePublisher:
        return AtLeastOncePublisher(client_config=client_config, commit_offsets=made[-1].commit)

    app.KafkaSource = source  # type: ignore[assignment,attr-defined]
    app.KafkaPublisher = publisher  # type: ignore[assignment,attr-defined]
    app.run_worker(load_settings(), encoders=open_standin)


if __name__ == "__main__":
    main()
