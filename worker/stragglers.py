"""Views that a helper process still decodes when the rest of their batches is done. Nobody waits for them: neighbours
are judged meanwhile, and past a soft deadline the job moves to the slow lane, so that its partition goes on as well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from worker.ports import LateView

R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Straggler(Generic[R]):
    request: R
    view: LateView
    since_s: float


class Stragglers(Generic[R]):
    """One thread owns it; `wake` is called by any when one is done. Times are seconds of one monotonic clock."""

    def __init__(self, *, patience_s: float, wake: Callable[[], None]) -> None:
        self._patience_s = patience_s
        self._wake = wake
        self._waiting: list[Straggler[R]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, request: R, view: LateView, now_s: float) -> None:
        self._waiting.append(Straggler(request=request, view=view, since_s=now_s))
        view.when_done(self._wake)

    def done(self) -> list[Straggler[R]]:
        """Those that have come, no longer waited for."""
        come: list[Straggler[R]] = []
        still: list[Straggler[R]] = []
        for straggler in self._waiting:
            (come if straggler.view.done else still).append(straggler)
        self._waiting = still
        return come

    def all(self) -> list[Straggler[R]]:
        """Every one, no longer waited for; whoever wants them waits for each."""
        taken, self._waiting = self._waiting, []
        return taken

    def overdue(self, now_s: float) -> list[Straggler[R]]:
        """Those past the soft deadline, which are waited for still."""
        return [straggler for straggler in self._waiting if now_s - straggler.since_s >= self._patience_s]

    def drop(self, unwanted: Callable[[R], bool]) -> list[R]:
        """Wait no longer for these, which are returned."""
        dropped = [straggler for straggler in self._waiting if unwanted(straggler.request)]
        for straggler in dropped:
            straggler.view.drop()
        self._waiting = [straggler for straggler in self._waiting if not unwanted(straggler.request)]
        return [straggler.request for straggler in dropped]

    def wait_s(self, now_s: float, movable: Callable[[R], bool]) -> float | None:
        """Seconds to the next soft deadline among those that it holds for; None where there is none."""
        ends = [s.since_s + self._patience_s - now_s for s in self._waiting if movable(s.request)]
        return max(0.0, min(ends)) if ends else None
