"""I3, I7 and I11: what an answer holds against what is stored and what was asked, retries, and whose it is."""

from __future__ import annotations

from collections.abc import Iterator

from schemas import headers as names
from schemas.envelope import ORIGINAL
from schemas.verdict import result_id
from tests.chaos.invariants import Case, input_place, letter_place, number, output_place, text, violations
from tests.chaos.invariants_jobs import ON_ITS_WAY
from tests.chaos.observation import Headers, Input, JobRow, LetterRow, Output, Submission, VerdictRow, Violation

TRACE = frozenset({names.TRACEPARENT, names.TRACESTATE})
ANSWER_OWN = TRACE | {names.SRC, names.DUPLICATE}
RETRY_OWN = frozenset({names.SRC, names.ATTEMPT, names.DUE_MS, names.FIRST_SEEN_MS, names.ORIGIN})


def answers_are_stored(case: Case) -> Iterator[Violation]:
    """I3: the answer is the stored bytes and headers, with the input's src and trace."""
    for record, output in case.answered():
        for fault in _content_faults(case, record, output):
            yield Violation(invariant="I3", detail=f"{output_place(output)} answers {output.src}: {fault}")
    yield from violations("I3", _rows_that_changed(case))


def retries_in_order(case: Case) -> Iterator[Violation]:
    """I7: attempts count up to their limit, and nothing that waits is answered before it is due."""
    for record, output in case.answered():
        fault = _retry_fault(case, record, output) if output.kind in ON_ITS_WAY else None
        if fault:
            yield Violation(invariant="I7", detail=f"{output_place(output)} of {output.src}: {fault}")
        due_ms = number(record.headers, names.DUE_MS)
        if due_ms is not None and output.timestamp_ms < due_ms and not case.seen.clock_jumped:
            told = f"{output.src} was due at {due_ms} ms and answered at {output.timestamp_ms} ms"
            yield Violation(invariant="I7", detail=told)
    for letter in case.seen.letters:
        if letter.attempt > case.seen.limits.attempts:
            yield Violation(invariant="I7", detail=f"{letter_place(letter)} died at attempt {letter.attempt}")


def tenants_apart(case: Case) -> Iterator[Violation]:
    """I11: keys, rows and letters belong to the tenant that asked."""
    yield from violations("I11", _keys(case))
    yield from violations("I11", (fault for row in case.seen.jobs if (fault := _row_fault(case, row))))
    yield from violations("I11", (fault for row in case.seen.verdicts if (fault := _verdict_fault(row))))
    yield from violations("I11", (fault for row in case.seen.letters if (fault := _letter_fault(case, row))))


def _content_faults(case: Case, record: Input, output: Output) -> Iterator[str]:
    if tenant(output.key) == tenant(record.key) and output.key != record.key:
        yield f"its key is {output.key!r}, the input's {record.key!r}"
    match output.kind:
        case "result":
            yield from _result_faults(case, record, output)
        case "dead":
            yield from _dead_faults(case, record, output)
        case _:
            yield from _passed_on_faults(record, output)


def tenant(key: bytes | None) -> bytes:
    """What stands before the slash of a key; all of it where there is none."""
    return (key or b"").partition(b"/")[0]


def _result_faults(case: Case, record: Input, output: Output) -> Iterator[str]:
    yield from _trace_faults(record, output, own=())
    row = case.job_of(record)
    verdict = case.verdicts.get(row.result_id or "") if row else None
    sent = case.asked[input_place(record)]
    if row is None or verdict is None or sent is None or sent.payload_digest != row.payload_digest:
        return  # told by I1
    yield from _mark_faults(output, row.src)
    if verdict.event_digest is not None:
        yield from _event_faults(verdict, output)


def _event_faults(verdict: VerdictRow, output: Output) -> Iterator[str]:
    if output.value_digest != verdict.event_digest:
        yield f"its bytes are {output.value_digest[:12]}, the stored ones of {verdict.result_id} {verdict.digest[:12]}"
    stored = tuple((name, value.encode()) for name, value in verdict.event_headers)
    carried = tuple(header for header in output.headers if header[0] not in ANSWER_OWN)
    if carried != stored:
        yield f"its headers {_other(carried, stored)} are not the stored ones of {verdict.result_id}"


def _other(found: Headers, expected: Headers) -> str:
    return ", ".join(sorted({name for name, _ in set(found) ^ set(expected)})) or "in another order or number"


def _dead_faults(case: Case, record: Input, output: Output) -> Iterator[str]:
    letter = case.letters.get(text(output.headers, names.DEAD_LETTER_ID) or "")
    if letter is None:
        yield from _trace_faults(record, output, own=())
        return  # told by I1
    yield from _trace_faults(record, output, own=letter.headers)
    if letter.value_digest is not None and output.value_digest != letter.value_digest:
        yield f"its bytes are {output.value_digest[:12]}, the stored ones {letter.value_digest[:12]}"
    wrong = sorted(name for name, value in _told(letter).items() if text(output.headers, name) != value)
    if wrong:
        yield f"its headers {', '.join(wrong)} are not those of the stored letter {letter.letter_id}"
    missing = [name for name, value in letter.headers if not _kept(name, value, output.headers)]
    if missing:
        yield f"the original headers {', '.join(missing)} are not in it"
    yield from _mark_faults(output, letter_place(letter))


def _mark_faults(output: Output, first: str) -> Iterator[str]:
    mark = text(output.headers, names.DUPLICATE)
    if (mark == "1") is not (output.src != first):
        yield f"its header {names.DUPLICATE} is {mark}, and the first one was {first}"


