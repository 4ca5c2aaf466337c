"""Finds, in a clean observation, what a fault is planted in, and puts the fault in its place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from schemas import headers as names
from tests.chaos.invariants import input_place, last, letter_place, text
from tests.chaos.observation import (
    Headers,
    Input,
    JobRow,
    Kind,
    LetterRow,
    Observation,
    Output,
    PartitionEnd,
    Submission,
    VerdictRow,
    place_of,
)

T = TypeVar("T")


def anything(output: Output) -> bool:
    return output.committed


@dataclass(slots=True)
class Scene:
    """A clean observation, and who is who in it."""

    seen: Observation
    inputs: dict[str, Input] = field(init=False)
    asked_of_key: Counter[bytes | None] = field(init=False)
    asked_of_value: Counter[str] = field(init=False)

    def __post_init__(self) -> None:
        self.inputs = {input_place(record): record for record in self.seen.inputs if record.committed}
        self.asked_of_key = Counter(record.key for record in self.inputs.values())
        self.asked_of_value = Counter(record.value_digest for record in self.inputs.values())

    def output(self, kind: Kind, wanted: Callable[[Output], bool] = anything) -> Output:
        return next(o for o in self.seen.outputs if o.kind == kind and o.committed and wanted(o))

    def result(self) -> Output:
        """The answer to a job that was sent once and got a verdict at once."""
        return self.output("result", lambda o: self.asked_of_key[o.key] == 1 and bool(self.trace(o)))

    def repeated(self) -> Output:
        return self.output("result", lambda o: last(o.headers, names.DUPLICATE) == b"1")

    def trace(self, output: Output) -> str | None:
        return text(output.headers, names.TRACEPARENT)

    def death(self) -> Output:
        """The dead letter of a job that nothing else has to do with."""
        return self.output("dead", lambda o: code_of(o) == "no_usable_view" and self.asked_of_key[o.key] == 1)

    def broken(self) -> Output:
        """The dead letter of a message that claims no job and came once."""
        return self.output(
            "dead", lambda o: code_of(o) == "malformed_payload" and self.asked_of_value[o.value_digest] == 1
        )

    def conflict(self) -> Output:
        return self.output("dead", lambda o: code_of(o) == "job_id_conflict")

    def asked(self, output: Output) -> Input:
        return self.inputs[output.src or ""]

    def sent(self, output: Output) -> Submission:
        return next(s for s in self.seen.submissions if place_of(s.topic, s.partition, s.offset) == output.src)

    def job(self, output: Output) -> JobRow:
        return next(row for row in self.seen.jobs if f"{row.tenant}/{row.job_id}".encode() == output.key)

    def verdict(self, output: Output) -> VerdictRow:
        return next(row for row in self.seen.verdicts if row.result_id == self.job(output).result_id)

    def letter(self, output: Output) -> LetterRow:
        return next(letter for letter in self.seen.letters if letter_place(letter) == output.src)

    def end(self, record: Input) -> PartitionEnd:
        return next(e for e in self.seen.ends if (e.topic, e.partition) == (record.topic, record.partition))

    def other_output(self, old: Output, *new: Output) -> Observation:
        """As if it had been so from the start: no reader saw otherwise."""
        return replace(self.seen, outputs=put(self.seen.outputs, old, *new), readers=())

    def other_job(self, old: JobRow, *new: JobRow) -> Observation:
        return replace(self.seen, jobs=put(self.seen.jobs, old, *new))

    def other_verdict(self, old: VerdictRow, *new: VerdictRow) -> Observation:
        return replace(self.seen, verdicts=put(self.seen.verdicts, old, *new))

    def other_letter(self, old: LetterRow, *new: LetterRow) -> Observation:
        return replace(self.seen, letters=put(self.seen.letters, old, *new))


def code_of(letter: Output) -> str | None:
    return text(letter.headers, names.ERROR_CODE)


def put(rows: tuple[T, ...], old: T, *new: T) -> tuple[T, ...]:
    """`rows` with `new` in the place of `old`."""
    at = rows.index(old)
    return (*rows[:at], *new, *rows[at + 1 :])


def headed(output: Output, name: str, value: bytes | None) -> Output:
    """The output with another value of a header; without it where the value is None."""
    kept = tuple((n, value if n == name else v) for n, v in output.headers if n != name or value is not None)
    added = () if value is None or last(kept, name) is not None else ((name, value),)
    return replace(output, headers=kept + added)


def own_of(answer: Output) -> Headers:
    """An answer's stored headers."""
    return tuple(header for header in answer.headers if header[0].startswith("ce_") or header[0] == names.CONTENT_TYPE)


def rest_of(output: Output) -> Headers:
    """What an output has of its input."""
    kept = (names.SRC, names.TRACEPARENT, names.TRACESTATE, names.DUPLICATE)
    return tuple(header for header in output.headers if header[0] in kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """A fault, and the invariants under which the checker must name it: those and no other."""

    name: str
    caught_by: frozenset[str]
    plant: Callable[[Scene], Observation]


def planted(plant: Callable[[Scene], Observation], *invariants: str) -> Planted:
    """A fault that is named as its function."""
    return Planted(name=plant.__name__.replace("_", " "), caught_by=frozenset(invariants), plant=plant)
