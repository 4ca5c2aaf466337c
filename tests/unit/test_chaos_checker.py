"""The checker is itself checked: no alarm on clean runs, and every planted fault is caught under its invariant."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from random import Random

import pytest

from schemas import headers as names
from tests.chaos.checker import check, counted
from tests.chaos.imagined_run import ImaginedRun
from tests.chaos.invariants import last, look_up
from tests.chaos.observation import Observation
from tests.chaos.planted_faults import PLANTED
from tests.chaos.planting import Planted, Scene

JOBS = 150
ALL = {f"I{number}" for number in range(1, 13)}


@cache
def clean() -> Scene:
    return Scene(ImaginedRun(7, jobs=2 * JOBS).run().observation())


@pytest.mark.parametrize("seed", range(20))
def test_a_clean_run_raises_no_alarm(seed: int) -> None:
    assert check(ImaginedRun(seed, jobs=JOBS).run().observation()) == ()


def test_clean_runs_hold_all_that_can_go_wrong() -> None:
    seen = clean().seen
    kinds = {output.kind for output in seen.outputs if output.committed}
    assert kinds == {"result", "retry", "slow", "dead"}
    codes = {"job_id_conflict", "malformed_payload", "no_usable_view", "retries_exhausted"}
    assert {letter.code for letter in seen.letters} == codes
    assert {letter.replayed for letter in seen.letters} == {True, False}
    assert (
        {output.committed for output in seen.outputs} == {record.committed for record in seen.inputs} == {True, False}
    )
    marks = {last(output.headers, names.DUPLICATE) for output in seen.outputs if output.kind == "result"}
    assert marks == {b"1", None}


def test_every_invariant_was_checked_on_something() -> None:
    counts = counted(look_up(clean().seen))
    assert set(counts) == ALL
    assert all(counts.values()), counts
    assert not any(counted(look_up(Observation())).values())


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.name)
def test_a_planted_fault_is_caught(planted: Planted) -> None:
    found = check(planted.plant(clean()))
    assert {violation.invariant for violation in found} == planted.caught_by, found


@pytest.mark.parametrize("rows", ["inputs", "outputs", "jobs", "verdicts", "letters"])
@pytest.mark.parametrize("seed", range(5))
def test_no_row_or_record_can_be_lost_or_doubled_unnoticed(rows: str, seed: int) -> None:
    seen = clean().seen
    every = [row for row in getattr(seen, rows) if getattr(row, "committed", True)]
    row = Random(seed).choice(every)
    rest = tuple(other for other in getattr(seen, rows) if other is not row)
    assert check(replace(seen, **{rows: rest}))
    if rows != "inputs":  # a place holds one record
        assert check(replace(seen, **{rows: (*rest, row, row)}))


def test_every_invariant_has_a_planted_fault() -> None:
    assert set().union(*(planted.caught_by for planted in PLANTED)) == ALL
    assert len(PLANTED) >= 24


def test_a_jumped_clock_spares_what_rests_on_times_alone() -> None:
    early = next(planted for planted in PLANTED if planted.name == "retry before its due time")
    assert check(replace(early.plant(clean()), clock_jumped=True)) == ()
