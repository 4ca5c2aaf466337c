"""What the tests of network and broker faults are made of: two topics behind a proxy, and a broker to kill."""

from __future__ import annotations

import base64
import signal
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psutil
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from delivery_parts import Member, job

from devstack import processes
from devstack.kafka import Kafka
from devstack.ports import free_port
from devstack.state import ProcessRecord
from schemas import headers
from schemas.codec import encode_job
from schemas.message import InputRecord, OutputRecord
from worker.adapters.kafka import KafkaPublisher, KafkaSource
from worker.adapters.kafka_source import Assignor
from worker.adapters.memory import MemoryResults
from worker.ports import Partition
from worker.topics import Topics

T = TypeVar("T")
PATIENCE_S = 120.0  # only a failure takes that long
QUICK = {"socket.timeout.ms": 1_000}  # for tests that wait until a request is given up
QUICK_READER = {
    "topic.metadata.refresh.interval.ms": 1_000,
    "reconnect.backoff.max.ms": 500,
    "socket.timeout.ms": 10_000,
}


class FaultWorld:
    """The topics `jobs` (read by one group), `results` and `dlq`. Jobs and checks go straight to the broker."""

    def __init__(self, broker: str, prefix: str, *, partitions: int = 2) -> None:
        self.broker, self.topics, self.group = broker, Topics(prefix=prefix), f"{prefix}group"
        self.config = {"bootstrap.servers": broker}
        self.partitions = partitions
        self.store = MemoryResults(topics=self.topics)
        self.make_topics(self.topics.jobs, self.topics.results, self.topics.dlq)

    def make_topics(self, *names: str) -> None:
        self.administer(lambda admin: admin.create_topics([NewTopic(name, self.partitions, 1) for name in names]))

    def administer(self, ask: Callable[[AdminClient], Mapping[Any, Any]]) -> None:
        """Ask for changes and wait until they are made."""
        admin = AdminClient(self.config)
        for future in ask(admin).values():
            future.result(PATIENCE_S)

    def topic_exists(self, name: str) -> bool:
        return name in AdminClient(self.config).list_topics(timeout=PATIENCE_S).topics

    def send(self, first: int, last: int, *, photo: bytes = b"photo") -> None:
        """Jobs j`first` up to j`last`, over all partitions in turn."""
        producer = Producer({**self.config, "enable.idempotence": True})  # knows the topics as they are now
        for n in range(first, last):
            message = encode_job(job(f"j{n}", photo), encoding="avro", source="test")
            producer.produce(
                self.topics.jobs, message.value, key=message.key, headers=list(message.headers),
                partition=n % self.partitions,
            )  # fmt: skip
        assert producer.flush(PATIENCE_S) == 0

    def source(self, through: str, assignor: Assignor = "cooperative-sticky") -> KafkaSource:
        return KafkaSource(
            client_config={"bootstrap.servers": through},
            group=self.group,
            topics=[self.topics.jobs],
            assignor=assignor,
            overrides=QUICK_READER,
        )

    def member(
        self, through: str, name: str, assignor: Assignor = "cooperative-sticky", *, stop_grace_s: float = PATIENCE_S
    ) -> Member:
        """Intake, a stage that answers at once, and settle; not started."""
        source = self.source(through, assignor)
        member = Member(source=source, results=self.store, window_records=32, stop_grace_s=stop_grace_s)
        member.publisher = KafkaPublisher(
            client_config={"bootstrap.servers": through}, group=self.group, instance=name,
            group_metadata=source.group_metadata, still_owned=member.watermark.still_owned,
        )  # fmt: skip
        return member

    def answered(self, topic: str | None = None) -> Counter[str]:
        """How often a committed result names each input record."""
        return Counter(dict(message.headers() or ())[headers.SRC].decode() for message in self.read(topic))

    def read(self, topic: str | None = None) -> list[Any]:
        """All committed records of a topic, `results` unless named. A transaction left open fails the test."""
        name = topic or self.topics.results
        reader = Consumer(
            {**self.config, "group.id": f"{self.group}.reader", "isolation.level": "read_committed",
             "enable.partition.eof": True, "enable.auto.commit": False}
        )  # fmt: skip
        reader.assign([TopicPartition(name, number, 0) for number in range(self.partitions)])
        found, ended = [], 0
        while ended < self.partitions:
            message = reader.poll(PATIENCE_S)
            assert message is not None, "the end of a partition was not reached: a transaction is still open"
            ended += message.error() is not None
            found += [message] if message.error() is None else []
        reader.close()
        return found

    def committed(self) -> dict[int, int]:
        """The group's offsets in `jobs`, as a plain client reads them."""
        places = [TopicPartition(self.topics.jobs, number) for number in range(self.partitions)]
        reader = Consumer({**self.config, "group.id": self.group})
        with closing(reader):
            return {place.partition: place.offset for place in insist(lambda: reader.committed(places, timeout=5))}

    def assert_each_once(self, jobs: int) -> None:
        found = self.answered()
        assert {source: times for source, times in found.items() if times != 1} == {}
        assert (len(found), len(self.store.jobs)) == (jobs, jobs)


