"""A producer that was replaced is gone, with its threads and connections, however many faults there were."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from confluent_kafka import Producer
from delivery_parts import eventually
from fault_parts import QUICK, FaultWorld, Listener

from devstack import Addresses
from schemas.message import OutputRecord
from tests.chaos.proxy import KafkaProxy
from worker.adapters import kafka_publisher
from worker.adapters.kafka import KafkaPublisher
from worker.errors import AbortTransaction, ServiceUnavailable

pytestmark = pytest.mark.services


@pytest.fixture
def proxy(stack: Addresses) -> Iterator[KafkaProxy]:
    with KafkaProxy(stack.kafka_bootstrap) as proxy:
        yield proxy


def live_producers() -> int:
    return sum(isinstance(found, Producer) for found in gc.get_objects())


def test_no_producer_outlives_its_replacement(
    stack: Addresses, topic_prefix: str, proxy: KafkaProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_publisher, "CALL_TIMEOUT_S", 2.0)
    monkeypatch.setattr(kafka_publisher, "ABORT_TIMEOUT_S", 1.0)
    world = FaultWorld(stack.kafka_bootstrap, topic_prefix)
    source = world.source(world.broker).subscribe(Listener())
    publisher = KafkaPublisher(
        client_config={"bootstrap.servers": proxy.address}, group=world.group, instance="m1",
        group_metadata=source.group_metadata, overrides=QUICK,
    )  # fmt: skip
    output = OutputRecord(topic=world.topics.results, key=b"k", value=b"v", headers=())

    def commits() -> bool:
        source.poll(0.05)
        try:
            publisher.commit([output], {(world.topics.jobs, 0): 0})
        except (AbortTransaction, ServiceUnavailable):
            return False
        return True

    eventually(commits, "the first commit")
    gc.collect()
    at_first = live_producers()
    for _ in range(3):
        proxy.blackhole()
        assert not commits()
        proxy.clear()
        eventually(commits, "a commit after the silence")
        assert live_producers() == at_first  # at once: a cycle would wait for the collector
    source.close()
    publisher.close()
