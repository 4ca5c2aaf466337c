"""In-memory twins of the job source, the publisher and the result store, for tests of everything above them.

The broker keeps what makes Kafka hard: offsets with gaps (each transaction leaves a control record), partitions that
move between members, outputs and offsets that become visible together or not at all, and answers that get lost.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from zlib import crc32

from schemas.codec import encode_verdict
from schemas.envelope import Encoding
from schemas.message import Headers, InputRecord, OutputRecord, Source
from worker.adapters.outputs import (
    Answer,
    DeadLetter,
    OutputTopics,
    answer_record,
    conflict_letter,
    dead_letter_record,
    nothing_letter,
    rejected_letter,
    replay_of,
    retry_record,
)
from worker.adapters.reuse_index import ReuseIndex, within_call
from worker.core.courses import Comparison
from worker.core.evidence import JobEvidence, ReuseHit
from worker.errors import AbortTransaction, Fatal, ServiceUnavailable
from worker.outcomes import Judged, Outcome, Rejected, Retry
from worker.ports import Partition, RebalanceListener


class Fault(Enum):
    """What the next commit meets."""

    ABORT = "abort"  # the broker refuses; nothing is committed
    AWAY = "away"  # no answer, nothing was committed
    ANSWER_LOST = "answer_lost"  # no answer, but everything was committed
    FENCED = "fenced"  # another process took the transactional id


class MemoryBroker:
    """Topics, one consumer group and its committed offsets. Thread-safe.

    `logs` hold None where a control record or aborted data stands. `published` is what a reader of committed data
    sees, in commit order; outputs to one of the broker's own topics also land there.
    """

    def __init__(self, topics: Mapping[str, int]) -> None:
        self.logs: dict[Partition, list[InputRecord | None]] = {
            (topic, number): [] for topic, count in topics.items() for number in range(count)
        }
        self.offsets: dict[Partition, int] = {}
        self.published: list[OutputRecord] = []
        self.owners: dict[Partition, str] = {}
        self.changed = threading.Condition()
        self._targets: dict[Partition, str] = {}

    def produce(
        self, topic: str, value: bytes, *, key: bytes = b"", headers: Headers = (), partition: int | None = None
    ) -> Source:
        with self.changed:
            number = crc32(key) % sum(name == topic for name, _ in self.logs) if partition is None else partition
            log = self.logs[topic, number]
            source = Source(topic=topic, partition=number, offset=len(log))
            log.append(InputRecord(source=source, epoch=0, key=key, value=value, headers=headers, timestamp_ms=0))
            self.changed.notify_all()
            return source

    def leave_gap(self, partition: Partition) -> None:
        """A control record, or a record of an aborted transaction."""
        with self.changed:
            self.logs[partition].append(None)

    def rebalance(self, wanted: Mapping[str, Iterable[Partition]]) -> None:
        """Say who shall own what; members give up and take over in their next `poll`."""
        with self.changed:
            self._targets = {partition: member for member, owned in wanted.items() for partition in owned}
            self.changed.notify_all()

    def expel(self, member: str) -> None:
        """The member's session is over: its partitions are free before it knows."""
        with self.changed:
            self.owners = {partition: owner for partition, owner in self.owners.items() if owner != member}
            self._targets = {partition: target for partition, target in self._targets.items() if target != member}
            self.changed.notify_all()

    def join(self, member: str) -> None:
        """The first member gets everything."""
        with self.changed:
            if not self._targets:
                self._targets = dict.fromkeys(self.logs, member)

    def targets(self, member: str) -> set[Partition]:
        with self.changed:
            return {partition for partition, target in self._targets.items() if target == member}

    def leave(self, member: str) -> None:
        """What the member owned goes to those who are left, if any."""
        with self.changed:
            others = sorted(set(self._targets.values()) - {member})
            for partition, target in list(self._targets.items()):
                if target == member:
                    del self._targets[partition]
                    if others:
                        self._targets[partition] = others[0]

    def transact(
        self, member: str, outputs: Sequence[OutputRecord], offsets: Mapping[Partition, int]
    ) -> None:  # fmt: skip
        """All or nothing. Raises AbortTransaction for a member that does not own a partition of `offsets`."""
        with self.changed:
            foreign = [partition for partition in offsets if self.owners.get(partition) != member]
            if foreign:
                raise AbortTransaction(f"{member} does not own {foreign}", fenced=True)
            written = {self._append(output) for output in outputs if self._is_ours(output.topic)}
            for partition in written:
                self.logs[partition].append(None)
            self.published.extend(outputs)
            self.offsets.update(offsets)
            self.changed.notify_all()

    def _is_ours(self, topic: str) -> bool:
        return (topic, 0) in self.logs

    def _append(self, output: OutputRecord) -> Partition:
        source = self.produce(output.topic, output.value, key=output.key or b"", headers=output.headers)
        return source.topic, source.partition


