"""What the benchmarks that run as commands share: how they begin, and how they end without what they need."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from benchmarks.worker_run import RunFailed
from demo.stand import CommandFailed
from devstack import Addresses, Devstack, DevstackError
from worker.errors import AssayError
from worker.observe import configure_logs


def ended(name: str, measured: Callable[[Console], int], *, width: int = 120) -> int:
    """The exit code of `measured`; 2 and one line, without a stack trace, where a service, a command or the worker
    failed. `width`: characters, where nobody looks at a terminal."""
    console = Console(width=None if sys.stdout.isatty() else width)
    configure_logs(level="warning", form="console")
    try:
        return measured(console)
    except (AssayError, CommandFailed, DevstackError, RunFailed) as error:
        console.print(f"{name}: {error}", style="red", highlight=False, markup=False)
        return 2


@contextmanager
def services(folder: Path, console: Console) -> Iterator[Addresses]:
    """Services whose data lie in `folder`, and go after a run that succeeded."""
    stack = Devstack(folder, report=lambda line: console.print(line, highlight=False))
    with stack.session() as addresses:
        yield addresses
    stack.reset()
