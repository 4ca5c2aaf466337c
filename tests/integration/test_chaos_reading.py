"""A small real run read back for the checker: it is clean; what is then spoiled in the services is found."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from threading import Event
from time import monotonic

import psycopg
import pytest
from confluent_kafka import KafkaError, Message, Producer
from delivery_parts import Member, parse
from outcome_builders import a_job, a_probe, an_event, an_evidence
from sqlalchemy import make_url

from devstack import Addresses
from schemas.codec import encode_job
from schemas.codes import ErrorCode
from schemas.job import AuthenticationJob, JobView
from schemas.message import InputRecord, OutputRecord, Source
from tests.chaos.checker import check, counted
from tests.chaos.concurrent_reader import ConcurrentReader
from tests.chaos.invariants import look_up
from tests.chaos.ledger import Ledger
from tests.chaos.observation import Chronicle, Observation, Reader, Submission
from tests.chaos.reading import Places, Watched, observe, process_sample
from tests.chaos.reading_topics import Deployment
from tests.chaos.verdict import reach_verdict
from worker.adapters.database import connect
from worker.adapters.kafka import KafkaPublisher, KafkaSource, apply_topics, plan_topics
from worker.adapters.results import PostgresResults
from worker.outcomes import Judged, Outcome, Rejected, Retry
from worker.ports import Partition
from worker.topics import Topics
from worker.work import Received

pytestmark = pytest.mark.services
PARTITIONS = 2
RETRY_S = 0.3
OVER_S = 90.0


class Answering(Member):
    """Its jobs tell by their names what becomes of them."""

    def answer(self) -> None:
        while not self.received.finished:
            item = self.received.take()
            if item is not None:
                self.budget.give(item.held_bytes)
                self.inbox.put(outcome_of(item))


def outcome_of(item: Received) -> Outcome:
    job, now = item.job, datetime.now(UTC)
    if job.job_id.startswith("retried") and item.attempt == 1:
        due = now + timedelta(seconds=RETRY_S)
        return Retry(
            record=item.record, job=job, stage="fetch", detail="", attempt=1, due=due, first_seen=item.first_seen
        )
    if job.job_id.startswith("blank"):
        return Rejected(
            record=item.record, job=job, code=ErrorCode.NO_USABLE_VIEW, stage="fetch", detail="", attempt=item.attempt,
            first_seen=item.first_seen,
        )  # fmt: skip
    probe = a_probe(photograph="of two jobs" if job.job_id.startswith("shared") else job.job_id)
    event = an_event(job, judged_at=now)
    return Judged(record=item.record, job=job, event=event, evidence=an_evidence(job, probe), attempt=item.attempt)


class Faltering(KafkaPublisher):
    """Before each transaction another one writes the same outputs and is aborted."""

    ghost: Producer | None = None

    def commit(self, outputs: Sequence[OutputRecord], offsets: Mapping[Partition, int]) -> None:
        assert self.ghost is not None
        self.ghost.begin_transaction()
        for output in outputs:
            self.ghost.produce(output.topic, output.value, key=output.key, headers=list(output.headers))
        self.ghost.flush(10)
        self.ghost.abort_transaction(10)
        super().commit(outputs, offsets)


@dataclass(kw_only=True)
class Ground:
    """The services of one run, and its producers' log."""

    kafka: Mapping[str, str]
    topics: Topics
    database_url: str
    ledger: Ledger
    submissions: list[Submission] = field(default_factory=list)

    @property
    def group(self) -> str:
        return f"{self.topics.prefix}group"

    def producer(self, name: str) -> Producer:
        made = Producer({**self.kafka, "transactional.id": f"assay.{self.group}.{name}"})
        made.init_transactions()
        return made

    def member(self) -> Answering:
        source = KafkaSource(client_config=self.kafka, group=self.group, topics=self.topics.consumed)
        results = PostgresResults(database=connect(self.database_url), group=self.group, topics=self.topics)
        member = Answering(source=source, results=results)
        publisher = Faltering(
            client_config=self.kafka, group=self.group, instance="w1", group_metadata=source.group_metadata,
            still_owned=member.watermark.still_owned,
        )  # fmt: skip
        publisher.ghost = self.producer("ghost")
        member.publisher = publisher
        return member

    def observe(self, *readers: Reader) -> Observation:
        deployment = Deployment(group=self.group, topics=self.topics)
        places = Places(kafka=self.kafka, database_url=self.database_url, deployments=[deployment])
        audit = self.ledger.findings if readers else None
        return observe(places, Watched(submissions=self.submissions, readers=readers), verify_audit=audit)

    def execute(self, statement: str) -> None:
        plain = make_url(self.database_url).set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(plain) as connection:
            connection.execute(statement.encode())


def inline(job_id: str, **changes: str) -> AuthenticationJob:
    job = a_job(job_id, **changes)
    photograph = JobView(view="logo", sha256=sha256(job_id.encode()).hexdigest(), data=job_id.encode())
    return replace(job, views=(photograph,))


