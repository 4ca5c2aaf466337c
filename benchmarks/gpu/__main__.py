"""`python -m benchmarks.gpu SECTION...`: what the GPU path reaches.

Each section runs in a process of its own, writes `OUT/SECTION.json` after every step, and is ended when its time is up:
what it measured stays, and the next goes on. At the end all records of this source and host become one table,
`OUT/gpu.json` and plots. `--dry` runs every section's plumbing on a CPU, in small; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from benchmarks.gpu.machine import facts, gpus
from benchmarks.gpu.record import Section
from benchmarks.gpu.report import merge
from benchmarks.host import ROOT

OUT: Final = ROOT / "benchmarks" / "out" / "gpu"
GRACE_S: Final = 30.0  # of a section, beyond its time, to write what it has


def _engines(family: str, dry: str) -> Callable[[Section], None]:
    def run(section: Section) -> None:
        from benchmarks.gpu.engine_race import engines_section

        engines_section(section, dry if section.dry else family)

    return run


def _decode(section: Section) -> None:
    from benchmarks.gpu.decoding import decode_section

    decode_section(section)


def _e2e(section: Section) -> None:
    from benchmarks.gpu.end_to_end import e2e_section

    e2e_section(section)


def _e2e_vit(section: Section) -> None:
    from benchmarks.gpu.end_to_end import e2e_vit_section

    e2e_vit_section(section)


def _e2e_demo(section: Section) -> None:
    from benchmarks.gpu.end_to_end import e2e_demo_section

    e2e_demo_section(section)


def _latency(section: Section) -> None:
    from benchmarks.gpu.latency import latency_section

    latency_section(section)


def _accuracy(section: Section) -> None:
    from benchmarks.gpu.accuracy import accuracy_section

    accuracy_section(section)


def _gallery(section: Section) -> None:
    from benchmarks.gpu.gallery import gallery_section

    gallery_section(section)


def _transactions(section: Section) -> None:
    from benchmarks.gpu.exactly_once import transactions_section

    transactions_section(section)


def _engine_life(section: Section) -> None:
    from benchmarks.gpu.engine_life import engine_life_section

    engine_life_section(section)


def _gpus(section: Section) -> None:
    from benchmarks.gpu.scaling import gpus_section

    gpus_section(section)


# the order is that of their worth; seconds are what a section may take unless --budget says else, below ten minutes
SECTIONS: Final[dict[str, tuple[float, Callable[[Section], None]]]] = {
    "engines-resnet50": (420.0, _engines("resnet50", "tiny_resnet")),
    "e2e": (555.0, _e2e),
    "decode": (120.0, _decode),
    "engines-vit": (400.0, _engines("vit_b16", "tiny_vit")),
    "latency": (280.0, _latency),
    "e2e-vit": (280.0, _e2e_vit),
    "gallery": (120.0, _gallery),
    "transactions": (120.0, _transactions),
    "accuracy": (460.0, _accuracy),
    "engine-life": (565.0, _engine_life),
    "e2e-demo": (180.0, _e2e_demo),
    "gpus": (300.0, _gpus),
}
SEVERAL: Final = ("gpus",)  # not among `all`: they need several GPUs


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; none: all")
    parser.add_argument("--budget", type=float, default=0.0, help="seconds a section may take; 0: its own")
    parser.add_argument("--total", type=float, default=0.0, help="seconds for all sections together; 0: no limit")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--dry", action="store_true", help="small, on a CPU: is everything wired?")
    parser.add_argument("--merge", action="store_true", help="measure nothing; put together what lies in OUT")
    parser.add_argument("--brief", action="store_true", help="a line a goal instead of the table")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if unknown := set(given.sections) - SECTIONS.keys():
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    if given.inside:
        return _inside(given)
    if given.merge:
        return merge(given.out, brief=given.brief)
    until = time.monotonic() + given.total if given.total else float("inf")
    for name in given.sections or [n for n in SECTIONS if n not in SEVERAL]:
        _apart(name, given, until - time.monotonic())
    return merge(given.out, brief=given.brief)


def _apart(name: str, given: argparse.Namespace, left_s: float) -> None:
    """One section as a process of its own."""
    budget_s = min(given.budget or SECTIONS[name][0], left_s - GRACE_S)
    if budget_s < GRACE_S:
        print(f"#### {name}: no time left", flush=True)
        return
    print(f"#### {name}: {budget_s:.0f} s at most", flush=True)
    options = ["--inside", "--budget", f"{budget_s:.0f}", "--out", str(given.out), *(["--dry"] if given.dry else [])]
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.gpu", name, *options])
    try:
        code = process.wait(budget_s)
        told = "done" if code == 0 else f"ENDED WITH {code}"
    except subprocess.TimeoutExpired:
        process.terminate()  # so that it stops the services and workers that it started
        told = "its time was up"
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            told = "its time was up, and it had to be killed"
    print(f"#### {name}: {told} after {time.monotonic() - began:.0f} s", flush=True)


def _time_is_up(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt("the section's time is up")


def _inside(given: argparse.Namespace) -> int:
    signal.signal(signal.SIGTERM, _time_is_up)
    (name,) = given.sections
    section = Section(name, given.out, budget_s=given.budget, dry=given.dry)
    section.fact("environment", facts())
    try:
        SECTIONS[name][1](section)
    finally:
        section.fact("GPUs after", gpus())
    return 0


if __name__ == "__main__":
    sys.exit(main())
