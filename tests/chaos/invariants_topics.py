"""I2, I4, I5, I6 and I12: outputs against inputs, aborted data, concurrent readers, committed offsets, quiescence."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf

from tests.chaos.invariants import Case, Partition, input_place, output_place, violations
from tests.chaos.observation import (
    Input,
    OffsetSample,
    Output,
    ProcessSample,
    Reader,
    Sighting,
    Violation,
    place_of,
    record_digest,
)

FINISHED_STATES = ("Empty", "CompleteCommit", "CompleteAbort", "Dead")


def one_output_each(case: Case) -> Iterator[Violation]:
    """I2."""
    yield from violations("I2", _without_output(case))
    yield from violations("I2", _with_several(case))
    yield from violations("I2", _that_name_no_input(case))


def nothing_aborted(case: Case) -> Iterator[Violation]:
    """I4: no reader saw an aborted record, and none was answered."""
    aborted = {output_place(output) for output in case.seen.outputs if not output.committed}
    for reader in case.seen.readers:
        seen = (_place(s) for s in reader.sightings)
        told = (f"{reader.name} saw {place}, which was aborted" for place in seen if place in aborted)
        yield from violations("I4", told)
    for src, output in case.answers.items():
        if src in case.aborted_inputs:
            yield Violation(invariant="I4", detail=f"{output_place(output)} answers {src}, which was aborted")


def readers_agree(case: Case) -> Iterator[Violation]:
    """I5: a reader meanwhile saw, in order and once, exactly what a later one sees."""
    if not case.seen.readers:
        return
    aborted = {output_place(output) for output in case.seen.outputs if not output.committed}
    final = {output_place(o): record_digest(o.key, o.value_digest, o.headers) for o in case.seen.outputs if o.committed}
    by_partition = _offsets_of(case)
    for reader in case.seen.readers:
        yield from violations("I5", _disorder(reader))
        yield from violations("I5", _seen_otherwise(reader, final, aborted))
        yield from violations("I5", _unseen(reader, by_partition))


def offsets_advance(case: Case) -> Iterator[Violation]:
    """I6: committed offsets never go back, and pass only records whose output was there."""
    lanes: defaultdict[Partition, list[OffsetSample]] = defaultdict(list)
    for sample in case.seen.offsets:
        lanes[sample.topic, sample.partition].append(sample)
    work = _work(case)
    for partition, samples in lanes.items():
        samples.sort(key=lambda sample: sample.seen_at_ms)
        yield from violations("I6", _gone_back(case, partition, samples))
        yield from violations("I6", _past_unfinished(work.get(partition), samples))
    for end in case.seen.ends:
        if end.committed is not None and end.committed > end.high:
            told = f"{end.topic}/{end.partition}: offset {end.committed} is committed, and {end.high} is the end"
            yield Violation(invariant="I6", detail=told)


def nothing_left(case: Case) -> Iterator[Violation]:
    """I12."""
    for place, record in case.inputs.items():
        end = case.ends.get((record.topic, record.partition))
        committed = None if end is None else end.committed
        if committed is None or record.offset >= committed:
            yield Violation(invariant="I12", detail=f"{place} stands at or above the committed offset {committed}")
    for transaction in case.seen.open_transactions:
        if transaction.state not in FINISHED_STATES:
            told = f"transaction {transaction.transactional_id} is {transaction.state} after the end"
            yield Violation(invariant="I12", detail=told)
    yield from violations("I12", _not_at_baseline(case))


def _without_output(case: Case) -> Iterator[str]:
    for place, record in case.inputs.items():
        end = case.ends.get((record.topic, record.partition))
        passed = end is not None and end.committed is not None and end.low <= record.offset < end.committed
        if passed and place not in case.answers:
            yield f"{place} was passed by the committed offset {end.committed if end else None} and has no output"


def _with_several(case: Case) -> Iterator[str]:
    for output in case.repeated:
        first = case.answers[output.src or ""]
        yield f"{output.src} has a second output: {output_place(first)} and {output_place(output)}"


def _that_name_no_input(case: Case) -> Iterator[str]:
    for output in case.seen.outputs:
        if output.committed and output.src not in case.aborted_inputs:
            fault = _src_fault(case, output)
            if fault:
                yield f"{output_place(output)} ({output.kind}) {fault}"


def _src_fault(case: Case, output: Output) -> str | None:
    if output.src is None:
        return "has no src"
    record = case.inputs.get(output.src)
    if record is None:
        return f"names {output.src}, where no record is"
    end = case.ends.get((record.topic, record.partition))
    if end is None or end.committed is None or record.offset >= end.committed:
        committed = None if end is None else end.committed
        return f"answers {output.src}, which the committed offset {committed} has not passed"
    return None


def _place(sighting: Sighting) -> str:
    return place_of(sighting.topic, sighting.partition, sighting.offset)


def _offsets_of(case: Case) -> dict[Partition, list[int]]:
    """The offsets that a late reader sees of each topic that workers write to."""
    offsets: defaultdict[Partition, list[int]] = defaultdict(list)
    for output in case.seen.outputs:
        if output.committed:
            offsets[output.topic, output.partition].append(output.offset)
    return offsets


def _disorder(reader: Reader) -> Iterator[str]:
    latest: dict[Partition, int] = {}
    for sighting in reader.sightings:
        partition = (sighting.topic, sighting.partition)
        if sighting.offset <= latest.get(partition, -1):
            yield f"{reader.name} saw {_place(sighting)} after offset {latest[partition]}"
        latest[partition] = sighting.offset


def _seen_otherwise(reader: Reader, final: dict[str, str], aborted: set[str]) -> Iterator[str]:
    for sighting in reader.sightings:
        place = _place(sighting)
        if place in aborted:
            continue  # told by I4
        if place not in final:
            yield f"{reader.name} saw {place}, which a later reader does not see"
        elif final[place] != sighting.digest:
            yield f"{reader.name} saw {place} with other bytes or headers than a later reader"


def _unseen(reader: Reader, by_partition: dict[Partition, list[int]]) -> Iterator[str]:
    saw = Counter((s.topic, s.partition, s.offset) for s in reader.sightings)
    for part in reader.coverage:
        for offset in by_partition.get((part.topic, part.partition), []):
            if part.first <= offset < part.position and (part.topic, part.partition, offset) not in saw:
                yield f"{reader.name} passed {place_of(part.topic, part.partition, offset)} without seeing it"


@dataclass(slots=True)
class _Work:
    """A partition's records: `done_by_ms[i]` is when the outputs of the first i+1 of them were all there."""

    offsets: list[int] = field(default_factory=list)
    done_by_ms: list[float] = field(default_factory=list)


