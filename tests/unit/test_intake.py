from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from delivery_parts import PATIENCE_S, TOPICS, Body, Member, eventually, judged, send

from schemas.codes import ErrorCode
from schemas.message import OutputRecord
from worker.adapters.memory import MemoryBroker
from worker.budget import ByteBudget
from worker.outcomes import Rejected
from worker.work import Received

JOBS = TOPICS.jobs


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker({JOBS: 2, TOPICS.retry[0]: 1})


@pytest.fixture
def member(broker: MemoryBroker) -> Iterator[Member]:
    """Only its intake thread runs."""
    member = Member(broker)
    thread = Body(run=member.intake.run).start()
    yield member
    member.watermark.drop(member.watermark.owned())
    member.intake.request_stop()
    while member.received.take(0.0):
        pass
    thread.join()


def take(member: Member) -> Received:
    item = member.received.take(PATIENCE_S)
    assert item is not None
    return item


def publish(member: Member, item: Received) -> None:
    output = OutputRecord(topic="results", key=None, value=b"", headers=())
    assert member.watermark.finished(item.record.source, item.record.epoch, output)
    member.watermark.published(member.watermark.ready(100))


def test_a_job_is_parsed_stamped_and_counted(broker: MemoryBroker, member: Member) -> None:
    send(broker, "j1")
    item = take(member)
    assert (item.job.job_id, item.attempt) == ("j1", 1)
    assert item.record.epoch == 1
    assert member.budget.held_bytes == item.held_bytes >= len(item.record.value)
    assert member.watermark.in_flight((JOBS, 0)) == 1


def test_a_message_that_is_no_job_goes_straight_to_settle(broker: MemoryBroker, member: Member) -> None:
    broker.produce(JOBS, b"not a job", partition=0)
    outcome = member.inbox.take(PATIENCE_S)
    assert isinstance(outcome, Rejected)
    assert (outcome.code, outcome.stage, outcome.job) == (ErrorCode.MALFORMED_ENVELOPE, "intake", None)
    assert member.budget.held_bytes == 0


def test_a_spent_byte_budget_stops_intake_until_bytes_are_given_back(broker: MemoryBroker) -> None:
    member = Member(broker)
    member.intake._budget = member.budget = ByteBudget(1, resume_bytes=0)  # noqa: SLF001 # smaller than one job
    thread = Body(run=member.intake.run).start()
    send(broker, "j1")
    send(broker, "j2")
    first = take(member)
    assert member.received.take(0.2) is None
    member.budget.give(first.held_bytes)
    assert take(member).job.job_id == "j2"
    member.watermark.drop(member.watermark.owned())
    member.intake.request_stop()
    thread.join()


def test_a_full_window_holds_its_own_partition_only(broker: MemoryBroker, member: Member) -> None:
    for n in range(20):
        send(broker, f"a{n}", partition=0)
    held = [take(member) for _ in range(16)]
    assert member.received.take(0.2) is None
    send(broker, "b", partition=1)
    assert take(member).job.job_id == "b"
    for item in held:
        publish(member, item)
    assert [take(member).job.job_id for _ in range(4)] == ["a16", "a17", "a18", "a19"]


def test_the_slow_lane_keeps_few_jobs_in_flight_over_all_its_partitions() -> None:
    broker = MemoryBroker({JOBS: 1, TOPICS.jobs_slow: 3})
    member = Member(broker)
    member.intake._limits = replace(member.intake._limits, slow_topic=TOPICS.jobs_slow, slow_jobs=2)  # noqa: SLF001
    thread = Body(run=member.intake.run).start()
    for n in range(6):
        send(broker, f"slow-{n}", topic=TOPICS.jobs_slow, partition=n % 3)
    held = [take(member), take(member)]
    assert member.received.take(0.2) is None
    send(broker, "quick")
    assert take(member).job.job_id == "quick"
    publish(member, held[0])
    assert take(member).job.job_id.startswith("slow-")
    member.watermark.drop(member.watermark.owned())
    member.intake.request_stop()
    thread.join()


