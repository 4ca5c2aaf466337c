"""Requests to Kafka that are lost, late or refused (F6), and topics that change under a worker (F9)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Event
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import NewPartitions
from delivery_parts import eventually
from fault_parts import (
    PATIENCE_S,
    QUICK,
    FaultWorld,
    Listener,
    answers,
    next_offsets,
    read,
    running,
)

from devstack import Addresses
from schemas.message import InputRecord
from tests.chaos.proxy import Action, KafkaProxy
from worker.adapters import kafka_publisher, kafka_topic_ids
from worker.adapters.kafka import KafkaPublisher, KafkaSource
from worker.adapters.kafka_errors import EXIT_OFFSET_LOST
from worker.errors import AbortTransaction, Fatal
from worker.ports import Partition

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]
LATE_S = 1.5
SHORT_S = 6.0  # of a whole transaction: a busy machine is to come as far as its commit


@pytest.fixture
def world(stack: Addresses, topic_prefix: str) -> FaultWorld:
    return FaultWorld(stack.kafka_bootstrap, topic_prefix)


@pytest.fixture
def proxy(stack: Addresses) -> Iterator[KafkaProxy]:
    with KafkaProxy(stack.kafka_bootstrap) as proxy:
        yield proxy


class Pair:
    """A consumer that goes straight to the broker and a publisher that goes through the proxy."""

    def __init__(self, world: FaultWorld, proxy: KafkaProxy) -> None:
        self.world, self.proxy = world, proxy
        self.source = world.source(world.broker).subscribe(Listener())
        self.metadata: Callable[[], bytes] = self.source.group_metadata
        self.publisher = KafkaPublisher(
            client_config={"bootstrap.servers": proxy.address}, group=world.group, instance="m1",
            group_metadata=lambda: self.metadata(), overrides=QUICK,
        )  # fmt: skip

    def publish(self, records: list[InputRecord]) -> None:
        self.publisher.commit(answers(self.world, records), next_offsets(records))

    def connect(self) -> None:
        """The next requests are those of a transaction."""
        self.publisher.committed([])

    def close(self) -> None:
        self.publisher.close()
        self.source.close()


@pytest.fixture
def pair(world: FaultWorld, proxy: KafkaProxy) -> Iterator[Pair]:
    made = Pair(world, proxy)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("api", "action"),
    [
        ("EndTxn", "drop_request"),
        ("EndTxn", "drop_response"),
        ("EndTxn", "reset_response"),
        ("AddOffsetsToTxn", "drop_request"),
        ("TxnOffsetCommit", "drop_response"),
        ("Produce", "drop_response"),
    ],
)
def test_one_lost_request_or_answer_costs_time_and_nothing_else(
    world: FaultWorld, pair: Pair, api: str, action: Action
) -> None:
    world.send(0, 4)
    records = read(pair.source, 4)
    pair.connect()
    pair.proxy.on_request(api, action)
    pair.publish(records[:2])
    assert [deed.what for deed in pair.proxy.log] == [api]
    pair.publish(records)
    found = world.answered()
    assert [found[str(record.source)] for record in records] == [2, 2, 1, 1]  # as often as it was published
    assert pair.proxy.requests()["InitProducerId"] >= 2, "the producer that had to repeat itself was kept"


def test_a_commit_whose_answers_are_all_lost_is_recognised_as_committed(
    world: FaultWorld, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.send(0, 2)
    records = read(pair.source, 2)
    pair.connect()
    monkeypatch.setattr(kafka_publisher, "CALL_TIMEOUT_S", SHORT_S)
    pair.proxy.on_request("EndTxn", "drop_response", times=1_000)
    forgiven = Event()
    monkeypatch.setattr(pair.publisher, "_discard", told(pair.publisher._discard, forgiven, monkeypatch))  # noqa: SLF001
    pair.publish(records)
    assert forgiven.is_set()
    assert set(world.answered().values()) == {1}
    assert len(world.answered()) == 2


def told(call: Callable[[], None], event: Event, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """What follows the unknown outcome has all the time it needs."""

    def run() -> None:
        event.set()
        monkeypatch.setattr(kafka_publisher, "CALL_TIMEOUT_S", PATIENCE_S)
        call()

    return run


def test_a_commit_that_never_arrives_is_given_up_and_made_again(
    world: FaultWorld, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.send(0, 2)
    records = read(pair.source, 2)
    pair.connect()
    monkeypatch.setattr(kafka_publisher, "CALL_TIMEOUT_S", SHORT_S)
    pair.proxy.on_request("EndTxn", "drop_request", times=1_000)
    discard = pair.publisher._discard  # noqa: SLF001
    monkeypatch.setattr(pair.publisher, "_discard", told(discard, Event(), monkeypatch))
    with pytest.raises(AbortTransaction, match="did not take place"):
        pair.publish(records)
    assert world.read() == []
    pair.proxy.clear()
    pair.publish(records)
    assert list(world.answered().values()) == [1, 1]


@pytest.mark.parametrize("how", ["late_request", "delay_request"])
def test_a_late_commit_of_one_transaction_does_not_end_the_next(world: FaultWorld, pair: Pair, how: Action) -> None:
    """KIP-890's case: the client repeats an EndTxn by itself, and its first copy arrives in the next transaction."""
    world.send(0, 4)
    records = read(pair.source, 4)
    pair.connect()
    pair.proxy.on_request("EndTxn", how, delay_s=LATE_S)
    pair.publish(records[:2])
    pair.metadata = refused_after(pair.proxy, LATE_S)
    with pytest.raises(AbortTransaction):
        pair.publish(records[2:])  # its outputs are on the broker when the late commit arrives
    assert set(world.answered()) == {str(record.source) for record in records[:2]}
    pair.metadata = pair.source.group_metadata
    pair.publish(records[2:])
    assert list(world.answered().values()) == [1] * 4


