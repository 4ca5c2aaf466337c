"""A sender that lives on after Kafka was away: one call's failure is not the next one's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError

from schemas.message import OutputRecord
from worker.adapters import kafka_sender
from worker.adapters.kafka_follower import KafkaFollower
from worker.adapters.kafka_sender import KafkaSender
from worker.adapters.kafka_source import KafkaSource
from worker.adapters.topics import plan_topics
from worker.errors import ConfigurationError, ServiceUnavailable
from worker.settings import Topics

RECORD = OutputRecord(topic="audit", key=b"k", value=b"v", headers=())


class Broker:
    """A producer's broker: `answers` what becomes of each record, None for delivered, "late" for no answer yet."""

    def __init__(self, answers: list[KafkaError | str | None]) -> None:
        self.answers = answers
        self.waiting: list[Callable[[], None]] = []

    def list_topics(self, topic: str, timeout: float) -> Any:
        return SimpleNamespace(topics={topic: SimpleNamespace(error=None)})

    def produce(self, topic: str, *, on_delivery: Callable[..., None], **_: Any) -> None:
        answer = self.answers.pop(0)
        error = KafkaError(KafkaError._MSG_TIMED_OUT) if answer == "late" else answer  # noqa: SLF001
        self.waiting.append(lambda: on_delivery(error, None))

    def poll(self, timeout: float) -> int:
        return 0

    def flush(self, timeout: float) -> int:
        waiting, self.waiting = self.waiting, []
        for confirm in waiting:
            confirm()
        return 0

    def purge(self, **_: Any) -> None:
        pass


@pytest.fixture
def sender(monkeypatch: pytest.MonkeyPatch) -> tuple[KafkaSender, Broker]:
    broker = Broker([])
    monkeypatch.setattr(kafka_sender, "Producer", lambda *_, **__: broker)
    return KafkaSender({"bootstrap.servers": "nowhere"}), broker


def test_what_timed_out_once_does_not_fail_for_ever(sender: tuple[KafkaSender, Broker]) -> None:
    sending, broker = sender
    broker.answers = ["late", None]
    with pytest.raises(ServiceUnavailable, match="timed out"):
        sending.send([RECORD])
    heard: list[OutputRecord] = []
    sending.send([RECORD], delivered=heard.append)
    assert heard == [RECORD]


def test_a_late_answer_of_an_earlier_call_is_not_this_ones(sender: tuple[KafkaSender, Broker]) -> None:
    sending, broker = sender
    broker.answers = ["late", "late", None]
    flush = broker.flush
    broker.flush = lambda timeout: broker.waiting.pop(0)() or 0  # type: ignore[method-assign]
    with pytest.raises(ServiceUnavailable):
        sending.send([RECORD, RECORD])
    broker.flush = flush  # type: ignore[method-assign]
    heard: list[OutputRecord] = []
    sending.send([RECORD], delivered=heard.append)
    assert heard == [RECORD]


def test_settings_that_no_client_can_work_with_are_a_wrong_configuration(tmp_path: Path) -> None:
    empty = tmp_path / "ca.pem"
    empty.touch()
    config = {"bootstrap.servers": "nowhere", "security.protocol": "SSL", "ssl.ca.location": str(empty)}
    opening: list[Callable[[], object]] = [
        lambda: KafkaSender(config),
        lambda: KafkaFollower(config, ["audit"]),
        lambda: KafkaSource(client_config=config, group="g", topics=["audit"]),
        lambda: plan_topics(config, Topics()),
    ]
    for open_client in opening:
        with pytest.raises(ConfigurationError, match=r"ssl\.ca\.location failed.*; check kafka"):
            open_client()
