"""A seeded model of a whole run, without services: what the checker would read after workers that keep the contract.

It is written apart from the product's intake, watermark and settle; only the headers of outputs come from the product's
pure functions. Several lanes with gaps in their offsets, crashes between the commits, aborted transactions, repeated,
conflicting, broken, retried, straggling, dying and replayed jobs, and readers meanwhile.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from random import Random
from uuid import UUID

from schemas import headers as names
from schemas.codes import ErrorCode
from schemas.envelope import event_headers
from schemas.job import AuthenticationJob
from schemas.message import Headers, InputRecord, OutputRecord, Source
from schemas.verdict import result_id
from tests.chaos.imagined_rows import (
    CONSUMED,
    DLQ,
    JOBS,
    KINDS,
    RESULTS,
    RETRY,
    SLOW,
    Row,
    an_input,
    an_output,
    attempt_of,
    digest,
    due_ms,
    job_row,
    letter_row,
    process_samples,
    sighting,
    verdict_row,
)
from tests.chaos.observation import (
    Coverage,
    Observation,
    OffsetSample,
    OpenTransaction,
    Output,
    PartitionEnd,
    Reader,
    Sighting,
    Submission,
)
from worker.adapters.outputs import (
    Answer,
    DeadLetter,
    answer_record,
    conflict_letter,
    dead_letter_record,
    rejected_letter,
    replay_of,
    retry_record,
)
from worker.outcomes import Rejected, Retry

NOON = datetime(2026, 3, 14, 12, tzinfo=UTC)
NOON_MS = int(NOON.timestamp() * 1000)
ATTEMPTS = 3
TENANTS = ("acme", "beau", "coda")
Partition = tuple[str, int]


class Names:
    results, dlq, retry, jobs_slow = RESULTS, DLQ, RETRY, SLOW


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What shall become of a job: how often it is tried in vain, the code it dies of, whether it straggles."""

    job: AuthenticationJob
    failures: int = 0
    dies_of: ErrorCode | None = None
    straggles: bool = False


@dataclass(slots=True, kw_only=True)
class Log:
    """One partition. `records` hold None where a control record stands; `flags` say which are committed."""

    records: list[InputRecord | None] = field(default_factory=list)
    flags: list[bool] = field(default_factory=list)


