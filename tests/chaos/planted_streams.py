"""Faults of transactions, readers, offsets, retries, verdicts, tenants, and what is left over."""

from __future__ import annotations

from dataclasses import replace

from schemas import headers as names
from tests.chaos.observation import (
    Observation,
    OffsetSample,
    OpenTransaction,
    Sighting,
    Spread,
    StrayRow,
    place_of,
)
from tests.chaos.planting import Scene, headed, own_of, planted, put, rest_of

NOBODY = "0" * 64
FAR_MS = 10**12

# transactions and readers


def aborted_output_seen_by_a_reader(scene: Scene) -> Observation:
    aborted = next(o for o in scene.seen.outputs if not o.committed and o.kind == "result")
    reader = scene.seen.readers[0]
    saw = Sighting(topic=aborted.topic, partition=aborted.partition, offset=aborted.offset, digest=NOBODY)
    return replace(scene.seen, readers=(replace(reader, name="dirty", sightings=(saw,), coverage=()),))


def aborted_input_answered(scene: Scene) -> Observation:
    record = next(r for r in scene.seen.inputs if not r.committed)
    src = place_of(record.topic, record.partition, record.offset)
    ghost = replace(scene.result(), src=src, offset=10**6)
    return replace(scene.seen, outputs=(*scene.seen.outputs, ghost), readers=())


def seen_and_then_gone(scene: Scene) -> Observation:
    reader = scene.seen.readers[0]
    saw = replace(reader.sightings[-1], offset=10**6)
    return replace(scene.seen, readers=(replace(reader, sightings=(*reader.sightings, saw)),))


def seen_with_other_bytes(scene: Scene) -> Observation:
    reader = scene.seen.readers[0]
    sightings = put(reader.sightings, reader.sightings[3], replace(reader.sightings[3], digest=NOBODY))
    return replace(scene.seen, readers=(replace(reader, sightings=sightings),))


def seen_twice(scene: Scene) -> Observation:
    reader = scene.seen.readers[0]
    saw = reader.sightings[3]
    return replace(scene.seen, readers=(replace(reader, sightings=put(reader.sightings, saw, saw, saw)),))


def passed_unseen(scene: Scene) -> Observation:
    reader = scene.seen.readers[0]
    return replace(scene.seen, readers=(replace(reader, sightings=reader.sightings[:3] + reader.sightings[4:]),))


# offsets


def offset_going_back(scene: Scene) -> Observation:
    latest = scene.seen.offsets[-1]
    back = (latest, replace(latest, offset=latest.offset - 1, seen_at_ms=latest.seen_at_ms + 1))
    return replace(scene.seen, offsets=(*scene.seen.offsets[:-1], *back))


def offset_past_unfinished_work(scene: Scene) -> Observation:
    """Committed before the answer to the record below it was produced."""
    result = scene.result()
    record = scene.asked(result)
    early = OffsetSample(
        seen_at_ms=result.timestamp_ms - 1, topic=record.topic, partition=record.partition, offset=record.offset + 1
    )
    return replace(scene.seen, offsets=(early,))


def offset_beyond_the_end(scene: Scene) -> Observation:
    end = scene.end(scene.asked(scene.result()))
    return replace(scene.seen, ends=put(scene.seen.ends, end, replace(end, committed=end.high + 1)))


# retries


def retry_above_its_limit(scene: Scene) -> Observation:
    return replace(scene.seen, limits=replace(scene.seen.limits, attempts=2))


def retry_that_does_not_count(scene: Scene) -> Observation:
    retry = scene.output("retry")
    return scene.other_output(retry, headed(retry, names.ATTEMPT, b"1"))


def retry_before_its_due_time(scene: Scene) -> Observation:
    answer = scene.output("result", lambda o: (o.src or "").startswith("jobs.retry"))
    return replace(scene.other_output(answer, replace(answer, timestamp_ms=FAR_MS)), offsets=())


# verdicts


def other_verdict_for_the_same_photographs(scene: Scene) -> Observation:
    verdict = scene.verdict(scene.result())
    other = next(v for v in ("authentic", "counterfeit") if v != verdict.verdict)
    return scene.other_verdict(verdict, replace(verdict, verdict=other))


def embeddings_that_differ(scene: Scene) -> Observation:
    spread = Spread(photograph=NOBODY, space="s", embeddings=2, least_cosine=0.9998)
    return replace(scene.seen, spreads=(spread,))