class MemorySource:
    """The JobSource of one member."""

    def __init__(self, broker: MemoryBroker, member: str = "member-1") -> None:
        self._broker = broker
        self._member = member
        self._listener: RebalanceListener | None = None
        self._epochs: dict[Partition, int] = {}
        self._positions: dict[Partition, int] = {}
        self._paused: set[Partition] = set()

    def subscribe(self, listener: RebalanceListener) -> MemorySource:
        self._listener = listener
        self._broker.join(self._member)
        return self

    def poll(self, timeout_s: float) -> InputRecord | None:
        self._rebalance(self._broker.targets(self._member))
        with self._broker.changed:
            record = self._next()
            if record is None and self._broker.changed.wait(timeout_s):
                record = self._next()
            return record

    def pause(self, partitions: Iterable[Partition]) -> None:
        self._paused |= self._epochs.keys() & set(partitions)

    def resume(self, partitions: Iterable[Partition]) -> None:
        self._paused -= set(partitions)

    def close(self) -> None:
        self._rebalance(set())
        self._broker.leave(self._member)

    def _rebalance(self, targets: set[Partition]) -> None:
        assert self._listener is not None, "subscribe first"  # noqa: S101 # a mistake of the test
        held, owners = set(self._epochs), self._broker.owners
        if lost := [p for p in held if owners.get(p) != self._member]:
            self._listener.lost(lost)
            self._release(lost)
        if revoked := [p for p in held if p not in targets and p not in lost]:
            self._listener.revoked(revoked)
            self._release(revoked)
        if assigned := [p for p in targets - set(self._epochs) if p not in owners]:
            self._take(assigned, self._listener)

    def _take(self, partitions: list[Partition], listener: RebalanceListener) -> None:
        with self._broker.changed:
            self._broker.owners.update(dict.fromkeys(partitions, self._member))
            self._positions.update({p: self._broker.offsets.get(p, 0) for p in partitions})
        self._epochs.update(dict.fromkeys(partitions, listener.assigned(partitions)))

    def _release(self, partitions: Sequence[Partition]) -> None:
        with self._broker.changed:
            for partition in partitions:
                if self._broker.owners.get(partition) == self._member:
                    del self._broker.owners[partition]
                self._epochs.pop(partition, None)
            self._paused -= set(partitions)
            self._broker.changed.notify_all()

    def _next(self) -> InputRecord | None:
        for partition in list(self._epochs):
            log = self._broker.logs[partition]
            while partition not in self._paused and self._positions[partition] < len(log):
                record = log[self._positions[partition]]
                self._positions[partition] += 1
                if record is not None:
                    self._epochs[partition] = self._epochs.pop(partition)  # the next poll looks at another one first
                    return replace(record, epoch=self._epochs[partition])
        return None


class MemoryPublisher:
    """The Publisher of one member. `fail_next` plants what its next commits meet, one fault each."""

    def __init__(self, broker: MemoryBroker, member: str = "member-1") -> None:
        self._broker = broker
        self._member = member
        self._faults: deque[Fault] = deque()

    def fail_next(self, *faults: Fault) -> None:
        self._faults.extend(faults)

    def commit(self, outputs: Sequence[OutputRecord], offsets: Mapping[Partition, int]) -> None:
        fault = self._faults.popleft() if self._faults else None
        match fault:
            case Fault.ABORT:
                raise AbortTransaction("planted")
            case Fault.AWAY:
                raise ServiceUnavailable("kafka", "planted")
            case Fault.FENCED:
                raise Fatal("planted: the producer is fenced", exit_code=72)
        self._broker.transact(self._member, outputs, offsets)
        if fault is Fault.ANSWER_LOST:
            raise ServiceUnavailable("kafka", "planted: the answer to a commit was lost")

    def committed(self, partitions: Iterable[Partition]) -> Mapping[Partition, int]:
        with self._broker.changed:
            return {p: self._broker.offsets[p] for p in partitions if p in self._broker.offsets}

    def close(self) -> None:
        self._faults.clear()


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """How a job was answered first."""

    source: Source
    payload_digest: str
    answer: Answer | None
    letter: DeadLetter | None


