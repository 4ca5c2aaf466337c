"""The ladder of engines, when its steps are barred, and what an engine may do before it is left."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from worker.core.fallback import (
    BarRule,
    Budget,
    BudgetMeter,
    Failure,
    FailureKind,
    Step,
    barred_until,
    free,
    in_order,
    ladder,
)

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
RULE = BarRule()
NOW_AND_BEFORE = {"a": "2", "b": "1"}, {"a": "1", "b": "1"}
BEST, BEFORE, CPU = ladder(
    [(NOW_AND_BEFORE[0], "tensorrt"), (NOW_AND_BEFORE[1], "tensorrt"), (NOW_AND_BEFORE[0], "openvino")]
)


def failures(*minutes_ago: float, kind: FailureKind = FailureKind.DIED, step: Step = BEST) -> list[Failure]:
    return [Failure(step=step.key, kind=kind, at=NOW - timedelta(minutes=minutes)) for minutes in minutes_ago]


def bar(found: Sequence[Failure], deaths: int = 2) -> float | None:
    """Minutes from now."""
    until = barred_until(BEST, found, NOW, RULE, deaths=deaths)
    return None if until is None else (until - NOW) / timedelta(minutes=1)


def test_the_ladder_leaves_out_what_is_the_same() -> None:
    same = {"a": "1"}
    assert ladder([(same, "openvino"), (same, "openvino"), (same, "onnxruntime")]) == (
        Step.of(same, "openvino"),
        Step.of(same, "onnxruntime"),
    )


def test_one_death_bars_nothing_and_two_within_a_short_time_do() -> None:
    assert bar(failures(0.5)) is None
    assert bar(failures(15, 0.5)) is None
    assert bar(failures(2, 0.5)) == 0.5
    assert bar(failures(0.5), deaths=1) == 0.5
    assert bar(failures(2, 0.5, step=CPU)) is None


def test_any_other_failure_bars_at_once() -> None:
    for kind in set(FailureKind) - {FailureKind.DIED, FailureKind.CRASHED}:
        assert bar(failures(0.25, kind=kind)) == 0.75


def crashed(*jobs_and_minutes: tuple[str, float]) -> list[Failure]:
    """Crashes with these jobs, one a letter."""
    at = [(frozenset(jobs), NOW - timedelta(minutes=minutes)) for jobs, minutes in jobs_and_minutes]
    return [Failure(step=BEST.key, kind=FailureKind.CRASHED, at=when, jobs=jobs) for jobs, when in at]


def test_crashes_that_one_photograph_explains_bar_nothing() -> None:
    beside_and_alone = crashed(("abcx", 5), ("abcx", 4), ("x", 3), ("x", 2), ("defx", 1))
    assert bar(beside_and_alone) is None
    assert bar(beside_and_alone, deaths=1) is None
    assert bar([*failures(1, kind=FailureKind.REFUSED), *crashed(("abx", 0.5), ("x", 0))]) is None


def test_crashes_of_jobs_apart_bar_one_more_than_deaths_do() -> None:
    assert bar(crashed(("abc", 5), ("abc", 4), ("a", 3), ("b", 0.5))) is None
    assert bar(crashed(("abc", 5), ("abc", 4), ("a", 3), ("b", 2), ("c", 0.5))) == 0.5
    assert bar(crashed(("a", 25), ("b", 12), ("c", 0.5))) is None
    assert bar(crashed(("abc", 2), ("def", 0.5)), deaths=1) == 0.5
    assert bar([*crashed(("a", 2)), *failures(0.5)]) is None
    assert bar([*crashed(("a", 2), ("b", 1)), *failures(0.5)]) == 0.5
    assert bar([*failures(20, 19), *crashed(("a", 1), ("b", 0))]) == 2  # was barred before


def test_each_bar_is_twice_as_long_up_to_an_hour_and_ends() -> None:
    refused = FailureKind.REFUSED
    assert bar(failures(60, 0, kind=refused)) == 2
    assert bar(failures(90, 60, 30, 0, kind=refused)) == 8
    assert bar(failures(*range(300, -1, -30), kind=refused)) == 60
    assert bar(failures(60, 3, kind=refused)) is None
    assert bar(failures(60 * 25, 60 * 24, 0, kind=refused)) == 1  # of a day before


def test_after_a_bar_one_death_is_enough() -> None:
    assert bar(failures(20, 19, 1)) == 1


def test_free_steps_go_first_and_then_the_one_that_is_free_soonest() -> None:
    steps = (BEST, BEFORE, CPU)
    refused = FailureKind.REFUSED
    found = failures(1.5, 0.1, kind=refused) + failures(0.1, kind=refused, step=CPU)
    assert free(steps, found, NOW, RULE) == [BEFORE]
    assert in_order(steps, found, NOW, RULE) == [BEFORE, CPU, BEST]
    assert in_order(steps, (), NOW, RULE) == [BEST, BEFORE, CPU]


def test_an_engine_is_left_over_its_errors_and_over_its_latency() -> None:
    budget = Budget(errors=0.1, photograph_ms=10.0, photographs=100)
    fine, failing, slow = BudgetMeter(budget), BudgetMeter(budget), BudgetMeter(budget)
    said = [(fine.add(5, 0, 0.05), failing.add(5, 1, 0.05), slow.add(5, 0, 0.06)) for _ in range(30)]
    assert [one for one, _, _ in said] == [None] * 30
    assert [errors for _, errors, _ in said[:19]] == [None] * 19  # too few to say
    kinds = {(errors[0], late[0]) for _, errors, late in said[19:] if errors and late}
    assert kinds == {(FailureKind.ERRORS, FailureKind.SLOW)}


def test_what_was_long_ago_is_not_held_against_it() -> None:
    meter = BudgetMeter(Budget(errors=0.1, photographs=100))
    for _ in range(4):
        meter.add(5, 5, 0.01)
    assert [meter.add(5, 0, 0.01) for _ in range(40)][-20:] == [None] * 20


def test_a_latency_without_a_limit_is_none() -> None:
    meter = BudgetMeter(Budget(photographs=20))
    assert [meter.add(1, 0, 9.0) for _ in range(40)] == [None] * 40
