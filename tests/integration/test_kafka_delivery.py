"""Jobs through intake and settle on real Kafka: a rebalance in the middle, a death between the two commits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from time import monotonic

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
from delivery_parts import PATIENCE_S, Member, eventually, job

from devstack import Addresses
from schemas import headers
from schemas.codec import encode_job
from schemas.message import OutputRecord
from worker.adapters.kafka import KafkaPublisher, KafkaSource, apply_topics, plan_topics
from worker.adapters.kafka_source import Assignor
from worker.adapters.memory import MemoryResults
from worker.ports import Partition
from worker.topics import Topics

pytestmark = pytest.mark.services
JOBS, PARTITIONS = 200, 4


class Killed(Exception):
    """The process would be gone here."""


class MortalPublisher(KafkaPublisher):
    """Dies with its transaction open: all is produced, and in Postgres, but nothing is committed."""

    commits_to_live = 3

    def commit(self, outputs: Sequence[OutputRecord], offsets: Mapping[Partition, int]) -> None:
        if self.commits_to_live == 0:
            producer = self._connected()
            producer.begin_transaction()
            for output in outputs:
                self._produce(producer, output, monotonic() + PATIENCE_S)
            producer.flush()
            raise Killed
        self.commits_to_live -= 1
        super().commit(outputs, offsets)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    config: Mapping[str, str]
    topics: Topics
    results: MemoryResults
    assignor: Assignor
    closing: ExitStack

    @property
    def group(self) -> str:
        return f"{self.topics.prefix}group"

    def send(self, first: int, last: int) -> None:
        producer = Producer({**self.config, "transactional.id": f"{self.group}.submit"})  # leaves gaps in the offsets
        producer.init_transactions()
        for start in range(first, last, 10):
            producer.begin_transaction()
            for n in range(start, min(start + 10, last)):
                message = encode_job(job(f"j{n}"), encoding="avro", source="test")
                producer.produce(
                    self.topics.jobs, message.value, key=message.key, headers=list(message.headers),
                    partition=n % PARTITIONS,
                )  # fmt: skip
            producer.commit_transaction()

    def member(self, name: str, publisher: type[KafkaPublisher] = KafkaPublisher) -> Member:
        source = KafkaSource(
            client_config=self.config, group=self.group, topics=self.topics.consumed, assignor=self.assignor
        )
        member = Member(source=source, results=self.results, window_records=8)
        member.publisher = publisher(
            client_config=self.config, group=self.group, instance=name, group_metadata=source.group_metadata,
            still_owned=member.watermark.still_owned,
        )  # fmt: skip
        self.closing.callback(member.end)
        return member

    def answered(self) -> Counter[str]:
        """How often each job's input is named by a committed result."""
        config = {
            **self.config, "group.id": f"{self.group}.reader", "enable.auto.commit": False,
            "isolation.level": "read_committed", "enable.partition.eof": True,
        }  # fmt: skip
        places = [(topic, number) for topic in (self.topics.results, self.topics.dlq) for number in range(PARTITIONS)]
        found: Counter[str] = Counter()
        ended: set[tuple[str, int]] = set()
        with closing(Consumer(config)) as reader:
            reader.assign([TopicPartition(*place, OFFSET_BEGINNING) for place in places])
            while len(ended) < len(places):
                message = reader.poll(PATIENCE_S)
                assert message is not None, "the end of a partition was not reached: a transaction is still open"
                if message.error():
                    ended.add((message.topic(), message.partition()))
                else:
                    found[dict(message.headers())[headers.SRC].decode()] += 1
        return found


@pytest.fixture(params=["cooperative-sticky", "range", "consumer"])
def world(request: pytest.FixtureRequest, stack: Addresses, topic_prefix: str) -> Iterator[World]:
    config, topics = {"bootstrap.servers": stack.kafka_bootstrap}, Topics(prefix=topic_prefix)
    apply_topics(config, plan_topics(config, topics, partitions=PARTITIONS))
    results = MemoryResults(topics=topics)
    with ExitStack() as ending:
        yield World(config=config, topics=topics, results=results, assignor=request.param, closing=ending)


def committed_records(world: World, *members: Member) -> int:
    return sum(int(member.meter.jobs.labels("judged")._value.get()) for member in members)  # noqa: SLF001


def test_a_rebalance_in_the_middle_loses_and_repeats_nothing(world: World) -> None:
    world.send(0, JOBS // 2)
    first, second = world.member("m1"), world.member("m2")
    first.start()
    eventually(lambda: committed_records(world, first) >= 20, "the first results")
    second.start()
    world.send(JOBS // 2, JOBS)
    eventually(lambda: second.intake.joined, "the second member's share")
    eventually(lambda: committed_records(world, first, second) >= JOBS, "all results")
    second.stop()
    first.stop()
    found = world.answered()
    assert (len(found), set(found.values())) == (JOBS, {1})
    assert len(world.results.jobs) == JOBS


def test_a_death_between_the_two_commits_loses_and_repeats_nothing(world: World) -> None:
    world.send(0, JOBS)
    doomed = world.member("slot-0", MortalPublisher).start()
    with pytest.raises(Killed):
        doomed.threads[-1].join()
    written = len(world.results.jobs)
    doomed.end()  # its hand-offs die with it, its transaction stays open
    heir = world.member("slot-0").start()
    eventually(lambda: committed_records(world, doomed, heir) >= JOBS, "all results")
    heir.stop()
    found = world.answered()
    assert (len(found), set(found.values())) == (JOBS, {1})
    assert len(world.results.jobs) == JOBS >= written > 0
