"""What the marks of a worker (benchmarks.marked_worker) come to: the gap of each swap, and images a second. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """`kind`: started or ended (a batch of `images`), opening or opened (`engines`), swapped (`engines`, `took_s`)."""

    kind: str
    at_s: float
    images: int = 0
    engines: str = ""
    took_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Swap:
    """`gap_s`: the swap's own time, and how long no batch was under way until the first one after it. `wait_s`: within
    a second of it, the longest time from the end of a batch to the end of the next one."""

    gap_s: float
    wait_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """From `from_s` to `to_s`, on the clock of the marks."""

    from_s: float
    to_s: float

    @property
    def seconds(self) -> float:
        return self.to_s - self.from_s


def marks_of(lines: Iterable[dict[str, Any]]) -> list[Mark]:
    """In the order of time; marks of different threads may have been written in another one."""
    return sorted((Mark(**line) for line in lines), key=lambda mark: mark.at_s)


def swaps(marks: Sequence[Mark], window: Window) -> list[Swap]:
    """Every swap within a window."""
    found = [mark for mark in marks if mark.kind == "swapped" and window.from_s <= mark.at_s <= window.to_s]
    return [_swap(mark, marks) for mark in found]


def _swap(swap: Mark, marks: Sequence[Mark]) -> Swap:
    first_s = next((m.at_s for m in marks if m.kind == "started" and m.at_s >= swap.at_s), swap.at_s)
    after, about = Window(from_s=swap.at_s, to_s=first_s), Window(from_s=swap.at_s - 1.0, to_s=swap.at_s + 1.0)
    waits = [Window(from_s=a, to_s=b) for a, b in pairwise(_ends(marks))]
    return Swap(
        gap_s=swap.took_s + sum(_shared_s(one, after) for one in idle_times(marks)),
        wait_s=max((one.seconds for one in waits if _shared_s(one, about) > 0.0), default=0.0),
    )


def idle_times(marks: Sequence[Mark]) -> list[Window]:
    """When no batch was under way, from the first batch to the last."""
    found, under_way, since_s = [], 0, None
    for mark in marks:
        if mark.kind == "started":
            if under_way == 0 and since_s is not None:
                found.append(Window(from_s=since_s, to_s=mark.at_s))
            under_way += 1
        elif mark.kind == "ended":
            under_way -= 1
            since_s = mark.at_s
    return found


def usual_waits_s(marks: Sequence[Mark], window: Window) -> list[float]:
    """From the end of each batch to the end of the next one."""
    ends = [at_s for at_s in _ends(marks) if window.from_s <= at_s <= window.to_s]
    return [b - a for a, b in pairwise(ends)]


def images_in(marks: Sequence[Mark], window: Window) -> float:
    """Images done within a window; of a batch that reaches beyond it, its share by time."""
    ended = [mark for mark in marks if mark.kind == "ended"]
    total = 0.0
    for before, mark in pairwise(ended):
        own = Window(from_s=before.at_s, to_s=mark.at_s)
        if own.seconds > 0.0:
            total += mark.images * _shared_s(own, window) / own.seconds
    return total


def opening_times(marks: Sequence[Mark], window: Window) -> list[Window]:
    """When engines were opened, one set at a time."""
    kinds = [mark for mark in marks if mark.kind in ("opening", "opened")]
    return [
        Window(from_s=a.at_s, to_s=b.at_s)
        for a, b in pairwise(kinds)
        if a.kind == "opening" and b.kind == "opened" and window.from_s <= a.at_s and b.at_s <= window.to_s
    ]


def _ends(marks: Sequence[Mark]) -> list[float]:
    return [mark.at_s for mark in marks if mark.kind == "ended"]


def _shared_s(one: Window, other: Window) -> float:
    return max(0.0, min(one.to_s, other.to_s) - max(one.from_s, other.from_s))


def percentile(values: Sequence[float], share: float) -> float:
    """The least value that `share` of them do not exceed; of few it is the largest."""
    return sorted(values)[math.ceil(share * len(values)) - 1]
