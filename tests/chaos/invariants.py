"""An observation, looked up: what each record is, which answer it got, and what the database says of its job.

Built once, in one pass over each tuple; the invariants' modules read it and change nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from schemas import headers as names
from tests.chaos.observation import (
    UNKNOWN,
    Headers,
    Input,
    JobRow,
    LetterRow,
    Observation,
    Output,
    PartitionEnd,
    Submission,
    VerdictRow,
    Violation,
    place_of,
)

Partition = tuple[str, int]
JobKey = tuple[str, str]  # tenant, job_id


@dataclass(slots=True, kw_only=True)
class Case:
    """`asked` tells which submission a record carries, through retries and replays; None where nobody sent it."""

    seen: Observation
    inputs: dict[str, Input] = field(default_factory=dict)
    aborted_inputs: set[str] = field(default_factory=set)
    asked: dict[str, Submission | None] = field(default_factory=dict)
    answers: dict[str, Output] = field(default_factory=dict)
    repeated: list[Output] = field(default_factory=list)  # committed, and another one names the same input
    jobs: dict[JobKey, JobRow] = field(default_factory=dict)
    verdicts: dict[str, VerdictRow] = field(default_factory=dict)
    letters: dict[str, LetterRow] = field(default_factory=dict)
    letters_at: dict[str, LetterRow] = field(default_factory=dict)
    ends: dict[Partition, PartitionEnd] = field(default_factory=dict)

    def answered(self) -> Iterator[tuple[Input, Output]]:
        """Each input with the one output that names it, where there is one."""
        for src, output in self.answers.items():
            record = self.inputs.get(src)
            if record is not None:
                yield record, output

    def job_of(self, record: Input) -> JobRow | None:
        """The row of the job that a record asks for; None for a malformed one too."""
        key = job_key(self.asked.get(input_place(record)))
        return self.jobs.get(key) if key else None


def look_up(seen: Observation) -> Case:
    """Build the case. Of rows or records that stand twice the first is kept: I1 and I2 tell of the others."""
    case = Case(seen=seen)
    _index_rows(case)
    for record in seen.inputs:
        if record.committed:
            case.inputs[input_place(record)] = record
        else:
            case.aborted_inputs.add(input_place(record))
    for output in seen.outputs:
        if not output.committed or output.src is None:
            continue
        if output.src in case.answers:
            case.repeated.append(output)
        else:
            case.answers[output.src] = output
    _trace_back(case)
    return case


def input_place(record: Input) -> str:
    return place_of(record.topic, record.partition, record.offset)


def output_place(output: Output) -> str:
    return place_of(output.topic, output.partition, output.offset)


def letter_place(letter: LetterRow) -> str:
    return place_of(letter.topic, letter.partition, letter.offset)


def job_key(submission: Submission | None) -> JobKey | None:
    """The job that a submission claims; None where it claims none."""
    if submission is None or not submission.well_formed:
        return None
    return submission.tenant or "", submission.job_id or ""


def last(headers: Headers, name: str) -> bytes | None:
    """The last header of that name, as Kafka's readers take it."""
    for key, value in reversed(headers):
        if key == name:
            return value
    return None


def number(headers: Headers, name: str) -> int | None:
    value = last(headers, name)
    return int(value) if value is not None and value.isdigit() else None


def text(headers: Headers, name: str) -> str | None:
    value = last(headers, name)
    return None if value is None else value.decode(errors="replace")


def violations(invariant: str, details: Iterable[str]) -> Iterator[Violation]:
    return (Violation(invariant=invariant, detail=detail) for detail in details)


def _index_rows(case: Case) -> None:
    seen = case.seen
    for job in seen.jobs:
        case.jobs.setdefault((job.tenant, job.job_id), job)
    for verdict in seen.verdicts:
        case.verdicts.setdefault(verdict.result_id, verdict)
    for letter in seen.letters:
        case.letters.setdefault(letter.letter_id, letter)
        case.letters_at.setdefault(letter_place(letter), letter)
    case.ends = {(end.topic, end.partition): end for end in seen.ends}


def _trace_back(case: Case) -> None:
    """Find what each record carries: by its place, by its first delivery's, by its letter's, else by its bytes."""
    by_place: dict[str, Submission] = {}
    by_value: defaultdict[str, list[Submission]] = defaultdict(list)
    for submission in case.seen.submissions:
        if submission.offset != UNKNOWN:
            by_place[place_of(submission.topic, submission.partition, submission.offset)] = submission
        by_value[submission.value_digest].append(submission)
    for place, record in case.inputs.items():
        found = next((by_place[origin] for origin in _origins(case, place, record) if origin in by_place), None)
        case.asked[place] = found or _of_same_bytes(record, by_value.get(record.value_digest, []))


def _origins(case: Case, place: str, record: Input) -> Iterator[str]:
    yield place
    yield text(record.headers, names.ORIGIN) or ""
    letter = case.letters.get(text(record.headers, names.REPLAY_OF) or "")
    if letter is not None:
        yield text(letter.headers, names.ORIGIN) or ""
        yield letter_place(letter)


def _of_same_bytes(record: Input, candidates: list[Submission]) -> Submission | None:
    """A replay, or a submission whose acknowledgement was lost; the key decides where bytes came under several."""
    own = [c for c in candidates if c.well_formed and f"{c.tenant}/{c.job_id}".encode() == record.key]
    broken = [c for c in candidates if not c.well_formed]
    return next(iter(own or broken), None)
