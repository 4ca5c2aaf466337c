"""`make bench`: the worker end to end against a plain loop on the cores of this machine, side by side in one run.

Order: loop, worker, loop; the services run idle through both loops, and the topic is full before the worker starts.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean

from rich.console import Console

from benchmarks import findings, stages, transactions
from benchmarks.command import ended, services
from benchmarks.deployment import Deployment, deploy, preload
from benchmarks.findings import Finding
from benchmarks.goods import Goods, goods
from benchmarks.host import ROOT, host_facts
from benchmarks.plain_loop import LoopRun, PlainLoop
from benchmarks.stages import StageRate, bound_jobs_per_second, stage_rates
from benchmarks.worker_run import WorkerRun, run_worker
from demo.float_twin import twin_bytes

OUT = ROOT / "benchmarks" / "out" / "cpu.json"
FOLDER = ROOT / ".cache" / "bench"
JOBS = 2000
TRANSACTION_JOBS = 4000
MEMORY_GOAL_MB = 1200.0
FLAT_GROWTH = 1.02  # last quarter of the jobs over the second; the first fills queues and caches
DRIFT_GOAL = 0.03
GOAL, STRETCH = 2.5, 3.2
MAP_BYTES_GOAL = 4096.0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--jobs", type=int, default=JOBS, help="jobs through the worker; the memory goal asks for 2000")
    parser.add_argument("--loop-jobs", type=int, default=0, help="jobs through each plain loop; 0: every distinct one")
    parser.add_argument("--transaction-jobs", type=int, default=TRANSACTION_JOBS, help="jobs a turn of G15, of four")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the services' data lie meanwhile")
    given = parser.parse_args(argv)
    return ended("bench", lambda console: _measured(console, given))


def _measured(console: Console, given: argparse.Namespace) -> int:
    folder, jobs, loop_jobs = given.folder, given.jobs, given.loop_jobs
    found = goods(console)
    facts: dict[str, object] = {"environment": {**host_facts(), **found.facts()}}
    with services(folder / "stack", console) as addresses:
        deployment = deploy(addresses, folder, found, console)
        console.print(f"filling the topic with {jobs} jobs")
        preload(deployment, found, jobs)
        loops = [_plain_loop(deployment, found, loop_jobs, console)]
        run = run_worker(deployment, jobs, console)
        console.print(f"worker: {run.jobs_per_second:.2f} jobs/s")
        loops.append(_plain_loop(deployment, found, loop_jobs, console))
        rates = stage_rates(deployment, found)
        turns = transactions.transaction_cost(addresses, folder, console, jobs=given.transaction_jobs)
    made = [*_findings(run, loops, rates), transactions.finding(turns)]
    facts |= {"run": _run_facts(deployment, run, loops, rates), "stages": [asdict(rate) for rate in rates]}
    facts["transactions in turn"] = [asdict(turn) for turn in turns]
    console.print(_summary(run, loops, rates), highlight=False)
    console.print(stages.table(rates))
    console.print(findings.table(made))
    findings.write(OUT, made, facts)
    console.print(f"written: {OUT}", highlight=False)
    return 0


def _plain_loop(deployment: Deployment, goods: Goods, limit: int, console: Console) -> LoopRun:
    """The first job warms up and is not timed."""
    settings = deployment.settings.engines
    graphs = {name: twin_bytes(deployment.models.engine(name).model) for name in settings.names}
    item = goods.items[0]
    loop = PlainLoop(graphs, {view: settings.encoder_for(item.category, view) for view in item.views}, threads=2)
    loop.run(goods.views[0])
    ran = loop.run_all(goods.views[: limit or None])
    console.print(f"plain loop: {ran.jobs_per_second:.2f} jobs/s")
    return ran


def _findings(run: WorkerRun, loops: Sequence[LoopRun], rates: Sequence[StageRate]) -> list[Finding]:
    ratio, drift = run.jobs_per_second / _rate(loops), _drift(loops)
    speed = Finding(
        id="G21",
        measure="worker end to end / plain loop",
        value=ratio,
        goal=GOAL,
        stretch=STRETCH,
        unit="x",
        explained="" if ratio >= STRETCH else _what_binds(run, rates),
    )
    steady = Finding(
        id="G21-drift",
        measure="plain loop, before and after: difference / mean",
        value=drift,
        goal=DRIFT_GOAL,
        better="lower",
        explained="" if drift <= DRIFT_GOAL else "something else used the processor: measure again on an idle machine",
    )
    unmeasured = Finding(id="G18", measure="maps on / off", value=None, explained="the worker has no switch for it")
    return [speed, steady, *_memory_findings(run), _map_finding(run), unmeasured]


def _memory_findings(run: WorkerRun) -> list[Finding]:
    memory = run.memory
    growth = memory.last_quarter / memory.second_quarter
    return [
        Finding(
            id="memory-peak",
            measure=f"worker's resident memory, most over {run.jobs} jobs",
            value=memory.peak,
            goal=MEMORY_GOAL_MB,
            better="lower",
            unit="MB",
        ),
        Finding(
            id="memory-growth",
            measure="the same: mean over the last quarter of the jobs / over the second",
            value=growth,
            goal=FLAT_GROWTH,
            better="lower",
            explained=""
            if growth <= FLAT_GROWTH
            else f"over the last half alone {memory.late_mb_per_1000_jobs:+.1f} MB per 1000 jobs; see `course`",
        ),
    ]


def _map_finding(run: WorkerRun) -> Finding:
    return Finding(
        id="G18-bytes",
        measure="attention and deviation map together, most bytes a view",
        value=float(run.map_bytes[1]),
        goal=MAP_BYTES_GOAL,
        better="lower",
        unit="B",
    )


def _drift(loops: Sequence[LoopRun]) -> float:
    rates = [loop.jobs_per_second for loop in loops]
    return (max(rates) - min(rates)) / mean(rates)


def _rate(loops: Sequence[LoopRun]) -> float:
    return mean(loop.jobs_per_second for loop in loops)


def _summary(run: WorkerRun, loops: Sequence[LoopRun], rates: Sequence[StageRate]) -> str:
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(run.verdicts.items()))
    memory = run.memory
    return "\n".join(
        (
            f"jobs/s: plain loop {loops[0].jobs_per_second:.2f}, worker {run.jobs_per_second:.2f}, plain loop again "
            f"{loops[1].jobs_per_second:.2f}; the worker's verdicts: {verdicts}",
            f"worker: {_what_binds(run, rates)}",
            f"processor time a job: plain loop {mean(loop.cpu_ms for loop in loops):.0f} ms, worker "
            f"{run.worker_cpu_ms:.0f} ms, whole machine while the worker ran {run.machine_cpu_ms:.0f} ms",
            f"memory by quarters: {memory.first_quarter:.0f}, {memory.second_quarter:.0f}, ..., "
            f"{memory.last_quarter:.0f} MB; {memory.mb_per_1000_jobs:+.1f} MB per 1000 jobs from the second on",
        )
    )


def _what_binds(run: WorkerRun, rates: Sequence[StageRate]) -> str:
    cores = len(os.sched_getaffinity(0))
    used = run.jobs_per_second * run.machine_cpu_ms / 1e3 / cores
    costs = sorted((rate for rate in rates if not rate.within), key=lambda rate: -rate.machine_ms)
    named = ", ".join(f"{rate.stage} {rate.machine_ms:.0f} ms" for rate in costs[:3])
    bound = bound_jobs_per_second(rates)
    return (
        f"processor time: {used:.0%} of {cores} cores busy; a job costs {named}; stages alone allow {bound:.1f} jobs/s"
    )


def _run_facts(
    deployment: Deployment, run: WorkerRun, loops: Sequence[LoopRun], rates: Sequence[StageRate]
) -> Mapping[str, object]:
    names = deployment.settings.engines.names
    own = {name: value for name, value in asdict(run).items() if name != "metrics"}
    return {
        **own,
        "plain loops": [asdict(loop) for loop in loops],
        "stages allow, jobs a second": bound_jobs_per_second(rates),
        "trained encoders": deployment.models.trained,
        "engines": {name: deployment.models.engine(name).manifest.onnx_sha256 for name in names},
    }


if __name__ == "__main__":
    sys.exit(main())
