"""What the swap benchmark makes of a worker's marks, on streams whose answers are known."""

from __future__ import annotations

import pytest

from benchmarks.swap_marks import (
    Mark,
    Swap,
    Window,
    images_in,
    marks_of,
    opening_times,
    percentile,
    swaps,
    usual_waits_s,
)

ALL = Window(from_s=0.0, to_s=100.0)


def started(at_s: float) -> Mark:
    return Mark(kind="started", at_s=at_s, images=10)


def ended(at_s: float) -> Mark:
    return Mark(kind="ended", at_s=at_s, images=10)


def swapped(at_s: float, took_s: float) -> Mark:
    return Mark(kind="swapped", at_s=at_s, took_s=took_s, engines="a=1 on cpu")


def test_a_swap_while_a_batch_is_under_way_costs_its_own_time_alone() -> None:
    marks = [started(1), swapped(1.5, 0.002), started(1.6), ended(2), ended(2.5)]
    assert swaps(marks, ALL) == [Swap(gap_s=0.002, wait_s=0.5)]


def test_time_without_a_batch_after_a_swap_is_its_gap() -> None:
    marks = [started(1), ended(2), swapped(2.2, 0.1), started(2.5), ended(4.0), started(9)]
    (swap,) = swaps(marks, ALL)
    assert swap.gap_s == pytest.approx(0.1 + 0.3)
    assert swap.wait_s == 2.0


def test_swaps_beyond_a_window_are_not_its() -> None:
    marks = [started(1), swapped(1.5, 0.0), swapped(7.5, 0.0), started(8)]
    assert len(swaps(marks, Window(from_s=1.0, to_s=2.0))) == 1


def test_a_batch_at_the_edge_of_a_window_counts_by_its_share() -> None:
    marks = [ended(0), ended(2), ended(4)]
    assert images_in(marks, Window(from_s=1.0, to_s=4.0)) == 15.0
    assert images_in(marks, ALL) == 20.0


def test_openings_pair_and_waits_follow() -> None:
    opening = [Mark(kind="opening", at_s=1.0), Mark(kind="opened", at_s=1.5), Mark(kind="opening", at_s=99.5)]
    assert opening_times(opening, ALL) == [Window(from_s=1.0, to_s=1.5)]
    assert usual_waits_s([ended(1), ended(2), ended(4), ended(101)], ALL) == [1.0, 2.0]


def test_marks_are_put_in_order() -> None:
    lines = [{"kind": "ended", "at_s": 2.0, "images": 3}, {"kind": "started", "at_s": 1.0, "images": 3}]
    assert [mark.kind for mark in marks_of(lines)] == ["started", "ended"]


def test_a_percentile_of_few_is_the_largest() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.99) == 3.0
    assert percentile([float(n) for n in range(1, 201)], 0.99) == 198.0
