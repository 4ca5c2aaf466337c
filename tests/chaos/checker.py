"""The checker: proves I1 to I12 of one observation, as far as topics, database and the producers' log can.

Pure and linear in what was seen. `check` names what is broken, `counted` how many things each invariant was checked
on: none means unproven, which is not the same as held.

What stays out of its sight: I8 is proven for photographs that came more than once, I9 as far as broken numbers show in
rows, I11 without what happened inside a cache, I12 for the processes that were sampled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from tests.chaos.invariants import Case, look_up
from tests.chaos.invariants_answers import answers_are_stored, retries_in_order, tenants_apart
from tests.chaos.invariants_jobs import ON_ITS_WAY, accepted_jobs, one_end_each
from tests.chaos.invariants_topics import nothing_aborted, nothing_left, offsets_advance, one_output_each, readers_agree
from tests.chaos.invariants_verdicts import alike, audit_verifies, numbers_hold, strays_told, verdicts_repeat
from tests.chaos.observation import Observation, Violation


@dataclass(frozen=True, slots=True, kw_only=True)
class Invariant:
    name: str
    title: str
    broken: Callable[[Case], Iterator[Violation]]
    counted: Callable[[Case], int]


INVARIANTS = (
    Invariant(
        name="I1", title="every accepted job has exactly one end", broken=one_end_each,
        counted=lambda case: len(accepted_jobs(case)),
    ),
    Invariant(
        name="I2", title="every record below the committed offset has exactly one output", broken=one_output_each,
        counted=lambda case: len(case.inputs),
    ),
    Invariant(
        name="I3", title="answers are the stored bytes, with the input's src and trace", broken=answers_are_stored,
        counted=lambda case: len(case.answers),
    ),
    Invariant(
        name="I4", title="nothing of an aborted transaction is visible", broken=nothing_aborted,
        counted=lambda case: sum(not output.committed for output in case.seen.outputs) + len(case.aborted_inputs),
    ),
    Invariant(
        name="I5", title="a reader meanwhile sees what a later one sees", broken=readers_agree,
        counted=lambda case: sum(len(reader.sightings) for reader in case.seen.readers),
    ),
    Invariant(
        name="I6", title="committed offsets never go back or pass unfinished work", broken=offsets_advance,
        counted=lambda case: len(case.seen.offsets),
    ),
    Invariant(
        name="I7", title="retries stay within their limit and wait until due", broken=retries_in_order,
        counted=lambda case: sum(output.kind in ON_ITS_WAY for output in case.answers.values()),
    ),
    Invariant(
        name="I8", title="the same photographs and engine reach the same verdict", broken=verdicts_repeat,
        counted=lambda case: sum(map(len, alike(case).values())) + len(case.seen.spreads),
    ),
    Invariant(
        name="I9", title="no verdict holds broken numbers", broken=numbers_hold,
        counted=lambda case: len(case.seen.verdicts),
    ),
    Invariant(
        name="I10", title="the audit chain verifies", broken=audit_verifies,
        counted=lambda case: int(case.seen.audit_findings is not None),
    ),
    Invariant(
        name="I11", title="tenants stay apart in keys, rows and letters", broken=tenants_apart,
        counted=lambda case: len(case.seen.jobs) + len(case.seen.verdicts) + len(case.seen.letters),
    ),
    Invariant(
        name="I12", title="nothing is left over after the end", broken=nothing_left,
        counted=lambda case: len(case.seen.ends) + sum(sample.moment == "end" for sample in case.seen.samples),
    ),
)  # fmt: skip


def check(observation: Observation) -> tuple[Violation, ...]:
    """Every violation, ordered by invariant."""
    return violations_of(look_up(observation))


def violations_of(case: Case) -> tuple[Violation, ...]:
    found = [violation for invariant in INVARIANTS for violation in invariant.broken(case)]
    found += strays_told(case)
    order = {invariant.name: at for at, invariant in enumerate(INVARIANTS)}
    return tuple(sorted(found, key=lambda violation: order[violation.invariant]))


def counted(case: Case) -> Mapping[str, int]:
    """How many things each invariant was checked on."""
    return {invariant.name: invariant.counted(case) for invariant in INVARIANTS}
