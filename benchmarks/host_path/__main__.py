"""`python -m benchmarks.host_path`: what a job costs on the host beside a GPU, without one.

The real worker between real Kafka and PostgreSQL; the device's libraries are hollow (hollow.py here), so
that Python is all that binds. Six JPEGs of 1,024 px and 160 KB a job, by URI. py-spy tells who holds the lock.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks.command import ended, services
from benchmarks.gpu.loading import Heard, read
from benchmarks.gpu.serving import Deployed, Load
from benchmarks.held import Sampler, thread_cpu_s, thread_names
from benchmarks.host import ROOT, host_facts
from benchmarks.host_path.answers import Likeness
from benchmarks.host_path.deployment import deployed, drawn_load
from benchmarks.host_path.worker import LIKENESS
from demo.stand import WorkerProcess
from worker.adapters.kafka_follower import KafkaFollower

FOLDER: Final = ROOT / ".cache" / "bench"
PILOT_JOBS: Final = 1000
RAMP_JOBS: Final = 100
STEP_JOBS: Final = 10
TOP: Final = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one run. Rates are jobs a second while nothing was sampled; `cpu_us` is the worker's CPU time a job in
    microseconds by thread, `held_us` the time a job that any thread holds the lock: on a busy machine it holds it
    while it waits for a core."""

    likeness: str
    jobs_per_s: float
    cpu_us: dict[str, float]
    held_us: float
    held_by_thread: dict[str, float]
    held_by_function: dict[str, float]
    verdicts: dict[str, int]
    reasons: dict[str, int]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.host_path", description=__doc__)
    parser.add_argument("--seconds", type=int, default=10, help="of each of the two measurements")
    parser.add_argument("--likeness", choices=("near", "far"), nargs="*", default=["near", "far"])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "out" / "host_path.json")
    given = parser.parse_args()
    return ended("host_path", lambda console: _measured(console, given), width=140)


def _measured(console: Console, given: argparse.Namespace) -> int:
    with services(FOLDER / "host-stack", console) as addresses:
        photographs = FOLDER / "host" / "photographs"
        load, place = drawn_load(photographs), deployed(addresses, FOLDER / "host", photographs)
        costs = [_cost(place, load, likeness, given.seconds) for likeness in given.likeness]
    for cost in costs:
        _show(console, cost)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    told = {cost.likeness: {name: getattr(cost, name) for name in Cost.__slots__} for cost in costs}
    given.out.write_text(json.dumps({**told, "host": host_facts()}, indent=1) + "\n")
    return 0


def _cost(place: Deployed, load: Load, likeness: Likeness, seconds: int) -> Cost:
    """Raises RunFailed."""
    kafka = place.settings.kafka
    with KafkaFollower(kafka.client_config(), [kafka.topics.results, kafka.topics.dlq]) as follower:
        environment = {**place.stand.environment, LIKENESS: likeness, "ASSAY_KAFKA__INSTANCE": "bench-0"}
        log = place.stand.folder / f"{likeness}.log"
        worker = WorkerProcess.start(environment, log, ("-m", "benchmarks.host_path.worker"))
        try:
            return _watched(place, load, worker, Heard([worker], follower), likeness, seconds)
        finally:
            worker.stop()


def _watched(place: Deployed, load: Load, worker: WorkerProcess, heard: Heard, likeness: str, seconds: int) -> Cost:
    """A pilot tells how many jobs have to lie in the topic."""
    name = f"{likeness}-{time.time_ns()}"
    place.fill(load, PILOT_JOBS, f"{name}-pilot")
    began_s = heard.until(PILOT_JOBS // 2)
    pilot = PILOT_JOBS / 2 / (heard.until(PILOT_JOBS) - began_s)
    jobs = PILOT_JOBS + RAMP_JOBS + int(pilot * 3 * seconds)
    place.fill(load, jobs - PILOT_JOBS, name)
    heard.until(PILOT_JOBS + RAMP_JOBS)
    plain, cpu = _rated(worker, heard, seconds)
    sampler = Sampler(worker.process.pid, worker.log.with_suffix(".gil"), seconds)
    sampled, _ = _rated(worker, heard, seconds)
    held = sampler.result()
    heard.until(jobs)
    verdicts, reasons = read(heard.kept)
    return Cost(
        likeness=likeness,
        jobs_per_s=plain,
        cpu_us=_us_a_job(cpu, plain),
        held_us=held.share / sampled * 1e6,
        held_by_thread=_us_a_job(held.by_thread(), sampled),
        held_by_function=dict(list(_us_a_job(held.by_function(), sampled).items())[:TOP]),
        verdicts=verdicts,
        reasons=reasons,
    )


def _rated(worker: WorkerProcess, heard: Heard, seconds: float) -> tuple[float, dict[str, float]]:
    """Jobs a second for some seconds, and CPU seconds a second by thread. Raises RunFailed."""
    pid = worker.process.pid
    names = thread_names(pid)
    first, began_s, before = heard.count, time.monotonic(), thread_cpu_s(pid, names)
    while time.monotonic() - began_s < seconds:
        heard.until(heard.count + STEP_JOBS)
    took_s, after = time.monotonic() - began_s, thread_cpu_s(pid, names)
    return (heard.count - first) / took_s, {name: (after[name] - before[name]) / took_s for name in after}


def _us_a_job(shares: Mapping[str, float], rate: float) -> dict[str, float]:
    """From shares of the time, the largest first."""
    ranked = sorted(shares.items(), key=lambda pair: -pair[1])
    return {name: round(share / rate * 1e6, 1) for name, share in ranked}


def _show(console: Console, cost: Cost) -> None:
    console.print(
        f"{cost.likeness}: {cost.jobs_per_s:.0f} jobs/s; a job takes {sum(cost.cpu_us.values()):.0f} us of the "
        f"worker's CPU time, and the lock is held for {cost.held_us:.0f} us; {cost.verdicts}"
    )
    for title, spent in (
        ("CPU time, by thread", cost.cpu_us),
        ("holding the lock, by thread", cost.held_by_thread),
        ("holding the lock, by function", cost.held_by_function),
    ):
        table = Table("us a job", title)
        for name, us in spent.items():
            table.add_row(f"{us:.0f}", name)
        console.print(table)


if __name__ == "__main__":
    sys.exit(main())
