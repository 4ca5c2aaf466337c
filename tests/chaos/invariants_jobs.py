"""I1: every accepted job has exactly one end, in the database, and each of its records is answered with that end."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from schemas import headers as names
from tests.chaos.invariants import Case, JobKey, input_place, job_key, letter_place, output_place, text, violations
from tests.chaos.observation import UNKNOWN, Input, JobRow, LetterRow, Output, Submission, Violation, place_of

CONFLICT = "job_id_conflict"
ERASED = "erased"
ON_ITS_WAY = ("retry", "slow")


def one_end_each(case: Case) -> Iterator[Violation]:
    """I1."""
    accepted = accepted_jobs(case)
    yield from violations("I1", _not_in_the_topics(case))
    yield from violations("I1", _nobody_sent(case))
    yield from violations("I1", _jobs_without_rows(case, accepted))
    yield from violations("I1", _rows(case, accepted))
    yield from violations("I1", _verdict_rows(case))
    yield from violations("I1", _letter_rows(case))
    yield from violations("I1", _wrong_answers(case))


def accepted_jobs(case: Case) -> dict[JobKey, list[Submission]]:
    """The well-formed jobs that stand in the topics, with all that was sent under each id."""
    accepted: defaultdict[JobKey, list[Submission]] = defaultdict(list)
    for submission in case.asked.values():
        key = job_key(submission)
        if key is not None and submission is not None:
            accepted[key].append(submission)
    return accepted


def _not_in_the_topics(case: Case) -> Iterator[str]:
    for sent in case.seen.submissions:
        end = case.ends.get((sent.topic, sent.partition))
        kept = end is None or sent.offset >= end.low
        place = place_of(sent.topic, sent.partition, sent.offset)
        if sent.offset != UNKNOWN and kept and place not in case.inputs and place not in case.aborted_inputs:
            yield f"{place}: job {sent.tenant}/{sent.job_id} was acknowledged, but its record is not in the topic"


def _nobody_sent(case: Case) -> Iterator[str]:
    for place, submission in case.asked.items():
        if submission is None:
            yield f"{place}: a record that nobody sent, retried or replayed"


def _jobs_without_rows(case: Case, accepted: dict[JobKey, list[Submission]]) -> Iterator[str]:
    for key in accepted:
        if key not in case.jobs:
            yield f"job {key[0]}/{key[1]} was accepted and has no row in jobs"


def _rows(case: Case, accepted: dict[JobKey, list[Submission]]) -> Iterator[str]:
    rows = Counter((row.tenant, row.job_id) for row in case.seen.jobs)
    yield from (f"job {key[0]}/{key[1]} has {count} rows in jobs" for key, count in rows.items() if count > 1)
    for row in case.seen.jobs:
        fault = _row_fault(case, row, accepted.get((row.tenant, row.job_id), []))
        if fault:
            yield f"job {row.tenant}/{row.job_id} {fault}"


def _row_fault(case: Case, row: JobRow, sent: list[Submission]) -> str | None:
    same = [s for s in sent if s.payload_digest == row.payload_digest]
    if not sent:
        return "has a row in jobs, but no record"
    if not same:
        return f"was answered for content {row.payload_digest[:12]}, which nobody sent under its id"
    if job_key(case.asked.get(row.src)) != (row.tenant, row.job_id):
        return f"names {row.src} as its record, which is none of its own"
    if row.state == ERASED:
        return None
    if row.state == "judged":
        return _judged_fault(case, row, same)
    return _dead_fault(case, row, same)


def _judged_fault(case: Case, row: JobRow, sent: list[Submission]) -> str | None:
    if row.result_id not in case.verdicts:
        return f"is judged, but its verdict {row.result_id} has no row"
    if row.dead_letter_id is None and not any(s.expects_dead_code is None for s in sent):
        return f"was judged where {_codes(sent)} was expected"
    return None


def _dead_fault(case: Case, row: JobRow, sent: list[Submission]) -> str | None:
    letter = case.letters.get(row.dead_letter_id or "")
    if row.state != "dead":
        return f"has the state {row.state!r}"
    if letter is None:
        return f"is dead, but its letter {row.dead_letter_id} has no row"
    if letter.code not in _codes(sent):
        return f"died of {letter.code} where {_codes(sent) or 'a verdict'} was expected"
    return None


def _codes(sent: list[Submission]) -> set[str]:
    return {s.expects_dead_code for s in sent if s.expects_dead_code} | {code for s in sent for code in s.tolerates}


def _verdict_rows(case: Case) -> Iterator[str]:
    revisions = Counter((row.tenant, row.job_id, row.revision) for row in case.seen.verdicts)
    ids = Counter(row.result_id for row in case.seen.verdicts)
    yield from (f"job {key[0]}/{key[1]} has {n} verdicts of revision {key[2]}" for key, n in revisions.items() if n > 1)
    yield from (f"verdict {result_id} has {count} rows" for result_id, count in ids.items() if count > 1)
    pointed = {row.result_id for row in case.seen.jobs}
    for verdict in case.seen.verdicts:
        owned = verdict.result_id in pointed if verdict.revision == 1 else (verdict.tenant, verdict.job_id) in case.jobs
        if not owned:
            yield f"verdict {verdict.result_id} of {verdict.tenant}/{verdict.job_id} is not the end of its job"


def _letter_rows(case: Case) -> Iterator[str]:
    """A letter is the end of a job, or was until a replay, or answers a conflict or a message that claims no job."""
    places = Counter(letter_place(letter) for letter in case.seen.letters)
    yield from (f"{place} has {count} dead letters" for place, count in places.items() if count > 1)
    for letter in case.seen.letters:
        place = letter_place(letter)
        key = job_key(case.asked.get(place))
        if key is not None and letter.code != CONFLICT and not _stands(case.jobs.get(key), letter):
            yield f"dead letter {letter.letter_id} ({letter.code}) of {place} is not the end of job {key[0]}/{key[1]}"
        if place not in case.inputs:
            yield f"dead letter {letter.letter_id} names {place}, where no record is"


def _stands(row: JobRow | None, letter: LetterRow) -> bool:
    """Whether the letter is its job's end, or was until a replay was answered."""
    if row is None or row.dead_letter_id != letter.letter_id:
        return letter.replayed
    return row.state == "dead" or letter.replayed