class ImaginedRun:
    """`run` plays it to its end; `observation` is what is left."""

    def __init__(self, seed: int, *, jobs: int = 60, partitions: int = 3) -> None:
        self.random = Random(seed)
        self.partitions = partitions
        self.count = jobs
        self.now_ms = NOON_MS
        self.logs: defaultdict[Partition, Log] = defaultdict(Log)
        self.committed: dict[Partition, int] = {}
        self.plans: dict[str, Plan | None] = {}  # by value digest; None: malformed
        self.submissions: list[Submission] = []
        self.rows: dict[tuple[str, str], Row] = {}
        self.letters: dict[UUID, DeadLetter] = {}
        self.replayed: set[UUID] = set()
        self.samples: list[OffsetSample] = []
        self.reader_at: defaultdict[Partition, int] = defaultdict(int)
        self.sightings: list[Sighting] = []

    def run(self) -> ImaginedRun:
        for number in range(self.count):
            self.submit(number)
            if self.random.random() < 0.3:
                self.work()
        while self.work():
            pass
        self.replay_some()
        while self.work():
            pass
        self.read()
        return self

    # what is sent

    def submit(self, number: int) -> None:
        luck = self.random.random()
        if luck < 0.08:
            self.send_malformed(number)
            return
        plan = self.plan(number)
        self.send(plan)
        if luck < 0.25:
            self.send(plan, spacing=b" ")  # again, in other bytes
        if luck < 0.15:
            self.send(replace(plan, job=replace(plan.job, payload_digest=digest(f"other {number}".encode()))))

    def plan(self, number: int) -> Plan:
        luck, tenant = self.random.random(), self.random.choice(TENANTS)
        job = AuthenticationJob(
            job_id=f"job-{number}", tenant=tenant, sku=f"sku-{number % 7}", category="bag", submitted_at=NOON,
            views=(), payload_digest=digest(f"{tenant} {number}".encode()),
        )  # fmt: skip
        if luck < 0.1:
            return Plan(job=job, failures=self.random.randint(1, ATTEMPTS - 1))
        if luck < 0.14:
            return Plan(job=job, failures=ATTEMPTS, dies_of=ErrorCode.RETRIES_EXHAUSTED)
        if luck < 0.2:
            return Plan(job=job, dies_of=ErrorCode.NO_USABLE_VIEW)
        return Plan(job=job, straggles=luck < 0.25)

    def send(self, plan: Plan, spacing: bytes = b"") -> None:
        job = plan.job
        value = f"{job.tenant}/{job.job_id} {job.payload_digest}".encode() + spacing
        self.plans[digest(value)] = plan
        source = self.append_alone(job.key, value, self.sent_headers(job.job_id))
        self.submissions.append(
            Submission(
                tenant=job.tenant, job_id=job.job_id, topic=source.topic, partition=source.partition,
                offset=source.offset, value_digest=digest(value), payload_digest=job.payload_digest,
                expects_dead_code=plan.dies_of.value if plan.dies_of else None,
            )
        )  # fmt: skip

    def send_malformed(self, number: int) -> None:
        value = f"broken {number // 2}".encode()  # some of them twice
        self.plans[digest(value)] = None
        source = self.append_alone(None if number % 2 else b"any key", value, ())
        self.submissions.append(
            Submission(
                tenant=None, job_id=None, topic=JOBS, partition=source.partition, offset=source.offset,
                value_digest=digest(value), well_formed=False, expects_dead_code="malformed_payload",
            )
        )  # fmt: skip

    def sent_headers(self, job_id: str) -> Headers:
        trace = ((names.TRACEPARENT, f"00-{self.random.getrandbits(128):032x}-00f067aa0ba902b7-01".encode()),)
        own = ((names.CE_TYPE, names.JOB_TYPE.encode()), (names.CE_ID, job_id.encode()), ("shop", b"west"))
        return own + trace if self.random.random() < 0.8 else own

    def replay_some(self) -> None:
        """An operator sends dead letters again, after mending what they died of; broken ones stay broken."""
        for letter in list(self.letters.values())[::2]:
            plan = self.plans[digest(letter.value)]
            if plan is not None and letter.code != ErrorCode.JOB_ID_CONFLICT:
                mended = self.random.random() < 0.7
                self.plans[digest(letter.value)] = Plan(job=plan.job, dies_of=None if mended else letter.code)
            kept = tuple(h for h in letter.headers if h[0] not in (names.SRC, names.ATTEMPT, names.DUE_MS))
            mark = (names.REPLAY_OF, str(letter.letter_id).encode())
            self.append_alone(letter.key, letter.value, (*kept, mark))

    # logs

    def append_alone(self, key: bytes | None, value: bytes, headers: Headers) -> Source:
        """A producer's transaction of one record; sometimes one that is aborted comes before."""
        partition = (JOBS, self.random.randrange(self.partitions))
        if self.random.random() < 0.05:
            self.append(partition, key, value, headers, committed=False)
            self.append_control(partition)
        source = self.append(partition, key, value, headers, committed=True)
        self.append_control(partition)
        return source

    def append(
        self, partition: Partition, key: bytes | None, value: bytes, headers: Headers, *, committed: bool
    ) -> Source:
        log = self.logs[partition]
        source = Source(topic=partition[0], partition=partition[1], offset=len(log.records))
        self.now_ms += 1
        log.records.append(
            InputRecord(source=source, epoch=1, key=key, value=value, headers=headers, timestamp_ms=self.now_ms)
        )
        log.flags.append(committed)
        return source

    def append_control(self, partition: Partition) -> None:
        self.logs[partition].records.append(None)
        self.logs[partition].flags.append(False)

    # workers

    def work(self) -> bool:
        """Every lane once: write rows, then crash, abort or commit. False when nothing was left to do."""
        busy = False
        for partition in [p for p in list(self.logs) if p[0] in CONSUMED]:
            taken = self.take(partition)
            if taken:
                busy = True
                self.publish(partition, taken, [self.settle(record) for record in taken])
        self.read()
        return busy

    def take(self, partition: Partition) -> list[InputRecord]:
        log, start = self.logs[partition], self.committed.get(partition, 0)
        pairs = zip(log.records[start : start + 8], log.flags[start : start + 8], strict=True)
        taken = [record for record, committed in pairs if record is not None and committed]
        if not taken and start + 8 < len(log.records):
            self.committed[partition] = start + 8
            return self.take(partition)
        for record in taken:  # a lane waits until its records are due
            self.now_ms = max(self.now_ms, due_ms(record))
        return taken

    def publish(self, partition: Partition, taken: list[InputRecord], outputs: list[OutputRecord]) -> None:
        luck = self.random.random()
        if luck < 0.1:
            return  # killed between the commits
        committed = luck > 0.25
        written = {self.produce(output, committed=committed) for output in outputs}
        for place in written:
            self.append_control(place)
        if committed:
            self.committed[partition] = taken[-1].source.offset + 1
            self.sample(partition)

    def produce(self, output: OutputRecord, *, committed: bool) -> Partition:
        partition = (output.topic, self.random.randrange(self.partitions))
        self.append(partition, output.key, output.value, output.headers, committed=committed)
        return partition

    def sample(self, partition: Partition) -> None:
        topic, number = partition
        offset = self.committed[partition]
        self.samples.append(OffsetSample(seen_at_ms=self.now_ms, topic=topic, partition=number, offset=offset))

    def settle(self, record: InputRecord) -> OutputRecord:
        plan = self.plans[digest(record.value)]
        if plan is None:
            return self.bury(
                self.keep(rejected_letter(self.rejected(record, None, ErrorCode.MALFORMED_PAYLOAD))), record
            )
        if plan.straggles and record.source.topic != SLOW:
            return self.again(plan, record, straggler=True)
        if attempt_of(record) <= plan.failures and attempt_of(record) < ATTEMPTS:
            return self.again(plan, record, straggler=False)
        return self.claim(plan, record)

    def again(self, plan: Plan, record: InputRecord, *, straggler: bool) -> OutputRecord:
        wait_ms = 0 if straggler else self.random.randint(1, 5000)
        due = datetime.fromtimestamp((self.now_ms + wait_ms) / 1000, UTC)
        outcome = Retry(
            record=record, job=plan.job, stage="fetch", detail="", attempt=attempt_of(record), due=due,
            first_seen=NOON, straggler=straggler,
        )  # fmt: skip
        return retry_record(outcome, Names())

    def claim(self, plan: Plan, record: InputRecord) -> OutputRecord:
        key, src = (plan.job.tenant, plan.job.job_id), str(record.source)
        outcome = self.rejected(record, plan.job, plan.dies_of or ErrorCode.NO_USABLE_VIEW)
        row = self.rows.get(key)
        if row is not None and row.digest != plan.job.payload_digest:
            return self.bury(self.keep(conflict_letter(outcome, stored_digest=row.digest)), record)
        if row is None or self.replays(row, record):
            row = self.rows[key] = Row(digest=plan.job.payload_digest, src=src, letter=row.letter if row else None)
            if plan.dies_of:
                row.letter = self.keep(rejected_letter(outcome))
            else:
                row.answer = self.answer(plan.job)
        if row.answer is not None:
            return answer_record(row.answer, record, topic=RESULTS, duplicate=row.src != src)
        assert row.letter is not None
        return self.bury(row.letter, record, duplicate=row.src != src)

    def replays(self, row: Row, record: InputRecord) -> bool:
        letter_id = replay_of(record)
        if row.answer is not None or row.letter is None or letter_id != row.letter.letter_id:
            return False
        self.replayed.add(letter_id)
        return True

    def rejected(self, record: InputRecord, job: AuthenticationJob | None, code: ErrorCode) -> Rejected:
        return Rejected(
            record=record, job=job, code=code, stage="fetch", detail="as planned", attempt=attempt_of(record),
            first_seen=NOON,
        )  # fmt: skip

    def answer(self, job: AuthenticationJob) -> Answer:
        event_id = str(result_id(job.tenant, job.job_id, 1))
        own = event_headers(
            event_id=event_id, source="group", event_type=names.VERDICT_TYPE, time=NOON, encoding="avro"
        )
        return Answer(key=job.key, value=f"verdict {job.key!r}".encode(), headers=own)

    def keep(self, letter: DeadLetter) -> DeadLetter:
        return self.letters.setdefault(letter.letter_id, letter)

    def bury(self, letter: DeadLetter, record: InputRecord, *, duplicate: bool = False) -> OutputRecord:
        return dead_letter_record(letter, record, topic=DLQ, group="group", duplicate=duplicate)

    # readers

    def read(self) -> None:
        """A read_committed reader goes on to the end of what workers write."""
        for partition, log in list(self.logs.items()):
            if partition[0] in (RESULTS, DLQ):
                for record, committed in zip(
                    log.records[self.reader_at[partition] :], log.flags[self.reader_at[partition] :], strict=True
                ):
                    if record is not None and committed:
                        self.sightings.append(sighting(record))
                self.reader_at[partition] = len(log.records)

    # what is left

    def observation(self) -> Observation:
        outputs = tuple(self.outputs())
        return Observation(
            submissions=tuple(self.submissions),
            inputs=tuple(an_input(record, flag) for record, flag in self.records(CONSUMED)),
            outputs=outputs,
            jobs=tuple(job_row(key, row) for key, row in self.rows.items()),
            verdicts=tuple(verdict_row(key, row.answer) for key, row in self.rows.items() if row.answer),
            letters=tuple(letter_row(letter, self.replayed) for letter in self.letters.values()),
            ends=tuple(
                PartitionEnd(topic=p[0], partition=p[1], low=0, high=len(log.records), committed=self.committed.get(p))
                for p, log in self.logs.items()
                if p[0] in CONSUMED
            ),
            offsets=tuple(self.samples),
            readers=(self.reader(),),
            open_transactions=(OpenTransaction(transactional_id="assay.group.w1", state="CompleteCommit"),),
            samples=tuple(process_samples()),
            audit_findings=(),
        )

    def records(self, topics: Iterable[str]) -> Iterable[tuple[InputRecord, bool]]:
        for partition, log in self.logs.items():
            if partition[0] in topics:
                for record, flag in zip(log.records, log.flags, strict=True):
                    if record is not None:
                        yield record, flag

    def outputs(self) -> Iterable[Output]:
        for record, flag in self.records(KINDS):
            if dict(record.headers).get(names.SRC) is not None:
                yield an_output(record, flag)

    def reader(self) -> Reader:
        coverage = tuple(Coverage(topic=p[0], partition=p[1], first=0, position=at) for p, at in self.reader_at.items())
        return Reader(name="meanwhile", sightings=tuple(self.sightings), coverage=coverage)
