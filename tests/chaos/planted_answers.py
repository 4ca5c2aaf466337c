"""Faults of jobs and their answers: lost, doubled, ill-fitting, with other bytes or headers."""

from __future__ import annotations

from dataclasses import replace

from schemas import headers as names
from schemas.verdict import result_id
from tests.chaos.observation import (
    Observation,
)
from tests.chaos.planting import Scene, headed, planted, put, rest_of

NOBODY = "0" * 64

# lost


def lost_job(scene: Scene) -> Observation:
    """Neither rows nor an answer, and the committed offset has passed it."""
    result = scene.result()
    gone = scene.other_output(result)
    job, verdict = scene.job(result), scene.verdict(result)
    return replace(gone, jobs=put(gone.jobs, job), verdicts=put(gone.verdicts, verdict), offsets=())


def lost_output(scene: Scene) -> Observation:
    return scene.other_output(scene.result())


def lost_retry(scene: Scene) -> Observation:
    """It left its lane unanswered."""
    retried = scene.output("result", lambda o: (o.src or "").startswith("jobs.retry"))
    return scene.other_output(retried)


def record_not_in_the_topic(scene: Scene) -> Observation:
    sent = replace(scene.sent(scene.result()), offset=10**9)
    return replace(scene.seen, submissions=(*scene.seen.submissions, sent))


def record_that_nobody_sent(scene: Scene) -> Observation:
    sent = scene.sent(scene.broken())
    rest = tuple(s for s in scene.seen.submissions if s.value_digest != sent.value_digest)
    return replace(scene.seen, submissions=rest)


# twice


def doubled_output(scene: Scene) -> Observation:
    result = scene.result()
    return scene.other_output(result, result, replace(result, offset=10**6))


def retried_and_answered(scene: Scene) -> Observation:
    """One record with an answer and a retry."""
    retry, result = scene.output("retry"), scene.result()
    again = headed(result, names.SRC, (retry.src or "").encode())
    return replace(scene.seen, outputs=(*scene.seen.outputs, replace(again, src=retry.src, offset=10**6)), readers=())


def doubled_job_row(scene: Scene) -> Observation:
    job = scene.job(scene.result())
    return scene.other_job(job, job, job)


def doubled_verdict_row(scene: Scene) -> Observation:
    verdict = scene.verdict(scene.result())
    return scene.other_verdict(verdict, verdict, verdict)


def second_verdict_of_no_job(scene: Scene) -> Observation:
    """Written by a zombie under another tenant-and-job id."""
    verdict = scene.verdict(scene.result())
    ghost = replace(verdict, job_id="ghost", result_id=str(result_id(verdict.tenant, "ghost", 1)), event_digest=None)
    return scene.other_verdict(verdict, verdict, ghost)


def verdict_and_dead_letter(scene: Scene) -> Observation:
    result = scene.result()
    record, job = scene.asked(result), scene.job(result)
    letter = replace(
        scene.letter(scene.death()), letter_id=NOBODY, tenant=job.tenant, job_id=job.job_id, topic=record.topic,
        partition=record.partition, offset=record.offset, key=record.key, value_digest=record.value_digest,
        headers=record.headers,
    )  # fmt: skip
    return replace(scene.seen, letters=(*scene.seen.letters, letter))


# rows and answers that do not fit


def job_row_without_verdict(scene: Scene) -> Observation:
    return scene.other_verdict(scene.verdict(scene.result()))


def job_row_without_letter(scene: Scene) -> Observation:
    return scene.other_letter(scene.letter(scene.death()))


def innocent_dead(scene: Scene) -> Observation:
    """A job died where its sender was owed a verdict."""
    sent = scene.sent(scene.death())
    return replace(scene.seen, submissions=put(scene.seen.submissions, sent, replace(sent, expects_dead_code=None)))


def wrong_code(scene: Scene) -> Observation:
    sent = scene.sent(scene.broken())
    other = tuple(
        replace(s, expects_dead_code="key_mismatch") if s.value_digest == sent.value_digest else s
        for s in scene.seen.submissions
    )
    return replace(scene.seen, submissions=other)


def conflict_answered_with_a_verdict(scene: Scene) -> Observation:
    conflict, result = scene.conflict(), scene.result()
    answer = replace(
        result, partition=conflict.partition, offset=conflict.offset, key=conflict.key, src=conflict.src,
        headers=(*((n, v) for n, v in result.headers if n in (names.CE_ID, names.CE_TYPE)), *rest_of(conflict)),
    )  # fmt: skip
    changed = scene.other_output(conflict, answer)
    return replace(changed, letters=put(changed.letters, scene.letter(conflict)))


def content_that_nobody_sent(scene: Scene) -> Observation:
    """The row's digest is another: its own records look like conflicts that were answered."""
    job = scene.job(scene.result())
    return scene.other_job(job, replace(job, payload_digest=NOBODY))