def known_after(wait_s: float, source: KafkaSource) -> Callable[[], bytes]:
    def metadata() -> bytes:
        Event().wait(wait_s)
        return source.group_metadata()

    return metadata


def refused_after(proxy: KafkaProxy, wait_s: float) -> Callable[[], bytes]:
    def metadata() -> bytes:
        assert proxy.log, "nothing is on its way"
        Event().wait(wait_s + 1.0)
        raise AbortTransaction("the transaction stayed open until the late request had come")

    return metadata


def test_late_offsets_of_one_transaction_do_not_set_back_those_of_the_next(world: FaultWorld, pair: Pair) -> None:
    world.send(0, 4)
    records = read(pair.source, 4)
    pair.connect()
    pair.proxy.on_request("TxnOffsetCommit", "late_request", delay_s=LATE_S)
    pair.publish(records[:2])
    before = world.committed()
    pair.proxy.on_request(
        "EndTxn", 0.9
    )  # with the wait: its offsets are there, its end is not, when the late ones come
    pair.metadata = known_after(LATE_S - 0.6, pair.source)
    pair.publish(records[2:])
    after = world.committed()
    assert all(after[number] >= before[number] for number in before)
    assert sum(after.values()) == 4


def test_a_producer_that_a_late_request_of_its_own_fenced_is_replaced(world: FaultWorld, pair: Pair) -> None:
    """So it goes after an outage. One that another process fenced ends: see tests/contract/test_kafka_ports.py."""
    world.send(0, 2)
    records = read(pair.source, 2)
    pair.proxy.on_request("InitProducerId", "late_request", delay_s=LATE_S)
    pair.connect()
    Event().wait(LATE_S + 1.0)
    with pytest.raises(AbortTransaction):
        pair.publish(records)
    pair.publish(records)
    assert list(world.answered().values()) == [1, 1]


@pytest.mark.parametrize(
    ("assignor", "api"), [("cooperative-sticky", "Heartbeat"), ("consumer", "ConsumerGroupHeartbeat")]
)
def test_a_member_whose_heartbeats_are_lost_is_replaced_and_nothing_is_done_twice(
    world: FaultWorld, proxy: KafkaProxy, assignor: Any, api: str
) -> None:
    silent = world.member(proxy.address, "m1", assignor)
    healthy = world.member(world.broker, "m2", assignor)
    with running(silent):
        world.send(0, 10)
        eventually(lambda: silent.intake.joined, "the first member's partitions")
        with running(healthy):
            eventually(lambda: healthy.intake.joined and silent.intake.joined, "a share for both")
            proxy.on_request(api, "drop_request", times=1_000)
            world.send(10, 50)
            eventually(lambda: len(healthy.watermark.owned()) == world.partitions, "all partitions at the other member")
            proxy.clear()
            world.send(50, 60)
            eventually(lambda: sum(world.committed().values()) >= 60, "all offsets")
    world.assert_each_once(60)


def test_a_topic_that_grows_is_read_whole(world: FaultWorld) -> None:
    member = world.member(world.broker, "m1")
    with running(member):
        world.send(0, 10)
        eventually(lambda: len(world.store.jobs) == 10, "the first jobs")
        grown = [NewPartitions(name, 4) for name in (world.topics.jobs, world.topics.results)]
        world.administer(lambda admin: admin.create_partitions(grown))
        world.partitions = 4
        world.send(10, 50)
        eventually(lambda: len(world.store.jobs) == 50, "the jobs of the new partitions")
        eventually(lambda: sum(world.committed().values()) >= 50, "all offsets")
    world.assert_each_once(50)


def places(world: FaultWorld) -> list[Partition]:
    return [(world.topics.jobs, number) for number in range(world.partitions)]


def poll_to_the_end(source: KafkaSource) -> None:
    for _ in range(int(PATIENCE_S / 0.1)):
        source.poll(0.1)


def test_a_topic_that_is_made_anew_under_a_worker_ends_it_loudly(
    world: FaultWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client reads on at the old position, past the first records of the new topic, and says nothing."""
    monkeypatch.setattr(kafka_topic_ids, "CHECK_EVERY_S", 0.5)
    world.send(0, 6)
    source = world.source(world.broker).subscribe(Listener())
    read(source, 6)
    assert [source.poll(0.1) for _ in range(10)] == [None] * 10  # its ids are known
    source.pause(places(world))
    name = world.topics.jobs
    world.administer(lambda admin: admin.delete_topics([name]))
    eventually(lambda: not world.topic_exists(name), "the end of the topic")
    world.make_topics(name)
    world.send(6, 30)
    source.resume(places(world))
    with pytest.raises(Fatal, match="deleted and made anew") as ended:
        poll_to_the_end(source)
    assert ended.value.exit_code == EXIT_OFFSET_LOST
    source.close()


def test_records_that_were_deleted_unread_end_the_worker_loudly(world: FaultWorld) -> None:
    """Under a running worker; one that starts is in tests/contract/test_kafka_ports.py."""
    world.send(0, 2)
    source = world.source(world.broker).subscribe(Listener())
    read(source, 2)
    source.pause(places(world))
    world.send(2, 10)
    world.administer(lambda admin: admin.delete_records([TopicPartition(world.topics.jobs, 0, 4)]))
    source.resume(places(world))
    with pytest.raises(Fatal, match="deleted before they were judged") as ended:
        poll_to_the_end(source)
    assert ended.value.exit_code == EXIT_OFFSET_LOST
    source.close()
