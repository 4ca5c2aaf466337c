from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from threading import Event

import pytest
from delivery_parts import NOW, PATIENCE_S, TOPICS, Body, Member, eventually, judged, send

from schemas import headers
from schemas.codes import ErrorCode
from schemas.message import OutputRecord, Source
from worker.adapters.memory import Fault, MemoryBroker, MemoryPublisher, MemoryResults
from worker.errors import AbortTransaction, Fatal, ServiceUnavailable
from worker.observe import Meter
from worker.outages import BackOff
from worker.outcomes import Rejected, Retry
from worker.ports import Partition
from worker.publishing import PublishLimits, PublishStage
from worker.watermark import Watermark
from worker.work import Received

JOBS = TOPICS.jobs


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker({JOBS: 2, TOPICS.retry[0]: 1})


def sources(outputs: list[OutputRecord]) -> list[str]:
    return [dict(output.headers)[headers.SRC].decode() for output in outputs]


def memory(member: Member) -> MemoryResults:
    assert isinstance(member.results, MemoryResults)
    return member.results


def run(broker: MemoryBroker, member: Member, count: int, *faults: Fault) -> None:
    """Serve until `count` outputs are out, then stop in order."""
    assert isinstance(member.publisher, MemoryPublisher)
    member.publisher.fail_next(*faults)
    member.start()
    eventually(lambda: len(broker.published) >= count and member.watermark.unpublished() == 0, f"{count} outputs")
    member.stop()


def test_every_record_is_answered_once_in_the_order_of_its_partition(broker: MemoryBroker) -> None:
    for n in range(40):
        send(broker, f"j{n}", partition=n % 2)
        broker.leave_gap((JOBS, n % 2))
    run(broker, Member(broker), 40)
    assert len(set(sources(broker.published))) == len(broker.published) == 40
    for partition in (0, 1):
        offsets = [int(s.split("/")[2]) for s in sources(broker.published) if s.startswith(f"{JOBS}/{partition}/")]
        assert offsets == sorted(offsets)
    assert broker.offsets == {(JOBS, 0): 39, (JOBS, 1): 39}


@pytest.mark.parametrize("fault", [Fault.ABORT, Fault.AWAY, Fault.ANSWER_LOST])
def test_a_failed_transaction_neither_loses_nor_repeats_an_answer(broker: MemoryBroker, fault: Fault) -> None:
    for n in range(30):
        send(broker, f"j{n}", partition=n % 2)
    member = Member(broker)
    run(broker, member, 30, fault, fault, fault)
    assert len(set(sources(broker.published))) == len(broker.published) == 30
    assert member.meter.paused.labels("kafka")._value.get() == 0  # noqa: SLF001


def test_the_producer_is_opened_before_there_is_anything_to_publish(broker: MemoryBroker) -> None:
    """A killed predecessor's open transaction hides the committed offsets until somebody's first call ends it."""
    asked: list[object] = []

    class Opened(MemoryPublisher):
        def committed(self, partitions: Iterable[Partition]) -> Mapping[Partition, int]:
            asked.append(tuple(partitions))
            raise ServiceUnavailable("kafka", "planted")

    member = Member(broker)
    member.publisher = Opened(broker)
    member.start()
    eventually(lambda: asked == [()], "the producer was opened")
    member.stop()


def test_settle_writes_on_while_a_transaction_commits(broker: MemoryBroker) -> None:
    committing, go_on = Event(), Event()

    class Slow(MemoryPublisher):
        def commit(self, outputs: Sequence[OutputRecord], offsets: Mapping[Partition, int]) -> None:
            committing.set()
            assert go_on.wait(PATIENCE_S)
            super().commit(outputs, offsets)

    member = Member(broker)
    member.publisher = Slow(broker)
    member.start()
    send(broker, "j1")
    assert committing.wait(PATIENCE_S)
    for n in range(2, 5):
        send(broker, f"j{n}")
    eventually(lambda: len(memory(member).jobs) == 4, "the rows of what came meanwhile")
    assert broker.published == []
    go_on.set()
    eventually(lambda: len(broker.published) == 4, "all of them out")
    member.stop()


def test_a_fenced_producer_ends_the_thread(broker: MemoryBroker) -> None:
    send(broker, "j1")
    member = Member(broker)
    assert isinstance(member.publisher, MemoryPublisher)
    member.publisher.fail_next(Fault.FENCED)
    member.start()
    publish = member.threads[-1]
    with pytest.raises(Fatal):
        publish.join()
    assert broker.published == []
    member.watermark.drop(member.watermark.owned())
    member.intake.request_stop()
    member.threads[0].join()
    member.received.close()
    member.threads[1].join()
    member.inbox.close()
    member.threads[2].join()