def _work(case: Case) -> dict[Partition, _Work]:
    lanes: defaultdict[Partition, list[Input]] = defaultdict(list)
    for record in case.inputs.values():
        lanes[record.topic, record.partition].append(record)
    return {partition: _partition_work(case, records) for partition, records in lanes.items()}


def _partition_work(case: Case, records: list[Input]) -> _Work:
    work, latest_ms = _Work(), 0.0
    for record in sorted(records, key=lambda record: record.offset):
        output = case.answers.get(input_place(record))
        if output is None:
            latest_ms = inf
        elif not case.seen.clock_jumped:
            latest_ms = max(latest_ms, output.timestamp_ms)
        work.offsets.append(record.offset)
        work.done_by_ms.append(latest_ms)
    return work


def _gone_back(case: Case, partition: Partition, samples: list[OffsetSample]) -> Iterator[str]:
    highest = -1
    for sample in samples:
        if sample.offset < highest:
            yield f"{partition[0]}/{partition[1]}: the committed offset went back from {highest} to {sample.offset}"
        highest = max(highest, sample.offset)
    end = case.ends.get(partition)
    if end is not None and (end.committed is None or end.committed < highest):
        yield f"{partition[0]}/{partition[1]}: the committed offset was {highest} and is {end.committed} at the end"


def _past_unfinished(work: _Work | None, samples: list[OffsetSample]) -> Iterator[str]:
    for sample in samples if work is not None else ():
        passed = bisect_left(work.offsets, sample.offset) if work else 0
        if work and passed and work.done_by_ms[passed - 1] > sample.seen_at_ms:
            yield (
                f"{sample.topic}/{sample.partition}: offset {sample.offset} was committed at {sample.seen_at_ms} ms, "
                f"before the last output below it ({work.done_by_ms[passed - 1]:.0f} ms)"
            )


def _not_at_baseline(case: Case) -> Iterator[str]:
    baselines = {s.process: s for s in case.seen.samples if s.moment == "baseline"}
    for end in case.seen.samples:
        before = baselines.get(end.process)
        if end.moment == "end" and before is not None:
            yield from _growth(case, before, end)


def _growth(case: Case, before: ProcessSample, end: ProcessSample) -> Iterator[str]:
    limits = case.seen.limits
    rss_limit = int(before.rss_bytes * limits.rss_ratio) + limits.rss_slack_bytes
    measures = (
        ("resident bytes", before.rss_bytes, end.rss_bytes, rss_limit),
        ("handles", before.handles, end.handles, before.handles + limits.handles_slack),
        ("threads", before.threads, end.threads, before.threads + limits.threads_slack),
        ("connections", before.connections, end.connections, before.connections + limits.connections_slack),
    )
    for what, was, now, most in measures:
        if now > most:
            yield f"{end.process} has {now} {what} after the run, {was} before, at most {most} allowed"