def row_that_names_anothers_record(scene: Scene) -> Observation:
    """And the answer to its own is marked as a duplicate's."""
    result, other = scene.result(), scene.repeated()
    job = scene.job(result)
    marked = scene.other_output(result, headed(result, names.DUPLICATE, b"1"))
    return replace(marked, jobs=put(marked.jobs, job, replace(job, src=other.src or "")))


def answer_to_another_job(scene: Scene) -> Observation:
    """One job's answer under another's record: neither its key nor its bytes fit."""
    result = scene.result()
    tenant = (result.key or b"").partition(b"/")[0] + b"/"
    other = scene.output("result", lambda o: o.key != result.key and (o.key or b"").startswith(tenant))
    crossed = replace(result, key=other.key, value_digest=other.value_digest)
    return scene.other_output(result, crossed)


# bytes and headers


def changed_event_bytes(scene: Scene) -> Observation:
    result = scene.result()
    return scene.other_output(result, replace(result, value_digest=NOBODY))


def changed_header(scene: Scene) -> Observation:
    result = scene.result()
    return scene.other_output(result, headed(result, names.CE_TIME, b"2000-01-01T00:00:00Z"))


def header_of_its_own(scene: Scene) -> Observation:
    result = scene.result()
    return scene.other_output(result, headed(result, "ce_extra", b"1"))


def missing_traceparent(scene: Scene) -> Observation:
    result = scene.result()
    return scene.other_output(result, headed(result, names.TRACEPARENT, None))


def foreign_traceparent(scene: Scene) -> Observation:
    letter = scene.output("dead", lambda o: scene.trace(o) is not None)
    return scene.other_output(letter, headed(letter, names.TRACEPARENT, b"00-00-00-01"))


def unmarked_duplicate(scene: Scene) -> Observation:
    repeated = scene.repeated()
    return scene.other_output(repeated, headed(repeated, names.DUPLICATE, None))


def stored_event_does_not_match_its_digest(scene: Scene) -> Observation:
    verdict = scene.verdict(scene.result())
    return scene.other_verdict(verdict, replace(verdict, digest=NOBODY))


def changed_key(scene: Scene) -> Observation:
    result = scene.result()
    return scene.other_output(result, replace(result, key=(result.key or b"") + b"x"))


def dead_letter_lost_a_header(scene: Scene) -> Observation:
    letter = scene.output("dead", lambda o: any(name == "shop" for name, _ in o.headers))
    return scene.other_output(letter, headed(letter, "shop", None))


def dead_letter_row_with_other_bytes(scene: Scene) -> Observation:
    letter = scene.letter(scene.broken())
    output = scene.broken()
    changed = scene.other_letter(letter, replace(letter, value_digest=NOBODY))
    return replace(changed, outputs=put(changed.outputs, output, replace(output, value_digest=NOBODY)), readers=())


def retry_lost_a_header(scene: Scene) -> Observation:
    """Neither in the lane's output nor in the record that was read from it."""
    retry = scene.output("retry", lambda o: any(name == "shop" for name, _ in o.headers))
    return scene.other_output(retry, headed(retry, "shop", None))


# src


def wrong_src(scene: Scene) -> Observation:
    result = scene.result()
    return scene.other_output(result, replace(result, src="jobs/0/999999"))


def missing_src(scene: Scene) -> Observation:
    result = scene.result()
    return scene.other_output(result, replace(headed(result, names.SRC, None), src=None))


ANSWERS = (
    planted(lost_job, "I1", "I2"),
    planted(lost_output, "I2", "I6"),
    planted(lost_retry, "I2", "I6"),
    planted(record_not_in_the_topic, "I1"),
    planted(record_that_nobody_sent, "I1"),
    planted(doubled_output, "I2"),
    planted(retried_and_answered, "I2"),
    planted(doubled_job_row, "I1"),
    planted(doubled_verdict_row, "I1"),
    planted(second_verdict_of_no_job, "I1"),
    planted(verdict_and_dead_letter, "I1"),
    planted(job_row_without_verdict, "I1"),
    planted(job_row_without_letter, "I1"),
    planted(innocent_dead, "I1"),
    planted(wrong_code, "I1"),
    planted(conflict_answered_with_a_verdict, "I1"),
    planted(content_that_nobody_sent, "I1"),
    planted(row_that_names_anothers_record, "I1"),
    planted(answer_to_another_job, "I3"),
    planted(changed_event_bytes, "I3"),
    planted(changed_header, "I3"),
    planted(header_of_its_own, "I3"),
    planted(missing_traceparent, "I3"),
    planted(foreign_traceparent, "I3"),
    planted(unmarked_duplicate, "I3"),
    planted(stored_event_does_not_match_its_digest, "I3"),
    planted(changed_key, "I3"),
    planted(dead_letter_lost_a_header, "I3"),
    planted(dead_letter_row_with_other_bytes, "I3"),
    planted(retry_lost_a_header, "I3"),
    planted(wrong_src, "I2", "I6"),
    planted(missing_src, "I2", "I6"),
)
