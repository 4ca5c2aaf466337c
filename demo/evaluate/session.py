"""What every command of the evaluation does: photographs, a worker's verdicts on them, and a plain end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from demo.evaluate.jobs import Case
from demo.evaluate.outcomes import Outcome, outcomes
from demo.evaluate.photographs import render_all
from demo.evaluate.plan import Plan
from demo.evaluate.run import Unanswered, judged, profiles
from devstack import Devstack, DevstackError
from worker.errors import AssayError
from worker.observe import configure_logs

ROOT = Path(__file__).resolve().parents[2]
WIDTH = 140


def ended(run: Callable[[Console], int]) -> int:
    """The exit code of a command, whose expected errors are one line."""
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    configure_logs(level="warning", form="console")
    try:
        return run(console)
    except KeyboardInterrupt:
        console.print("stopped; photographs that are done stay in the cache")
        return 130
    except (AssayError, DevstackError, Unanswered) as error:
        console.print(f"[bold red]evaluate:[/] {error}", highlight=False)
        return 2


def photographs(plan: Plan, console: Console) -> Path:
    """The folder that holds all of the plan's, rendered where they are missing."""
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("rendering, SKU by SKU", total=None)
        return render_all(plan, progress=lambda done, of: progress.update(task, completed=done, total=of))


def outcomes_of(plan: Plan, cases: Sequence[Case], folder: Path, console: Console) -> list[Outcome]:
    """Services and a worker of their own, with the plan's references enrolled, judge the cases. Raises Unanswered."""
    stack = Devstack(ROOT / ".demo" / "evaluation", report=lambda line: console.print(line, highlight=False))
    with stack.session() as addresses:
        found = judged(cases, plan.references, folder, addresses, console)
    return outcomes(found, profiles())
