"""`python -m benchmarks.hostile`: what one hostile job in ten does to the latency of good ones.

A real worker on real services, first at its most over jobs that lie in the topic, then under an open-loop Poisson load
of half of that: alone, with hostile jobs beside it, alone again. A delay runs from the moment at which a job was due to
be sent to the moment at which a read-committed reader has its verdict.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

import numpy as np
from rich.console import Console

from benchmarks import findings
from benchmarks.command import ended, services
from benchmarks.deployment import Deployment, deploy, preload
from benchmarks.findings import Finding
from benchmarks.goods import Goods, goods
from benchmarks.host import ROOT, host_facts
from benchmarks.hostile_jobs import hostile_photographs
from benchmarks.open_loop import Leg, Traffic, run_leg
from benchmarks.worker_run import run_worker

OUT = ROOT / "benchmarks" / "out" / "hostile.json"
FOLDER = ROOT / ".cache" / "bench"
COMMAND = "python -m benchmarks.hostile"
LOAD = 0.5  # of the worker's most
SHARE = 0.1  # of all jobs are hostile
GOAL_RISE, GOAL_DRIFT = 0.25, 0.25
PERCENTILES = (50, 95, 99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    most_per_s: float
    legs: Sequence[Leg]  # alone, hostile, alone, ...

    def delays_ms(self, *, hostile: bool) -> list[float]:
        return [delay for leg in self.legs if bool(leg.hostile) is hostile for delay in leg.delays_ms]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--seconds", type=float, default=180.0, help="length of each leg")
    parser.add_argument("--rounds", type=int, default=1, help="pairs of a hostile leg and one alone, after the first")
    parser.add_argument("--most-jobs", type=int, default=300, help="jobs that the worker's most is measured with")
    parser.add_argument("--rate", type=float, default=0.0, help="good jobs a second; 0: half of the worker's most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the services' data lie meanwhile")
    parser.add_argument("--document", type=Path, help="write the result there as a page of docs/measurements")
    given = parser.parse_args(argv)
    return ended("hostile", lambda console: _main(console, given))


def _main(console: Console, given: argparse.Namespace) -> int:
    found = goods(console)
    environment = {**host_facts(), **found.facts()}
    with services(given.folder / "stack", console) as addresses:
        deployment = deploy(addresses, given.folder, found, console)
        measured = _measured(deployment, found, given, console)
    made = conclusions(measured)
    console.print(findings.table(made))
    legs = [{**asdict(leg), "delays_ms": [round(delay, 1) for delay in leg.delays_ms]} for leg in measured.legs]
    findings.write(OUT, made, {"environment": environment, "most, jobs a second": measured.most_per_s, "legs": legs})
    console.print(f"written: {OUT}", highlight=False)
    if given.document is not None:
        given.document.write_text(page(measured, made, environment, " ".join(sys.argv[1:])), encoding="utf-8")
    return 0


def _measured(deployment: Deployment, found: Goods, given: argparse.Namespace, console: Console) -> Measured:
    photographs = hostile_photographs(found.blobs, given.seed)
    console.print(f"{len(photographs)} hostile photographs; measuring the worker's most", highlight=False)
    rate = given.rate
    most = rate / LOAD
    if not rate:
        preload(deployment, found, given.most_jobs)
        most = run_worker(deployment, given.most_jobs, console).jobs_per_second
        rate = most * LOAD
    traffic = Traffic(deployment=deployment, goods=found, photographs=photographs, good_per_s=rate, seed=given.seed)
    worker = deployment.stand.worker("bench-hostile")
    legs: list[Leg] = []
    try:
        worker.wait_ready()
        run_leg(traffic, "warm-up", 10.0, hostile_per_s=rate * SHARE / (1 - SHARE), number=0)
        for number, hostile in enumerate([False, *itertools.chain(*[(True, False)] * given.rounds)], start=1):
            beside = rate * SHARE / (1 - SHARE) if hostile else 0.0
            name = "with hostile jobs" if hostile else "alone"
            legs.append(run_leg(traffic, name, given.seconds, hostile_per_s=beside, number=number))
            console.print(line(legs[-1]), highlight=False)
    finally:
        worker.stop()
    return Measured(most_per_s=most, legs=legs)


def percentiles(delays_ms: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(np.percentile(delays_ms, which)) for which in PERCENTILES)


def line(leg: Leg) -> str:
    p50, p95, p99 = percentiles(leg.delays_ms)
    return f"{leg.name}: {len(leg.delays_ms)} good jobs, p50 {p50:.0f} ms, p95 {p95:.0f} ms, p99 {p99:.0f} ms"


def conclusions(measured: Measured) -> list[Finding]:
    alone, among = (percentiles(measured.delays_ms(hostile=hostile))[-1] for hostile in (False, True))
    rise = among / alone - 1
    quiet = [percentiles(leg.delays_ms)[-1] for leg in measured.legs if not leg.hostile]
    drift = (max(quiet) - min(quiet)) / mean(quiet)
    return [
        Finding(
            id="hostile-p99",
            measure="good jobs' p99 among 10 % hostile ones / alone, less 1",
            value=rise,
            goal=GOAL_RISE,
            better="lower",
            explained="" if rise <= GOAL_RISE else f"p99 {alone:.0f} ms alone, {among:.0f} ms among hostile jobs",
        ),
        Finding(
            id="hostile-drift",
            measure="p99 of the legs alone: difference / mean",
            value=drift,
            goal=GOAL_DRIFT,
            better="lower",
            explained="" if drift <= GOAL_DRIFT else "the machine was not steady: measure again on an idle one",
        ),
    ]


def page(measured: Measured, made: Sequence[Finding], environment: dict[str, object], arguments: str) -> str:
    """The result as Markdown: the command, the table, what ended how, the machine."""
    rows = []
    for leg in measured.legs:
        p50, p95, p99 = percentiles(leg.delays_ms)
        rows.append(
            f"| {leg.name} | {len(leg.delays_ms)} | {leg.hostile} | {p50:.0f} | {p95:.0f} | {p99:.0f} | {leg.moved} |"
        )
    ends = sum((Counter(leg.hostile_ended) for leg in measured.legs), Counter[str]())
    ended = ", ".join(f"{count} {how}" for how, count in sorted(ends.items()))
    goals = "\n".join(f"- {one.measure}: **{one.value:.2f}** (goal <= {one.goal:g}), met: {one.met}" for one in made)
    facts = "\n".join(f"- {name}: {value}" for name, value in environment.items())
    return (
        f"# Hostile load\n\n    {COMMAND} {arguments}\n\n{__doc__.split(chr(10), 2)[2].strip()}\n\n"
        f"The worker's most was {measured.most_per_s:.2f} jobs/s. Hostile jobs have one photograph each: bombs, slow\n"
        "decoders and mutants of `tests/fuzz`, a third each. Delays in ms, of good jobs alone.\n\n"
        "| leg | good jobs | hostile jobs | p50 | p95 | p99 | moved to the slow lane |\n|---|---|---|---|---|---|---|\n"
        + "\n".join(rows)
        + f"\n\n{goals}\n\nThe hostile jobs ended as: {ended}.\n\n## Environment\n\n{facts}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