class Load:
    """Sends in transactions of a few records, so that offsets have gaps."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.producer = ground.producer("load")

    def send(self, *messages: tuple[AuthenticationJob, str | None]) -> None:
        self.producer.begin_transaction()
        for job, dies_of in messages:
            message = encode_job(job, encoding="avro", source="test", traceparent="00-0af7651916cd43dd-01")
            submission = Submission(
                tenant=job.tenant, job_id=job.job_id, topic=self.ground.topics.jobs, expects_dead_code=dies_of,
                value_digest=sha256(message.value).hexdigest(), payload_digest=digest_of(message.key, message.value),
            )  # fmt: skip
            self._produce(submission, message.key, message.value, list(message.headers))
        self.producer.commit_transaction()

    def send_broken(self, value: bytes) -> None:
        self.producer.begin_transaction()
        submission = Submission(
            tenant=None, job_id=None, topic=self.ground.topics.jobs, value_digest=sha256(value).hexdigest(),
            well_formed=False, expects_dead_code="malformed_envelope",
        )  # fmt: skip
        self._produce(submission, b"any", value, [])
        self.producer.commit_transaction()

    def _produce(self, submission: Submission, key: bytes, value: bytes, headers: list[tuple[str, bytes]]) -> None:
        def note(error: KafkaError | None, message: Message) -> None:
            assert error is None, error
            place = {"partition": message.partition(), "offset": message.offset()}
            self.ground.submissions.append(replace(submission, **place))

        self.producer.produce(submission.topic, value, key=key, headers=headers, on_delivery=note)


def digest_of(key: bytes, value: bytes) -> str:
    message = InputRecord(
        source=Source(topic="t", partition=0, offset=0), epoch=1, key=key, value=value, timestamp_ms=0,
        headers=(("ce_specversion", b"1.0"), ("ce_type", b"assay.job.v1"), ("content-type", b"application/avro")),
    )  # fmt: skip
    return parse(message).payload_digest


@pytest.fixture
def ground(stack: Addresses, topic_prefix: str, database_url: str) -> Iterator[Ground]:
    kafka, topics = {"bootstrap.servers": stack.kafka_bootstrap}, Topics(prefix=topic_prefix, retry_delays_s=(RETRY_S,))
    apply_topics(kafka, plan_topics(kafka, topics, partitions=PARTITIONS))
    ledger = Ledger(kafka, database_url, topics.audit).start()
    yield Ground(kafka=kafka, topics=topics, database_url=database_url, ledger=ledger)
    ledger.close()


def play(ground: Ground) -> Reader:
    """A whole run; returns what a reader saw meanwhile."""
    load, member = Load(ground), ground.member()
    with ConcurrentReader(ground.kafka, [ground.topics.results, ground.topics.dlq]) as reader:
        member.start()
        for number in range(4):
            load.send(*((inline(f"{kind}-{number}"), None) for kind in ("plain", "shared", "retried")))
        load.send((inline("blank"), "no_usable_view"), (inline("plain-0", tenant="beau"), None))
        load.send((inline("plain-1"), None), (inline("plain-2", sku="SKU-9"), None))  # again, and a conflict
        load.send_broken(b"broken")
        wait_until_over(ground, member)
        member.stop()
        member.publisher.close()
        member.results.close()
        ground.ledger.stop()
        return reader.stop()


def wait_until_over(ground: Ground, member: Member) -> None:
    until_s, pause = monotonic() + OVER_S, Event()
    while found := check(ground.observe()):
        for failed in [thread for thread in member.threads if thread.errors]:
            failed.join()
        assert monotonic() < until_s, found
        pause.wait(0.5)


def test_a_real_run_is_read_back_and_holds(ground: Ground) -> None:
    reader = play(ground)
    seen = ground.observe(reader)
    assert check(seen) == ()
    assert (reader.broke_off, len(ground.submissions)) == (None, 17)
    assert_whole(seen)
    spoil(ground)
    document = reach_verdict(ground.observe(reader), Chronicle(seed=1, commit="c", started_at_ms=0, ended_at_ms=1))
    states = {name: facts["state"] for name, facts in document.document["invariants"].items()}  # type: ignore[attr-defined]
    violated = {name for name, state in states.items() if state == "violated"}
    assert violated == {"I1", "I2", "I3", "I10", "I11", "I12"}
    assert {name for name, state in states.items() if state == "unproven"} == {"I6"}


def assert_whole(seen: Observation) -> None:
    """Nothing that happened was overlooked."""
    counts = counted(look_up(seen))
    assert (counts["I1"], counts["I2"], counts["I7"]) == (14, 21, 4)
    assert (counts["I10"], seen.audit_findings) == (1, ())
    assert counts["I4"] >= 21 <= counts["I5"] + counts["I7"]
    assert (len(seen.verdicts), {letter.code for letter in seen.letters}) == (
        13, {"no_usable_view", "job_id_conflict", "malformed_envelope"},
    )  # fmt: skip
    assert {(spread.embeddings, round(spread.least_cosine, 3)) for spread in seen.spreads} == {(4, 1.0), (2, 1.0)}
    assert {one.transactional_id.rpartition(".")[2] for one in seen.open_transactions} == {"load", "ghost", "w1"}
    assert {one.state for one in seen.open_transactions} <= {"CompleteCommit", "CompleteAbort"}


def spoil(ground: Ground) -> None:
    """Change stored bytes, cross a tenant, lose a job's row, write a second answer, leave a transaction open."""
    ground.execute("UPDATE assay.verdicts SET event = event || '\\x00' WHERE job_id = 'plain-0' AND tenant = 'acme'")
    ground.execute("UPDATE assay.view_results SET tenant = 'other' WHERE job_id = 'plain-1'")
    ground.execute("DELETE FROM assay.jobs WHERE job_id = 'plain-3'")
    zombie = Producer(ground.kafka)
    src = f"{ground.topics.jobs}/0/0".encode()
    zombie.produce(ground.topics.results, b"second", key=b"acme/plain-0", headers=[("src", src)])
    zombie.flush(10)
    left = ground.producer("left")
    left.begin_transaction()
    left.produce(ground.topics.dlq, b"never committed", headers=[("src", src)])
    left.flush(10)


def test_a_sample_of_this_process_tells_what_it_holds() -> None:
    sample = process_sample(os.getpid(), "tests", "baseline")
    assert sample.rss_bytes > 10 << 20
    assert sample.handles > 3
    assert sample.threads >= 1
