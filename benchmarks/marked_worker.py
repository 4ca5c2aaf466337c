"""`python -m benchmarks.marked_worker`: `assay worker` that writes down when its batches start and end, when engines
are opened and when they are swapped in. One JSON object a line in the file MARKS; times are of the monotonic clock.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

from worker.adapters.engine_serving import Opening
from worker.adapters.engine_wanted import Wanted
from worker.adapters.switching import Answer, OpenSet, SwitchingEncoder, SwitchingPending
from worker.app import run_worker
from worker.core.fallback import Step
from worker.ports import EncodeView, PendingViews
from worker.settings import load_settings

Value = str | int | float


class Marks:
    """Lines are written whole and at once: the file is read while the worker runs, and after it was killed."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def add(self, kind: str, **more: Value) -> None:
        line = json.dumps({"kind": kind, "at_s": time.monotonic(), **more})
        os.write(self._descriptor, f"{line}\n".encode())


def plant(marks: Marks) -> None:
    """From now on every session, batch and swap of this process is marked."""
    _plant_batches(marks)
    _plant_swaps(marks)
    opened = Opening.opened

    def opening(self: Opening, step: Step, wanted: Wanted) -> OpenSet:
        marks.add("opening", engines=step.key)
        found = opened(self, step, wanted)
        marks.add("opened", engines=step.key)
        return found

    Opening.opened = opening  # type: ignore[method-assign]


def _plant_batches(marks: Marks) -> None:
    start, prompt = SwitchingEncoder.start, SwitchingPending.prompt

    def started(self: SwitchingEncoder, requests: Sequence[EncodeView]) -> PendingViews:
        marks.add("started", images=len(requests))
        return start(self, requests)

    def ended(self: SwitchingPending) -> Sequence[Answer]:
        answers = prompt(self)
        marks.add("ended", images=len(answers))
        return answers

    SwitchingEncoder.start = started  # type: ignore[method-assign]
    SwitchingPending.prompt = ended  # type: ignore[method-assign]


def _plant_swaps(marks: Marks) -> None:
    between = SwitchingEncoder.between_batches

    def between_batches(self: SwitchingEncoder, *, idle: bool) -> None:
        before, began_s = self.lineup, time.monotonic()
        between(self, idle=idle)
        if self.lineup is not before:
            marks.add("swapped", engines=self.lineup.serving.step.key, took_s=time.monotonic() - began_s)

    SwitchingEncoder.between_batches = between_batches  # type: ignore[method-assign]


def main() -> None:
    plant(Marks(Path(os.environ["MARKS"])))
    run_worker(load_settings())


if __name__ == "__main__":
    main()