def number_that_is_none(scene: Scene) -> Observation:
    verdict = scene.verdict(scene.result())
    return scene.other_verdict(verdict, replace(verdict, numbers_finite=False))


def broken_audit_chain(scene: Scene) -> Observation:
    return replace(scene.seen, audit_findings=("block 3 of acme: the digest of verdict 7 is another",))


# tenants


def tenant_crossed_in_a_verdict_row(scene: Scene) -> Observation:
    verdict = scene.verdict(scene.result())
    return scene.other_verdict(verdict, replace(verdict, tenant="other"))


def job_that_points_at_anothers_verdict(scene: Scene) -> Observation:
    """Two jobs have exchanged their answers, in the rows and in the topic."""
    mine = scene.result()
    other = scene.output("result", lambda o: scene.asked_of_key[o.key] == 1 and o.key != mine.key)
    my_job, other_job = scene.job(mine), scene.job(other)
    swapped = replace(scene.other_job(my_job, replace(my_job, result_id=other_job.result_id)), readers=())
    swapped = replace(swapped, jobs=put(swapped.jobs, other_job, replace(other_job, result_id=my_job.result_id)))
    crossed = (replace(mine, value_digest=other.value_digest, headers=(*own_of(other), *rest_of(mine))),
               replace(other, value_digest=mine.value_digest, headers=(*own_of(mine), *rest_of(other))))  # fmt: skip
    outputs = put(put(swapped.outputs, mine, crossed[0]), other, crossed[1])
    return replace(swapped, outputs=outputs)


def tenant_crossed_in_a_topic_key(scene: Scene) -> Observation:
    result = scene.result()
    return scene.other_output(result, replace(result, key=b"other/" + (result.key or b"").partition(b"/")[2]))


def tenant_crossed_in_a_dead_letter(scene: Scene) -> Observation:
    letter = scene.letter(scene.conflict())
    return scene.other_letter(letter, replace(letter, tenant="other"))


def map_of_another_tenant(scene: Scene) -> Observation:
    return replace(scene.seen, strays=(StrayRow(invariant="I11", detail="attention_maps: acme under beau"),))


# left over


def record_above_the_committed_offset(scene: Scene) -> Observation:
    """A job was sent again, and nobody took it."""
    record = scene.asked(scene.result())
    stale = replace(record, offset=scene.end(record).high + 5)
    return replace(scene.seen, inputs=(*scene.seen.inputs, stale))


def open_transaction(scene: Scene) -> Observation:
    left = OpenTransaction(transactional_id="assay.group.w2", state="Ongoing")
    return replace(scene.seen, open_transactions=(*scene.seen.open_transactions, left))


def memory_not_back_at_baseline(scene: Scene) -> Observation:
    before, after = scene.seen.samples
    return replace(scene.seen, samples=(before, replace(after, rss_bytes=before.rss_bytes * 2)))


def handles_left_open(scene: Scene) -> Observation:
    before, after = scene.seen.samples
    return replace(scene.seen, samples=(before, replace(after, handles=before.handles + 100)))


STREAMS = (
    planted(aborted_output_seen_by_a_reader, "I4"),
    planted(aborted_input_answered, "I4"),
    planted(seen_and_then_gone, "I5"),
    planted(seen_with_other_bytes, "I5"),
    planted(seen_twice, "I5"),
    planted(passed_unseen, "I5"),
    planted(offset_going_back, "I6"),
    planted(offset_past_unfinished_work, "I6"),
    planted(offset_beyond_the_end, "I6"),
    planted(retry_above_its_limit, "I7"),
    planted(retry_that_does_not_count, "I7"),
    planted(retry_before_its_due_time, "I7"),
    planted(other_verdict_for_the_same_photographs, "I8"),
    planted(embeddings_that_differ, "I8"),
    planted(number_that_is_none, "I9"),
    planted(broken_audit_chain, "I10"),
    planted(tenant_crossed_in_a_verdict_row, "I11"),
    planted(job_that_points_at_anothers_verdict, "I11"),
    planted(tenant_crossed_in_a_topic_key, "I11"),
    planted(tenant_crossed_in_a_dead_letter, "I11"),
    planted(map_of_another_tenant, "I11"),
    planted(record_above_the_committed_offset, "I12"),
    planted(open_transaction, "I12"),
    planted(memory_not_back_at_baseline, "I12"),
    planted(handles_left_open, "I12"),
)
