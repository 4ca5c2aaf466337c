"""`python -m tests.chaos quick|full`: a chaos run, its summary, its verdict as JSON; ends with 1 on any violation."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from devstack import Devstack
from tests.chaos.closing import close, told, too_little
from tests.chaos.run import Run, run
from tests.chaos.schedule import FULL, QUICK, SMOKE, Size
from worker.observe import configure_logs

ROOT = Path(__file__).resolve().parents[2]
OUT = Path(__file__).resolve().parent / "out"
SIZES = {"smoke": SMOKE, "quick": QUICK, "full": FULL}


def main(argv: Sequence[str] | None = None) -> int:
    given = _arguments(argv)
    configure_logs(level="error", form="console")
    shutil.rmtree(given.out, ignore_errors=True)
    given.out.mkdir(parents=True)
    stack = Devstack(given.stack)
    stack.reset()
    try:
        return _run(given, stack)
    finally:
        stack.down()


def _run(given: argparse.Namespace, stack: Devstack) -> int:
    began_s = time.monotonic()

    def say(line: str) -> None:
        sys.stdout.write(f"[{time.monotonic() - began_s:6.1f} s] {line}\n")
        sys.stdout.flush()

    made = run(_size(given), seed=given.seed, folder=given.out, stack=stack, say=say)
    say("reading everything back")
    verdict = close(made)
    made.faults += too_little(made, verdict)
    document = {**verdict.document, "held": verdict.held and not made.faults, "run": told(made)}
    text = json.dumps(document, indent=1)
    (given.out / "verdict.json").write_text(text + "\n")
    say(text)
    _keep_or_drop(given.out, made, failed=not document["held"])
    return 0 if document["held"] else 1


def _keep_or_drop(out: Path, made: Run, *, failed: bool) -> None:
    """The workers' logs are of use where something went wrong."""
    (out / "schedule.json").write_text(json.dumps([asdict(event) for event in made.events], indent=0) + "\n")
    shutil.rmtree(out / "stand", ignore_errors=True)
    if not failed:
        shutil.rmtree(out / "workers", ignore_errors=True)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("size", choices=sorted(SIZES))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=0, help="instead of the size's own number")
    parser.add_argument("--minutes", type=float, default=0.0, help="how long the schedule goes on")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--stack", type=Path, default=ROOT / ".devstack" / "chaos")
    return parser.parse_args(argv)


def _size(given: argparse.Namespace) -> Size:
    size = SIZES[given.size]
    duration_s = given.minutes * 60.0 or size.duration_s
    jobs = given.jobs or size.jobs
    return replace(size, jobs=jobs, duration_s=duration_s, rate_s=max(1.0, jobs / duration_s) * 1.02)


if __name__ == "__main__":
    sys.exit(main())