@dataclass(slots=True, kw_only=True)
class MemoryResults:
    """A ResultStore: the first outcome of a (tenant, job_id) wins (DESIGN R1). `outages` calls fail first.

    There are no references here: photographs are compared with those of other jobs.
    """

    topics: OutputTopics
    group: str = "assay"
    encoding: Encoding = "avro"
    outages: int = 0
    jobs: dict[tuple[str, str], Kept] = field(default_factory=dict)
    later: dict[tuple[str, str, int], Kept] = field(default_factory=dict)
    letters: dict[Source, DeadLetter] = field(default_factory=dict)
    comparisons: list[Comparison] = field(default_factory=list)
    _photographs: ReuseIndex = field(default_factory=ReuseIndex)

    def reused(self, jobs: Sequence[JobEvidence]) -> list[tuple[ReuseHit, ...]]:
        self._fail_if_planted()
        found = zip(map(self._photographs.hits, jobs), within_call(jobs, self._photographs.rule), strict=True)
        return [tuple(stored or here) for stored, here in found]

    def settle(self, outcomes: Sequence[Outcome]) -> list[OutputRecord]:
        self._fail_if_planted()
        return [self._output(outcome) for outcome in outcomes]

    def close(self) -> None:
        """Nothing is held."""

    def _output(self, outcome: Outcome) -> OutputRecord:
        match outcome:
            case Retry():
                return retry_record(outcome, self.topics)
            case Rejected(job=None):
                return self._dead(rejected_letter(outcome), outcome.record)
            case Rejected(job=job) if job is not None:
                own = Kept(
                    source=outcome.record.source,
                    payload_digest=job.payload_digest,
                    answer=None,
                    letter=rejected_letter(outcome),
                )
                claim = self._claimed if job.supersedes is None else self._superseding
                return claim(outcome, (job.tenant, job.job_id), own)
            case Judged(job=job, event=event):
                encoded = encode_verdict(event, encoding=self.encoding, source=self.group)
                answer = Answer(key=encoded.key, value=encoded.value, headers=encoded.headers)
                own = Kept(source=outcome.record.source, payload_digest=job.payload_digest, answer=answer, letter=None)
                claim = self._claimed if job.supersedes is None else self._superseding
                return claim(outcome, (job.tenant, job.job_id), own)
        raise TypeError(f"{outcome!r} is no outcome")

    def _claimed(self, outcome: Judged | Rejected, key: tuple[str, str], own: Kept) -> OutputRecord:
        first = self.jobs.get(key, own)
        if first is own or self._replays(outcome, first, own):
            first = self.jobs[key] = own
            if isinstance(outcome, Judged):
                self._photographs.add(outcome.evidence)
                self.comparisons += [outcome.comparison] if outcome.comparison else []
        if first.payload_digest != own.payload_digest:
            return self._dead(conflict_letter(outcome, stored_digest=first.payload_digest), outcome.record)
        duplicate = first.source != own.source
        if first.answer is not None:
            return answer_record(first.answer, outcome.record, topic=self.topics.results, duplicate=duplicate)
        assert first.letter is not None  # noqa: S101 # one of the two is set
        return self._dead(first.letter, outcome.record, duplicate=duplicate)

    def _superseding(self, outcome: Judged | Rejected, key: tuple[str, str], own: Kept) -> OutputRecord:
        assert outcome.job is not None  # noqa: S101 # only readable jobs claim
        revision, first = outcome.job.revision, self.jobs.get(key)
        if first is not None and first.payload_digest != own.payload_digest:
            return self._dead(conflict_letter(outcome, stored_digest=first.payload_digest), outcome.record)
        known = first is not None and first.answer is not None and (revision == 2 or (*key, revision - 1) in self.later)
        if known and own.answer is not None and own.source not in self.letters:
            self.later.setdefault((*key, revision), own)
        stands = self.later.get((*key, revision))
        if stands is not None and stands.answer is not None:
            duplicate = stands.source != own.source
            return answer_record(stands.answer, outcome.record, topic=self.topics.results, duplicate=duplicate)
        return self._dead(own.letter or nothing_letter(outcome, why="there is no such verdict"), outcome.record)

    def _dead(self, letter: DeadLetter, record: InputRecord, *, duplicate: bool = False) -> OutputRecord:
        kept = self.letters.setdefault(letter.source, letter)
        return dead_letter_record(kept, record, topic=self.topics.dlq, group=self.group, duplicate=duplicate)

    def _replays(self, outcome: Judged | Rejected, first: Kept, own: Kept) -> bool:
        letter = first.letter
        same = first.payload_digest == own.payload_digest
        return same and letter is not None and replay_of(outcome.record) == letter.letter_id

    def _fail_if_planted(self) -> None:
        if self.outages > 0:
            self.outages -= 1
            raise ServiceUnavailable("postgres", "planted")
