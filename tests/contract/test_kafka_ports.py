"""One suite for the job source and the publisher: the memory twins, and real Kafka under every group protocol."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Protocol, cast

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from devstack import Addresses
from schemas.message import InputRecord, OutputRecord
from worker.adapters.kafka import KafkaPublisher, KafkaSource, apply_topics, plan_topics
from worker.adapters.kafka_source import Assignor
from worker.adapters.memory import MemoryBroker, MemoryPublisher, MemorySource
from worker.errors import AbortTransaction, Fatal
from worker.ports import JobSource, Partition, Publisher
from worker.topics import Topics

PATIENCE_S = 40.0


@dataclass(slots=True)
class Listener:
    """Notes what it hears; epochs count from 1."""

    epoch: int = 0
    owned: set[Partition] = field(default_factory=set)
    heard: list[str] = field(default_factory=list)

    def assigned(self, partitions: Sequence[Partition]) -> int:
        self.epoch += 1
        self.owned.update(partitions)
        self.heard.append("assigned")
        return self.epoch

    def revoked(self, partitions: Sequence[Partition]) -> None:
        self.owned.difference_update(partitions)
        self.heard.append("revoked")

    def lost(self, partitions: Sequence[Partition]) -> None:
        self.owned.difference_update(partitions)
        self.heard.append("lost")


class Member(Protocol):
    @property
    def source(self) -> JobSource: ...
    @property
    def publisher(self) -> Publisher: ...


@dataclass(frozen=True, slots=True)
class Pair:
    source: JobSource
    publisher: Publisher


class World(Protocol):
    """A topic `jobs` of two partitions and a topic `results`, with one group."""

    jobs: str
    results: str

    def send(self, values: Sequence[str], partition: int) -> None: ...
    def gap(self, partition: int) -> None: ...
    def member(self, name: str, listener: Listener) -> Member: ...
    def published(self) -> list[str]: ...
    def share(self, *names: str) -> None: ...
    def close(self) -> None: ...


class MemoryWorld:
    jobs, results = "jobs", "results"

    def __init__(self) -> None:
        self.broker = MemoryBroker({self.jobs: 2})

    def send(self, values: Sequence[str], partition: int) -> None:
        for value in values:
            self.broker.produce(self.jobs, value.encode(), partition=partition)

    def gap(self, partition: int) -> None:
        self.broker.leave_gap((self.jobs, partition))

    def member(self, name: str, listener: Listener) -> Pair:
        return Pair(MemorySource(self.broker, name).subscribe(listener), MemoryPublisher(self.broker, name))

    def published(self) -> list[str]:
        return [output.value.decode() for output in self.broker.published]

    def share(self, *names: str) -> None:
        self.broker.rebalance({name: [(self.jobs, number)] for number, name in enumerate(names)})

    def close(self) -> None:
        """Nothing runs."""


class KafkaWorld:
    def __init__(self, bootstrap: str, prefix: str, assignor: Assignor) -> None:
        topics = Topics(prefix=prefix)
        self.jobs, self.results, self.group, self.assignor = topics.jobs, topics.results, f"{prefix}group", assignor
        self.config = {"bootstrap.servers": bootstrap}
        apply_topics(self.config, plan_topics(self.config, topics, partitions=2))
        self.closing = ExitStack()  # also of a test that failed: a client left behind can stop the whole run

    def send(self, values: Sequence[str], partition: int) -> None:
        producer = Producer(self.config)
        for value in values:
            producer.produce(self.jobs, value.encode(), partition=partition)
        producer.flush()

    def gap(self, partition: int) -> None:
        producer = Producer({**self.config, "transactional.id": f"{self.group}.gap"})
        producer.init_transactions()
        producer.begin_transaction()
        producer.produce(self.jobs, b"aborted", partition=partition)
        producer.flush()
        producer.abort_transaction()

    def member(self, name: str, listener: Listener) -> Pair:
        source = KafkaSource(client_config=self.config, group=self.group, topics=[self.jobs], assignor=self.assignor)
        self.closing.callback(source.close)
        publisher = self.publisher(name, source)
        return Pair(source.subscribe(listener), publisher)

    def publisher(self, name: str, source: KafkaSource, still_owned: Callable[[], bool] = lambda: True) -> Publisher:
        publisher = KafkaPublisher(
            client_config=self.config, group=self.group, instance=name, group_metadata=source.group_metadata,
            still_owned=still_owned,
        )  # fmt: skip
        self.closing.callback(publisher.close)
        return publisher

    def published(self) -> list[str]:
        return read_committed(self.config["bootstrap.servers"], self.results)

    def share(self, *names: str) -> None:
        """The group's coordinator does it."""

    def close(self) -> None:
        self.closing.close()