def test_intake_pauses_while_postgres_is_away_and_goes_on_afterwards(broker: MemoryBroker) -> None:
    member = Member(broker)
    memory(member).outages = 3
    for n in range(20):
        send(broker, f"j{n}")
    run(broker, member, 20)
    assert len(broker.published) == 20
    assert member.meter.paused.labels("postgres")._value.get() == 0  # noqa: SLF001


def test_intake_goes_on_where_the_partitions_went_while_postgres_was_away(broker: MemoryBroker) -> None:
    """A worker that woke in another's place gave up what it could not write, and then read nothing for ever."""
    member = Member(broker)
    memory(member).outages = 10**6
    send(broker, "j1")
    member.start()
    eventually(lambda: member.meter.paused.labels("postgres")._value.get() == 1, "the pause")  # noqa: SLF001
    member.watermark.drop(member.watermark.owned())
    eventually(lambda: member.meter.paused.labels("postgres")._value.get() == 0, "the resumption")  # noqa: SLF001
    member.stop()


@pytest.mark.parametrize("away", ["postgres", "kafka"])
def test_a_stop_ends_at_its_grace_though_a_service_is_away(broker: MemoryBroker, away: str) -> None:
    member = Member(broker, stop_grace_s=0.2)
    memory(member).outages = 10**6 if away == "postgres" else 0
    assert isinstance(member.publisher, MemoryPublisher)
    member.publisher.fail_next(*[Fault.AWAY] * 1000)
    send(broker, "j1")
    member.start()
    eventually(lambda: member.meter.paused.labels(away)._value.get() == 1, "the pause")  # noqa: SLF001
    member.stop()
    assert broker.published == []


def test_the_same_job_twice_is_answered_with_the_same_bytes(broker: MemoryBroker) -> None:
    send(broker, "same", partition=0)
    send(broker, "same", partition=1)
    run(broker, Member(broker), 2)
    first, second = broker.published
    assert (first.key, first.value) == (second.key, second.value)
    assert [dict(o.headers).get(headers.DUPLICATE) for o in (first, second)] == [None, b"1"]


def test_a_restart_between_the_two_commits_publishes_what_was_stored(broker: MemoryBroker) -> None:
    """The first worker dies after Postgres and before Kafka; the second finds the row."""
    send(broker, "j1")
    first = Member(broker)
    first.source.subscribe(first.intake)
    record = first.source.poll(0.1)
    assert record is not None
    (stored,) = first.results.settle([judged(record, Member(broker).intake._parse(record))])  # noqa: SLF001
    broker.expel("member-1")
    second = Member(broker, "member-2", results=first.results)
    run(broker, second, 1)
    assert broker.published == [stored]


def test_outcomes_of_a_partition_that_is_gone_are_left_to_the_next_owner(broker: MemoryBroker) -> None:
    send(broker, "j1")
    member = Member(broker)
    intake = Body(run=member.intake.run).start()
    item = member.received.take(10)
    assert item is not None
    member.watermark.drop(member.watermark.owned())
    publishing = member.publishing()
    member.settler(publishing).settle([judged(item.record, item.job)])
    assert not publishing.publish()
    assert memory(member).jobs == {}
    member.intake.request_stop()
    intake.join()


def test_the_first_outcome_of_a_record_wins(broker: MemoryBroker) -> None:
    send(broker, "j1")
    member = Member(broker)
    intake = Body(run=member.intake.run).start()
    item = member.received.take(10)
    assert item is not None
    publishing = member.publishing()
    settler = member.settler(publishing)
    settler.settle([retry(item), judged(item.record, item.job)])
    settler.settle([judged(item.record, item.job)])
    publishing.publish()
    assert [output.topic for output in broker.published] == [TOPICS.retry[0]]
    assert memory(member).jobs == {}
    member.watermark.drop(member.watermark.owned())
    member.intake.request_stop()
    intake.join()


def test_a_retry_comes_back_as_the_next_attempt(broker: MemoryBroker) -> None:
    send(broker, "j1")
    member = Member(broker)
    publishing = member.publishing()
    bodies = member.intake.run, member.settler(publishing).run, publishing.run
    threads = [Body(run=run).start() for run in bodies]
    item = member.received.take(10)
    assert item is not None and item.attempt == 1
    member.inbox.put(retry(item))
    again = member.received.take(10)
    assert again is not None
    assert (again.attempt, again.first_seen, again.job) == (2, item.first_seen, item.job)
    member.inbox.put(rejected(again))
    eventually(lambda: len(broker.published) == 2, "the dead letter")
    assert broker.published[1].topic == TOPICS.dlq
    member.intake.request_stop()
    threads[0].join()
    for outlet, thread in zip((member.inbox, publishing), threads[1:], strict=True):
        outlet.close()
        thread.join()