def _wrong_answers(case: Case) -> Iterator[str]:
    for record, output in case.answered():
        fault = _answer_fault(case, record, output)
        if fault:
            yield f"{output_place(output)} answers {output.src}: {fault}"


def _answer_fault(case: Case, record: Input, output: Output) -> str | None:
    sent = case.asked[input_place(record)]
    if sent is None:
        return None  # told by _nobody_sent
    if not sent.well_formed:
        return _malformed_fault(case, record, output, sent)
    row = case.job_of(record)
    if row is None or output.kind in ON_ITS_WAY:
        return None  # told by _jobs_without_rows
    if sent.payload_digest != row.payload_digest:
        return _conflict_fault(case, record, output)
    return _end_fault(case, row, output)


def _malformed_fault(case: Case, record: Input, output: Output, sent: Submission) -> str | None:
    letter = case.letters_at.get(input_place(record))
    if output.kind != "dead":
        return f"a message that claims no job got a {output.kind}"
    if letter is None:
        return "the dead letter has no row"
    codes = _codes([sent])
    if codes and letter.code not in codes:
        return f"died of {letter.code} where {codes} was expected"
    return None


def _conflict_fault(case: Case, record: Input, output: Output) -> str | None:
    code = text(output.headers, names.ERROR_CODE)
    letter = case.letters_at.get(input_place(record))
    if output.kind != "dead" or code != CONFLICT:
        return f"other content under a taken id got a {output.kind} ({code}) in place of {CONFLICT}"
    if letter is None or letter.code != CONFLICT:
        return f"its letter of the code {CONFLICT} has no row"
    return None


def _end_fault(case: Case, row: JobRow, output: Output) -> str | None:
    if row.state == ERASED:
        return None
    if output.kind == "dead":
        letter_id = text(output.headers, names.DEAD_LETTER_ID)
        letter = case.letters.get(letter_id or "")
        if not (letter and _stands(row, letter)):
            return f"dead letter {letter_id} is not the job's end ({row.state}, letter {row.dead_letter_id})"
    elif row.state != "judged":
        return f"a {output.kind} for a job whose state is {row.state}"
    return None