def read_committed(bootstrap: str, topic: str) -> list[str]:
    """All committed values of a topic, by a reader that knows nothing of Assay."""
    config = {
        "bootstrap.servers": bootstrap, "group.id": f"{topic}.reader", "enable.auto.commit": False,
        "isolation.level": "read_committed", "enable.partition.eof": True,
    }  # fmt: skip
    values: list[str] = []
    ended: set[int] = set()
    deadline_s = time.monotonic() + PATIENCE_S
    with closing(Consumer(config)) as reader:
        partitions = reader.list_topics(topic, timeout=PATIENCE_S).topics[topic].partitions
        reader.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in partitions])
        while len(ended) < len(partitions):
            assert time.monotonic() < deadline_s, f"only the partitions {ended} of {topic} were read to their end"
            message = reader.poll(0.2)
            if message is not None and message.error():
                ended.add(message.partition())
            elif message is not None:
                values.append(message.value().decode())
    return values


@pytest.fixture(params=["memory", "cooperative-sticky", "range", "consumer"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    kind = cast(str, request.param)
    if kind == "memory":
        yield MemoryWorld()
        return
    stack: Addresses = request.getfixturevalue("stack")
    with closing(
        KafkaWorld(stack.kafka_bootstrap, request.getfixturevalue("topic_prefix"), cast(Assignor, kind))
    ) as made:
        yield made


@pytest.fixture
def kafka(stack: Addresses, topic_prefix: str) -> Iterator[KafkaWorld]:
    with closing(KafkaWorld(stack.kafka_bootstrap, topic_prefix, "cooperative-sticky")) as world:
        yield world


def read(source: JobSource, count: int) -> list[InputRecord]:
    records: list[InputRecord] = []
    deadline_s = time.monotonic() + PATIENCE_S
    while len(records) < count and time.monotonic() < deadline_s:
        record = source.poll(0.1)
        if record is not None:
            records.append(record)
    assert len(records) == count
    return records


def poll_until(done: Callable[[], bool], *sources: JobSource) -> list[InputRecord]:
    records = []
    deadline_s = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < deadline_s
        records += [record for source in sources if (record := source.poll(0.05)) is not None]
    return records


def answers(world: World, records: Sequence[InputRecord]) -> list[OutputRecord]:
    return [
        OutputRecord(topic=world.results, key=r.key, value=b"re:" + r.value, headers=(("src", str(r.source).encode()),))
        for r in records
    ]


def next_offsets(records: Sequence[InputRecord]) -> dict[Partition, int]:
    return {(r.source.topic, r.source.partition): r.source.offset + 1 for r in records}


def values(records: Sequence[InputRecord]) -> list[str]:
    return [record.value.decode() for record in records]


def test_records_come_in_order_with_gaps_under_the_epoch_of_their_assignment(world: World) -> None:
    listener = Listener()
    world.send(["a", "b"], 0)
    world.gap(0)
    world.send(["c"], 0)
    records = read(world.member("m1", listener).source, 3)
    assert values(records) == ["a", "b", "c"]
    assert records[2].source.offset > records[1].source.offset + 1
    assert {record.epoch for record in records} == {listener.epoch}
    assert listener.owned == {(world.jobs, 0), (world.jobs, 1)}


def test_a_paused_partition_is_silent_and_loses_nothing(world: World) -> None:
    world.send([f"a{n}" for n in range(5)], 0)
    source = world.member("m1", Listener()).source
    first = read(source, 1)
    source.pause([(world.jobs, 0)])
    world.send(["b"], 1)
    assert values(read(source, 1)) == ["b"]
    assert source.poll(0.3) is None
    source.resume([(world.jobs, 0)])
    assert values(first + read(source, 4)) == [f"a{n}" for n in range(5)]


def test_outputs_and_offsets_become_visible_together_and_the_next_member_goes_on_there(world: World) -> None:
    world.send(["a", "b", "c"], 0)
    member = world.member("m1", Listener())
    records = read(member.source, 3)[:2]
    assert member.publisher.committed([(world.jobs, 0)]) == {}
    member.publisher.commit(answers(world, records), next_offsets(records))
    assert sorted(world.published()) == ["re:a", "re:b"]  # two partitions: no order between them
    assert member.publisher.committed([(world.jobs, 0), (world.jobs, 1)]) == {(world.jobs, 0): 2}
    member.source.close()
    assert values(read(world.member("m2", Listener()).source, 1)) == ["c"]


def test_who_left_the_group_commits_nothing(world: World) -> None:
    world.send(["a"], 0)
    listener = Listener()
    member = world.member("m1", listener)
    records = read(member.source, 1)
    member.source.close()
    assert listener.owned == set()
    with pytest.raises(AbortTransaction):
        member.publisher.commit(answers(world, records), next_offsets(records))
    assert world.published() == []
    assert member.publisher.committed([(world.jobs, 0)]) == {}


def test_a_second_member_gets_a_partition_after_the_first_gave_it_up(world: World) -> None:
    world.send(["a"], 0)
    world.send(["b"], 1)
    one, two = Listener(), Listener()
    first = world.member("m1", one)
    records = read(first.source, 2)
    second = world.member("m2", two)
    world.share("m1", "m2")
    again = poll_until(lambda: len(one.owned) == 1 and len(two.owned) == 1, first.source, second.source)
    assert not one.owned & two.owned
    assert "revoked" in one.heard and "lost" not in one.heard
    gone = [record for record in records if (record.source.topic, record.source.partition) in two.owned]
    if not any(record.value == gone[0].value for record in again):
        again += read(second.source, 1)
    assert gone[0].value in {record.value for record in again}
    mine = [record for record in again if (record.source.topic, record.source.partition) in two.owned]
    second.publisher.commit(answers(world, mine[-1:]), next_offsets(mine[-1:]))
    assert world.published() == [f"re:{gone[0].value.decode()}"]


def test_a_group_whose_offset_was_deleted_says_so(kafka: KafkaWorld) -> None:
    kafka.send(["a", "b"], 0)
    first = kafka.member("m1", Listener())
    records = read(first.source, 1)
    first.publisher.commit([], next_offsets(records))
    first.source.close()
    delete_below(kafka, 2)
    with pytest.raises(Fatal, match="deleted before they were judged"):
        poll_until(lambda: False, kafka.member("m2", Listener()).source)


def test_the_same_transactional_id_elsewhere_ends_the_older_one(kafka: KafkaWorld) -> None:
    kafka.send(["a"], 0)
    member = kafka.member("same", Listener())
    records = read(member.source, 1)
    member.publisher.commit([], {})
    usurper = kafka.member("same", Listener())
    usurper.publisher.committed([])
    with pytest.raises(Fatal) as fenced:
        member.publisher.commit(answers(kafka, records), next_offsets(records))
    assert fenced.value.exit_code == 72
    assert kafka.published() == []


def test_a_partition_that_moved_on_is_not_committed_with_newer_metadata(kafka: KafkaWorld) -> None:
    kafka.send(["a"], 0)
    source = cast(KafkaSource, kafka.member("m1", Listener()).source)
    records = read(source, 1)
    publisher = kafka.publisher("m1b", source, still_owned=lambda: False)
    with pytest.raises(AbortTransaction):
        publisher.commit(answers(kafka, records), next_offsets(records))
    assert kafka.published() == []


def test_a_start_waits_for_the_open_transaction_of_a_killed_predecessor(kafka: KafkaWorld) -> None:
    kafka.send(["a", "b"], 0)
    first = kafka.member("m1", Listener())
    records = read(first.source, 1)
    producer = Producer({**kafka.config, "transactional.id": f"{kafka.group}.killed"})
    producer.init_transactions()
    producer.begin_transaction()
    metadata = cast(KafkaSource, first.source).group_metadata()
    producer.send_offsets_to_transaction([TopicPartition(kafka.jobs, 0, 1)], metadata)
    first.source.close()
    timer = threading.Timer(1.0, lambda: producer.commit_transaction(-1))
    timer.start()
    kafka.closing.callback(timer.join)
    assert values(read(kafka.member("m2", Listener()).source, 1)) == ["b"], records


@pytest.mark.parametrize("assignor", ["cooperative-sticky", "range", "consumer"])
def test_a_partition_that_was_paused_when_it_was_revoked_is_read_when_it_comes_back(
    stack: Addresses, topic_prefix: str, assignor: Assignor
) -> None:
    with closing(KafkaWorld(stack.kafka_bootstrap, topic_prefix, assignor)) as world:
        one, two = Listener(), Listener()
        first = world.member("m1", one).source
        poll_until(lambda: len(one.owned) == 2, first)
        first.pause(one.owned)
        second = world.member("m2", two).source
        poll_until(lambda: len(one.owned) == 1 and len(two.owned) == 1, first, second)
        ((_, away),) = two.owned
        second.close()
        poll_until(lambda: len(one.owned) == 2, first)
        world.send(["a"], away)
        assert values(read(first, 1)) == ["a"]


class Unwilling(Listener):
    def assigned(self, partitions: Sequence[Partition]) -> int:
        # The interpreter raises it, not a `raise`: the client itself cannot carry such an error on Python 3.11.
        return cast(dict[str, int], {})["assigned"]

    def revoked(self, partitions: Sequence[Partition]) -> None:
        self.epoch = cast(dict[str, int], {})["revoked"]


def test_what_a_rebalance_raises_comes_out_of_poll_and_of_close(kafka: KafkaWorld) -> None:
    source = kafka.member("m1", Unwilling()).source
    with pytest.raises(KeyError, match="assigned"):
        poll_until(lambda: False, source)
    with pytest.raises(KeyError, match="revoked"):
        source.close()


class Gone:
    """A consumer that left its group before its last rebalance was answered, as happens inside `close`."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer

    def __getattr__(self, name: str) -> object:
        return getattr(self._consumer, name)

    def consumer_group_metadata(self) -> bytes:
        raise RuntimeError("Consumer group metadata not available")

    def incremental_unassign(self, partitions: Sequence[TopicPartition]) -> None:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "Operation timed out"))  # noqa: SLF001


def test_a_member_that_is_out_of_the_group_before_it_is_told_drains_and_closes(kafka: KafkaWorld) -> None:
    kafka.send(["a"], 0)
    listener = Listener()
    source = cast(KafkaSource, kafka.member("m1", listener).source)
    read(source, 1)
    source._consumer = Gone(source._consumer)  # noqa: SLF001 # the fault must lie between adapter and client
    source.close()
    assert listener.heard == ["assigned", "revoked"]


def test_a_member_that_never_polled_leaves_without_taking_its_share(kafka: KafkaWorld) -> None:
    one, two = Listener(), Listener()
    first = kafka.member("m1", one)
    poll_until(lambda: len(one.owned) == 2, first.source)
    second = kafka.member("m2", two)
    poll_until(lambda: len(one.owned) == 1, first.source)
    second.source.close()
    assert two.heard in ([], ["revoked"])
    poll_until(lambda: len(one.owned) == 2, first.source)


def delete_below(world: KafkaWorld, offset: int) -> None:
    admin = AdminClient(world.config)
    for future in admin.delete_records([TopicPartition(world.jobs, 0, offset)]).values():
        future.result(PATIENCE_S)


def test_topics_are_made_as_documented_and_a_second_plan_is_empty(stack: Addresses, topic_prefix: str) -> None:
    config, topics = {"bootstrap.servers": stack.kafka_bootstrap}, Topics(prefix=topic_prefix)
    plan = plan_topics(config, topics, partitions=2)
    assert {change.topic for change in plan if change.action == "create"} == {
        *topics.consumed, topics.results, topics.dlq, topics.alerts, topics.audit, topics.control
    }  # fmt: skip
    apply_topics(config, plan)
    assert plan_topics(config, topics, partitions=2) == []
    grown = plan_topics(config, topics, partitions=3)
    assert {change.action for change in grown} == {"add_partitions"}
    apply_topics(config, grown)
    assert plan_topics(config, topics, partitions=3) == []
    assert "cleanup.policy=compact" in next(str(change) for change in plan if change.topic == topics.audit)


class Flaky:
    """A producer whose calls fail once, as planned: the name of a call, whether it was carried out, and the error."""

    def __init__(self, producer: Producer, call: str, *, carried_out: bool, error: KafkaError) -> None:
        self.calls: list[tuple[object, ...]] = []
        self._producer, self._call, self._carried_out, self._error = producer, call, carried_out, error

    def __getattr__(self, name: str) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            if name != self._call:
                return getattr(self._producer, name)(*arguments, **options)
            self.calls.append(arguments)
            if len(self.calls) > 1:
                return getattr(self._producer, name)(*arguments, **options)
            if self._carried_out:
                getattr(self._producer, name)(*arguments, **options)
            raise KafkaException(self._error)

        return call


def flaky(publisher: Publisher, call: str, *, carried_out: bool, **error: object) -> Flaky:
    kafka = cast(KafkaPublisher, publisher)
    kafka.committed([])  # connects
    code = cast(int, error.pop("code"))
    wrapped = Flaky(
        cast(Producer, kafka._producer),  # noqa: SLF001 # the fault must lie between adapter and client
        call,
        carried_out=carried_out,
        error=KafkaError(code, "planted", **cast(dict[str, bool], error)),
    )
    kafka._producer = wrapped  # noqa: SLF001
    return wrapped


def test_a_commit_whose_answer_was_lost_counts_once(kafka: KafkaWorld) -> None:
    kafka.send(["a"], 0)
    member = kafka.member("m1", Listener())
    records = read(member.source, 1)
    flaky(member.publisher, "commit_transaction", carried_out=True, code=KafkaError._TIMED_OUT, retriable=True)  # noqa: SLF001
    member.publisher.commit(answers(kafka, records), next_offsets(records))
    assert kafka.published() == ["re:a"]


@pytest.mark.parametrize("call", ["commit_transaction", "send_offsets_to_transaction"])
def test_a_commit_that_never_reached_the_broker_is_given_up_and_can_be_made_again(kafka: KafkaWorld, call: str) -> None:
    kafka.send(["a"], 0)
    member = kafka.member("m1", Listener())
    records = read(member.source, 1)
    flaky(member.publisher, call, carried_out=False, code=KafkaError._TRANSPORT)  # noqa: SLF001
    with pytest.raises(AbortTransaction):
        member.publisher.commit(answers(kafka, records), next_offsets(records))
    assert kafka.published() == []
    member.publisher.commit(answers(kafka, records), next_offsets(records))
    assert kafka.published() == ["re:a"]


def test_a_retriable_error_repeats_the_same_call_with_the_same_arguments(kafka: KafkaWorld) -> None:
    kafka.send(["a"], 0)
    member = kafka.member("m1", Listener())
    records = read(member.source, 1)
    planted = flaky(
        member.publisher, "send_offsets_to_transaction", carried_out=False,
        code=KafkaError.CONCURRENT_TRANSACTIONS, retriable=True,
    )  # fmt: skip
    member.publisher.commit(answers(kafka, records), next_offsets(records))
    assert len(planted.calls) == 2
    assert planted.calls[0][:2] == planted.calls[1][:2]  # the third is the time left
    assert kafka.published() == ["re:a"]


@pytest.mark.parametrize(
    ("marks", "raised"), [({"txn_requires_abort": True}, AbortTransaction), ({"fatal": True}, Fatal), ({}, Fatal)]
)
def test_an_error_is_abortable_or_fatal_and_what_is_neither_is_fatal(
    kafka: KafkaWorld, marks: dict[str, bool], raised: type[Exception]
) -> None:
    kafka.send(["a"], 0)
    member = kafka.member("m1", Listener())
    records = read(member.source, 1)
    flaky(member.publisher, "commit_transaction", carried_out=False, code=KafkaError.INVALID_TXN_STATE, **marks)
    with pytest.raises(raised):
        member.publisher.commit(answers(kafka, records), next_offsets(records))
    member.publisher.close()
    assert kafka.member("m1", Listener()).publisher.committed([(kafka.jobs, 0)]) == {}
    assert kafka.published() == []


def test_a_delivery_that_fails_shows_at_the_commit(kafka: KafkaWorld) -> None:
    kafka.send(["a"], 0)
    member = kafka.member("m1", Listener())
    records = read(member.source, 1)
    too_large = OutputRecord(topic=kafka.results, key=None, value=os.urandom(2 * 1024 * 1024), headers=())
    with pytest.raises(AbortTransaction):
        member.publisher.commit([*answers(kafka, records), too_large], next_offsets(records))
    assert kafka.published() == []
    member.publisher.commit(answers(kafka, records), next_offsets(records))
    assert kafka.published() == ["re:a"]
