"""Notices a topic that was deleted and made anew under a running consumer.

librdkafka reads on at the old position: where the new topic is already longer, its first records would be skipped
without a word. So the topics' ids are asked for now and then; the answer is never waited for.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from worker.adapters.kafka_errors import EXIT_OFFSET_LOST
from worker.errors import Fatal

CHECK_EVERY_S = 5.0
ANSWER_TIMEOUT_S = 10.0


class TopicIds:
    """Owned by the polling thread; connects at the first check."""

    def __init__(self, client_config: Mapping[str, Any], topics: Sequence[str]) -> None:
        self._client_config = dict(client_config)
        self._topics = TopicCollection(list(topics))
        self._client: AdminClient | None = None
        self._asked: dict[str, Future[Any]] = {}
        self._asked_s = -CHECK_EVERY_S
        self._first: dict[str, str] = {}

    def check(self) -> None:
        """Look at what was answered, and ask again when it is time. Raises Fatal for a topic with another id."""
        for topic in [topic for topic, answer in self._asked.items() if answer.done()]:
            self._compare(topic, self._asked.pop(topic))
        now_s = time.monotonic()
        if not self._asked and now_s - self._asked_s >= CHECK_EVERY_S:
            self._asked_s = now_s
            if self._client is None:
                self._client = AdminClient(self._client_config, logger=logging.getLogger("librdkafka"))
            self._asked = self._client.describe_topics(self._topics, request_timeout=ANSWER_TIMEOUT_S)

    def close(self) -> None:
        """Ask no more."""
        self._client = None
        self._asked.clear()

    def _compare(self, topic: str, answer: Future[Any]) -> None:
        try:
            found = str(answer.result().topic_id)
        except KafkaException:  # not there, or the broker is away: the consumer hears of both itself
            return
        if self._first.setdefault(topic, found) != found:
            raise Fatal(
                f"topic {topic} was deleted and made anew: its offsets mean other records now, and its first ones may "
                "have been passed over. See to the group's committed offsets before this worker starts again",
                exit_code=EXIT_OFFSET_LOST,
            )