def test_a_full_handoff_loses_nothing_and_does_not_keep_a_partition_from_moving(broker: MemoryBroker) -> None:
    member = Member(broker)
    thread = Body(run=member.intake.run).start()
    for n in range(12):
        send(broker, f"a{n}", partition=0)
    eventually(lambda: len(member.received) == 8, "a full hand-off")
    eventually(lambda: member.meter.paused.labels("handoff")._value.get() == 1, "a pause")  # noqa: SLF001
    broker.rebalance({"member-1": [(JOBS, 0)], "other": [(JOBS, 1)]})
    eventually(lambda: (JOBS, 1) not in broker.owners, "giving up a partition")
    assert [take(member).job.job_id for _ in range(12)] == [f"a{n}" for n in range(12)]
    member.watermark.drop(member.watermark.owned())
    member.intake.request_stop()
    thread.join()


def test_a_retry_that_is_not_due_waits_without_holding_others(broker: MemoryBroker, member: Member) -> None:
    due_ms = int(time.time() * 1e3) + 400
    send(broker, "later", topic=TOPICS.retry[0], due_ms=due_ms)
    send(broker, "after-it", topic=TOPICS.retry[0])
    eventually(lambda: member.intake._not_due != {}, "the retry's arrival")  # noqa: SLF001
    send(broker, "now")
    assert [take(member).job.job_id for _ in range(3)] == ["now", "later", "after-it"]
    assert time.time() * 1e3 >= due_ms


def test_a_revoked_partition_is_drained_first(broker: MemoryBroker, member: Member) -> None:
    send(broker, "j1")
    item = take(member)
    broker.rebalance({"other": [(JOBS, 0)], "member-1": [(JOBS, 1)]})
    assert not member.watermark.wait_drained([(JOBS, 0)], 0.1)
    assert broker.owners[JOBS, 0] == "member-1"
    publish(member, item)
    eventually(lambda: (JOBS, 0) not in broker.owners, "giving up the partition")
    assert not member.watermark.delivered(item.record.source, item.record.epoch)


def test_a_revocation_that_does_not_drain_ends_at_its_deadline(broker: MemoryBroker) -> None:
    member = Member(broker)
    member.intake._limits = type(member.intake._limits)(drain_on_revoke_s=0.05, poll_s=0.01)  # noqa: SLF001
    thread = Body(run=member.intake.run).start()
    send(broker, "j1")
    item = take(member)
    broker.rebalance({"other": [(JOBS, 0)], "member-1": [(JOBS, 1)]})
    eventually(lambda: (JOBS, 0) not in broker.owners, "giving up the partition")
    assert not member.watermark.expects(item.record.source, item.record.epoch)
    member.intake.request_stop()
    thread.join()


def test_a_lost_partition_is_dropped_at_once(broker: MemoryBroker, member: Member) -> None:
    send(broker, "j1")
    item = take(member)
    broker.expel("member-1")
    eventually(lambda: not member.watermark.expects(item.record.source, item.record.epoch), "the drop")


def test_pauses_of_different_services_end_separately(broker: MemoryBroker, member: Member) -> None:
    eventually(lambda: member.intake.joined, "joining")
    member.intake.pause_all("postgres")
    member.intake.pause_all("kafka")
    assert member.received.take(0.1) is None
    send(broker, "j1")
    member.intake.resume_all("kafka")
    assert member.received.take(0.1) is None
    member.intake.resume_all("postgres")
    assert take(member).job.job_id == "j1"


def test_stopping_takes_nothing_new_and_ends_when_all_is_published(broker: MemoryBroker) -> None:
    member = Member(broker)
    thread = Body(run=member.intake.run).start()
    send(broker, "j1")
    item = take(member)
    member.intake.request_stop()
    eventually(lambda: len(member.intake._pauses._paused) == 3, "the pause")  # noqa: SLF001
    send(broker, "j2")
    assert member.received.take(0.1) is None
    assert thread.thread.is_alive()
    assert member.inbox.offer(judged(item.record, item.job))
    publish(member, item)
    thread.join()
    assert broker.owners == {}
    assert not member.intake.joined