def insist(call: Callable[[], T]) -> T:
    """Call until it succeeds: a broker that has just started is not yet its own coordinator."""
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            return call()
        except KafkaException:
            if time.monotonic() > deadline_s:
                raise


class Listener:
    """Owns what it is given."""

    def assigned(self, partitions: Sequence[Partition]) -> int:
        return 1

    def revoked(self, partitions: Sequence[Partition]) -> None:
        """Nothing is in flight."""

    lost = revoked


def read(source: KafkaSource, count: int) -> list[InputRecord]:
    records: list[InputRecord] = []
    deadline_s = time.monotonic() + PATIENCE_S
    while len(records) < count and time.monotonic() < deadline_s:
        if (record := source.poll(0.1)) is not None:
            records.append(record)
    assert len(records) == count
    return records


def answers(world: FaultWorld, records: Sequence[InputRecord]) -> list[OutputRecord]:
    return [
        OutputRecord(
            topic=world.topics.results, key=r.key, value=b"answer", headers=((headers.SRC, str(r.source).encode()),)
        )
        for r in records
    ]


def next_offsets(records: Sequence[InputRecord]) -> Mapping[Partition, int]:
    return {(r.source.topic, r.source.partition): r.source.offset + 1 for r in records}


class OwnBroker:
    """A Kafka of this test's own, to be killed, suspended and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        self._ports = {"kafka": free_port(), "kafka_controller": free_port()}
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        self._kafka = Kafka(folder / "kafka", cluster_id)
        self._log = folder / "broker.log"
        self._record: ProcessRecord | None = None
        self.address = f"127.0.0.1:{self._ports['kafka']}"

    @property
    def runs(self) -> bool:
        return processes.find(self._record) is not None

    def start(self) -> float:
        """Returns when it answers: that moment, in seconds of time.monotonic."""
        self._record = processes.start(self._kafka.prepare(self._ports), self._log)
        pid = self._record.pid
        deadline_s = time.monotonic() + 180
        while not self._kafka.ready(self._ports, pid):
            assert time.monotonic() < deadline_s, "the broker does not answer"
        return time.monotonic()

    def kill(self) -> None:
        process = self._process()
        process.kill()
        process.wait(PATIENCE_S)

    def suspend(self) -> None:
        self._process().suspend()

    def resume(self) -> float:
        self._process().resume()
        return time.monotonic()

    def restart(self) -> float:
        """In good order, as an upgrade would."""
        self.stop()
        return self.start()

    def stop(self) -> None:
        if (process := processes.find(self._record)) is not None:
            process.resume()
        processes.stop(self._record, signal.SIGTERM, self._kafka.stop_deadline_s)

    def _process(self) -> psutil.Process:
        process = processes.find(self._record)
        assert process is not None, "the broker does not run"
        return process


@contextmanager
def running(*members: Member) -> Iterator[None]:
    """Stops them in the end and raises what went wrong in them."""
    with ExitStack() as ending:
        for member in members:
            ending.callback(member.end)
            member.start()
        try:
            yield
        except Exception as error:
            for dead in (fault for member in members for thread in member.threads for fault in thread.errors):
                error.add_note(f"a stage had ended: {dead!r}")
            raise
        for member in members:
            member.stop()