class ThinLine:
    """A Publisher whose transactions of more than `holds` records find no time, refused or unanswered in turn."""

    def __init__(self, broker: MemoryBroker, holds: int) -> None:
        self.holds = holds
        self.tried: list[int] = []
        self.kept: list[int] = []
        self._broker = broker
        self._line = MemoryPublisher(broker)

    def commit(self, outputs: Sequence[OutputRecord], offsets: Mapping[Partition, int]) -> None:
        self.tried.append(len(outputs))
        if len(outputs) > self.holds:
            if len(self.tried) % 2:
                raise AbortTransaction("the producer's queue stayed full")
            raise ServiceUnavailable("kafka", "no answer in time")
        before = dict(self._broker.offsets)
        self._line.commit(outputs, offsets)
        assert all(before.get(partition, 0) < offset for partition, offset in offsets.items())
        self.kept.append(len(outputs))

    def committed(self, partitions: Iterable[Partition]) -> Mapping[Partition, int]:
        return self._line.committed(partitions)

    def close(self) -> None:
        self._line.close()


class OpenGate:
    def pause_all(self, reason: str) -> None:
        """Nothing comes in here."""

    def resume_all(self, reason: str) -> None:
        """Nothing comes in here."""


def publishing_with(
    broker: MemoryBroker, publisher: ThinLine, *, records: int, size_bytes: int = 2**20
) -> PublishStage:
    """A publish stage with `records` finished records in each of two partitions, to be published by hand."""
    partitions = [(JOBS, 0), (JOBS, 1)]
    broker.owners.update(dict.fromkeys(partitions, "member-1"))
    watermark = Watermark()
    epoch = watermark.assign(partitions)
    for topic, number in partitions:
        for offset in range(records):
            source = Source(topic=topic, partition=number, offset=offset)
            output = OutputRecord(
                topic=TOPICS.results, key=b"k", value=b"v" * 1000, headers=((headers.SRC, str(source).encode()),)
            )
            watermark.delivered(source, epoch)
            watermark.finished(source, epoch, output)
    return PublishStage(
        publisher=publisher, watermark=watermark, intake=OpenGate(), meter=Meter(),
        limits=PublishLimits(
            max_records=16, max_bytes=size_bytes, floor_s=0.0, back_off=BackOff(first_s=0.0, longest_s=0.0)
        ),
    )  # fmt: skip


@pytest.mark.parametrize("holds", [1, 3, 11])
def test_on_a_thin_line_transactions_shrink_until_they_get_through(broker: MemoryBroker, holds: int) -> None:
    line = ThinLine(broker, holds)
    publishing = publishing_with(broker, line, records=40)
    for _ in range(400):
        if not publishing.publish():
            break
    assert line.tried[0] == 16
    assert [s for s in sources(broker.published) if s.startswith(f"{JOBS}/1/")] == [f"{JOBS}/1/{n}" for n in range(40)]
    assert len(set(sources(broker.published))) == len(broker.published) == 80
    assert broker.offsets == {(JOBS, 0): 40, (JOBS, 1): 40}
    failed = len(line.tried) - len(line.kept)
    assert failed <= 4 + len(line.kept), "more than every other transaction failed"
    assert max(line.kept) == holds, "it did not grow to what the line holds"


def test_transactions_grow_again_when_the_line_is_well(broker: MemoryBroker) -> None:
    line = ThinLine(broker, 1)
    publishing = publishing_with(broker, line, records=100)
    while not line.kept:
        publishing.publish()
    line.holds = 1000
    while publishing.publish():
        pass
    grown = line.kept[: line.kept.index(16) + 1]
    assert grown == sorted(grown) and len(grown) < 20


def test_a_transaction_is_bounded_by_bytes_as_well(broker: MemoryBroker) -> None:
    line = ThinLine(broker, 1000)
    publishing = publishing_with(broker, line, records=10, size_bytes=4100)
    while publishing.publish():
        pass
    assert set(line.kept) == {4} and len(broker.published) == 20


def retry(item: Received) -> Retry:
    return Retry(
        record=item.record, job=item.job, stage="fetch", detail="d", attempt=item.attempt, due=NOW,
        first_seen=item.first_seen,
    )  # fmt: skip


def rejected(item: Received) -> Rejected:
    return Rejected(
        record=item.record, job=item.job, code=ErrorCode.NO_USABLE_VIEW, stage="fetch", detail="d",
        attempt=item.attempt, first_seen=item.first_seen,
    )  # fmt: skip
