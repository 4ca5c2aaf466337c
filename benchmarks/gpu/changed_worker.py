"""`python -m benchmarks.gpu.changed_worker CHANGE`: the worker with one thing changed that no setting changes, to tell
what that thing costs or is worth. `cpu-decode`: the CPU decodes, on a GPU. `no-maps`: maps have one cell each."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Final

from engines.gpu.opened import Gpu
from schemas.verdict import Grid
from worker.app import run_worker
from worker.core import explanation
from worker.settings import load_settings

BLANK: Final = Grid(height=1, width=1, cells=b"\0")


def cpu_decode() -> None:
    Gpu.decodes = lambda self: False  # type: ignore[method-assign]


def no_maps() -> None:
    def blank(maps: Sequence[Any], _scaled: object) -> list[Grid]:
        return [BLANK] * len(maps)

    explanation._grids = blank  # type: ignore[assignment]  # noqa: SLF001 (looks inside on purpose)


CHANGES: Final = {"cpu-decode": cpu_decode, "no-maps": no_maps}


def main() -> None:
    CHANGES[sys.argv[1]]()
    run_worker(load_settings())


if __name__ == "__main__":
    main()