def _told(letter: LetterRow) -> dict[str, str]:
    return {
        names.ERROR_CODE: letter.code,
        names.ERROR_STAGE: letter.stage,
        names.ATTEMPT: str(letter.attempt),
        names.ERROR_TOPIC: letter.topic,
        names.ERROR_PARTITION: str(letter.partition),
        names.ERROR_OFFSET: str(letter.offset),
        names.CE_TYPE: names.DEAD_LETTER_TYPE,
        names.CE_ID: letter.letter_id,
    }


def _kept(name: str, value: bytes | None, headers: Headers) -> bool:
    if name in TRACE or name in (names.SRC, names.DUPLICATE):
        return True  # the answered record's own stand in their place
    return any(key in (name, ORIGINAL + name) and (found or b"") == (value or b"") for key, found in headers)


def _passed_on_faults(record: Input, output: Output) -> Iterator[str]:
    if output.value_digest != record.value_digest:
        yield f"its bytes are {output.value_digest[:12]}, the input's {record.value_digest[:12]}"
    before = tuple(header for header in record.headers if header[0] not in RETRY_OWN)
    after = tuple(header for header in output.headers if header[0] not in RETRY_OWN)
    if after != before:
        yield f"its headers {_other(after, before)} are not the input's"


def _trace_faults(record: Input, output: Output, *, own: Headers) -> Iterator[str]:
    """The input's trace; where it has none, a repeated letter may still show its `own`."""
    asked = _trace(record.headers)
    answered = _trace(output.headers)
    if answered != asked and (asked or answered != _trace(own)):
        yield f"its trace is {answered}, the input's {asked}"


def _trace(headers: Headers) -> Headers:
    return tuple(header for header in headers if header[0] in TRACE)


def _rows_that_changed(case: Case) -> Iterator[str]:
    for verdict in case.seen.verdicts:
        if verdict.event_digest not in (None, verdict.digest):
            yield f"verdict {verdict.result_id} holds an event of digest {verdict.event_digest}, not {verdict.digest}"
    for letter in case.seen.letters:
        record = case.inputs.get(letter_place(letter))
        if record is not None and not _same_message(letter, record):
            yield f"dead letter {letter.letter_id} does not hold the message that stands at {letter_place(letter)}"


def _same_message(letter: LetterRow, record: Input) -> bool:
    """Names lose NUL and null values become empty where they are stored."""
    if letter.value_digest is None:
        return True
    headers = tuple((name.replace("\x00", ""), value or b"") for name, value in record.headers)
    stored = tuple((name, value or b"") for name, value in letter.headers)
    return (letter.key, letter.value_digest, stored) == (record.key, record.value_digest, headers)


def _retry_fault(case: Case, record: Input, output: Output) -> str | None:
    before = number(record.headers, names.ATTEMPT) or 1
    after = number(output.headers, names.ATTEMPT)
    step = 1 if output.kind == "retry" else 0
    if after != before + step:
        return f"attempt {after} follows attempt {before} in the {output.kind} lane"
    if after > case.seen.limits.attempts:
        return f"attempt {after}, and {case.seen.limits.attempts} is the limit"
    if number(output.headers, names.DUE_MS) is None:
        return "it has no due time"
    first = number(record.headers, names.FIRST_SEEN_MS)
    if first is not None and number(output.headers, names.FIRST_SEEN_MS) != first:
        return f"first seen at {first} ms became {text(output.headers, names.FIRST_SEEN_MS)}"
    origin = text(record.headers, names.ORIGIN) or output.src
    if text(output.headers, names.ORIGIN) != origin:
        return f"its origin is {text(output.headers, names.ORIGIN)}, not {origin}"
    return None


def _keys(case: Case) -> Iterator[str]:
    for record, output in case.answered():
        if tenant(output.key) != tenant(record.key):
            yield f"{output_place(output)} has the key {output.key!r} and answers {record.key!r}"


def _row_fault(case: Case, row: JobRow) -> str | None:
    verdict = case.verdicts.get(row.result_id or "")
    if verdict is not None and (verdict.tenant, verdict.job_id) != (row.tenant, row.job_id):
        return f"job {row.tenant}/{row.job_id} has the verdict of {verdict.tenant}/{verdict.job_id}"
    letter = case.letters.get(row.dead_letter_id or "")
    if letter is not None and (letter.tenant, letter.job_id) != (row.tenant, row.job_id):
        return f"job {row.tenant}/{row.job_id} has the dead letter of {letter.tenant}/{letter.job_id}"
    return None


def _verdict_fault(row: VerdictRow) -> str | None:
    if str(result_id(row.tenant, row.job_id, row.revision)) != row.result_id:
        return f"verdict {row.result_id} stands under {row.tenant}/{row.job_id}, whose own has another id"
    told = dict(row.event_headers).get(names.CE_ID)
    if row.event_digest is not None and told != row.result_id:
        return f"verdict {row.result_id} holds the event {told}"
    return None


def _letter_fault(case: Case, row: LetterRow) -> str | None:
    sent = case.asked.get(letter_place(row))
    if sent is not None and _letter_owner(sent) != (row.tenant, row.job_id):
        return f"dead letter {row.letter_id} of {_letter_owner(sent)} stands under {row.tenant}/{row.job_id}"
    return None


def _letter_owner(sent: Submission) -> tuple[str | None, str | None]:
    return (sent.tenant, sent.job_id) if sent.well_formed else (None, None)
