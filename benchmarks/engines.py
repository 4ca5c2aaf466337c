"""`python -m benchmarks.engines`: what swapping engines costs a worker on this machine's cores, and how long it starts.

A worker answers a full topic with both demo encoders. Quiet times and times in which one engine after another is
promoted take turns; each is a graph of its own, which the worker verifies, compiles, warms and tests in the background.
Then workers with kept plans start, each with one job that waits.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from statistics import mean, median
from time import monotonic, sleep

import psutil
from rich.console import Console

from benchmarks import findings
from benchmarks.command import ended, services
from benchmarks.deployment import Deployment, deploy, preload
from benchmarks.engine_versions import Versions, versions
from benchmarks.findings import Finding
from benchmarks.goods import Goods, goods
from benchmarks.host import ROOT, host_facts
from benchmarks.swap_marks import (
    Mark,
    Swap,
    Window,
    images_in,
    marks_of,
    opening_times,
    percentile,
    swaps,
    usual_waits_s,
)
from benchmarks.watching import processor_s
from benchmarks.worker_run import RunFailed, verdict_of
from demo.stand import WorkerProcess
from worker.adapters.engine_control import ring
from worker.adapters.kafka_follower import KafkaFollower

OUT = ROOT / "benchmarks" / "out" / "engines.json"
FOLDER = ROOT / ".cache" / "bench-engines"
NAME = "resnet18"  # the encoder that is swapped
GAP_GOAL_MS, LOAD_GOAL, START_GOAL_S = 50.0, 0.10, 2.0
RAMP_JOBS = 32
WITHIN_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapRun:
    """`quiet` and `busy` are images a second; `opening_s` and `swaps` one a swap; `lost` of the `jobs`."""

    jobs: int
    lost: int
    quiet: list[float]
    busy: list[float]
    opening_s: list[float]
    opening_share: float  # of the busy times, in which engines were opened
    swaps: list[Swap]
    usual_wait_s: float  # of 100 batches 99 end sooner after the one before, while nothing is swapped


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Seconds from the start of the process."""

    processor_s: float  # processor time, until:
    warm_s: float  # engines loaded and tested, everything composed
    ready_s: float  # owns its partitions
    verdict_s: float  # a reader sees the first verdict


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engines", description=__doc__)
    parser.add_argument("--swaps", type=int, default=24, help="in four busy times; the goal asks for 20 at least")
    parser.add_argument("--quiet-s", type=float, default=12.0, help="length of each of the five quiet times")
    parser.add_argument("--jobs", type=int, default=2400, help="that lie in the topic; more than the worker answers")
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the services' data and the registry lie")
    given = parser.parse_args(argv)
    return ended("engines", lambda console: _measured(console, given))


def _measured(console: Console, given: argparse.Namespace) -> int:
    facts: dict[str, object] = {"environment": host_facts()}
    shutil.rmtree(given.folder, ignore_errors=True)
    with services(given.folder / "stack", console) as addresses:
        found = goods(console)
        deployment = deploy(addresses, given.folder, found, console)
        with versions(deployment.stand.curator_url, given.folder / "engines") as made:
            ids = _published(deployment, made, given.swaps + 1)
            console.print(f"filling the topic with {given.jobs} jobs")
            sent = preload(deployment, found, given.jobs)
            bench = Bench(deployment=deployment, versions=made, console=console)
            run = bench.swapped(ids, sent, given.quiet_s)
            bench.start(0, found)  # compiles what was thrown away for newer plans, and is not counted
            starts = [bench.start(number, found) for number in range(1, given.starts + 1)]
    made_findings = _findings(run, starts)
    console.print(findings.table(made_findings))
    facts |= {"run": asdict(run), "starts": [asdict(one) for one in starts], "jobs": given.jobs}
    findings.write(OUT, made_findings, facts)
    console.print(f"written: {OUT}", highlight=False)
    return 0


def _published(deployment: Deployment, made: Versions, count: int) -> list[str]:
    """Ids of the versions of the swapped encoder; the first one, and the other encoders, are current."""
    for name in deployment.settings.engines.names:
        if name != NAME:
            made.move("promote", name, made.publish(deployment.models.engine(name), 1))
    engine = deployment.models.engine(NAME)
    ids = [made.publish(engine, version) for version in range(1, count + 1)]
    made.move("promote", NAME, ids[0])
    return ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    deployment: Deployment
    versions: Versions
    console: Console

    @property
    def environment(self) -> dict[str, str]:
        plain = self.deployment.stand.environment
        own = {name: value for name, value in plain.items() if name != "ASSAY_ENGINES__MODELS_DIR"}
        # as where it was installed: modules are compiled once, at a start that is not timed
        bytecode = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(self.versions.folder / "bytecode")}
        return {**own, **self.versions.settings, **bytecode, "ASSAY_KAFKA__STATIC_MEMBERSHIP": "true"}

    def swapped(self, ids: Sequence[str], sent: Sequence[str], quiet_s: float) -> SwapRun:
        """One worker through quiet and busy times, and to its last job. Raises RunFailed."""
        marks_at = self.versions.folder / "marks.jsonl"
        environment = {**self.environment, "ASSAY_KAFKA__INSTANCE": "bench-swaps", "MARKS": str(marks_at)}
        kafka = self.deployment.settings.kafka
        with KafkaFollower(kafka.client_config(), [kafka.topics.results, kafka.topics.dlq]) as follower:
            log = self.versions.folder / "swaps.log"
            worker = WorkerProcess.start(environment, log, ("-m", "benchmarks.marked_worker"))
            try:
                answered = _answers(worker, follower, RAMP_JOBS)
                quiet, busy = self._turns(worker, marks_at, ids[1:], quiet_s)
                answered += _answers(worker, follower, len(sent) - len(answered))
            finally:
                worker.stop()
        if worker.process.returncode != 0:
            raise RunFailed(f"the worker ended with {worker.process.returncode}:\n{worker.log_tail()}")
        if len(set(answered)) != len(answered):
            raise RunFailed("a job was answered twice")
        lost = len(set(sent) - set(answered))
        return _run(_read(marks_at), quiet, busy, jobs=len(sent), lost=lost)

    def _turns(
        self, worker: WorkerProcess, marks_at: Path, ids: Sequence[str], quiet_s: float
    ) -> tuple[list[Window], list[Window]]:
        """Quiet and busy times in turn, the quiet ones first and last."""
        quiet, busy = [], []
        each = -(-len(ids) // 4)
        for begin in range(0, len(ids), each):
            quiet.append(_pause(quiet_s))
            from_s = monotonic()
            for engine_id in ids[begin : begin + each]:
                self._swap(worker, marks_at, engine_id)
            busy.append(Window(from_s=from_s, to_s=monotonic()))
            self.console.print(f"{begin + each} engines swapped in, {busy[-1].seconds:.1f} s")
        quiet.append(_pause(quiet_s))
        return quiet, busy

    def _swap(self, worker: WorkerProcess, marks_at: Path, engine_id: str) -> None:
        seen = marks_at.stat().st_size
        self.versions.move("promote", NAME, engine_id)
        kafka = self.deployment.settings.kafka
        ring(kafka.client_config(), kafka.topics.control, NAME)
        until = monotonic() + WITHIN_S
        wanted = f"{NAME}={engine_id[:12]}".encode()
        while not _swapped(marks_at, wanted, seen):
            if worker.process.poll() is not None or monotonic() > until:
                raise RunFailed(f"{engine_id[:12]} was not swapped in:\n{worker.log_tail()}")
            sleep(0.05)

    def start(self, number: int, found: Goods) -> Start:
        """A worker that finds its plans, and one job in the topic. Raises RunFailed."""
        kafka = self.deployment.settings.kafka
        sent = preload(self.deployment, found, 1, f"start{number}")
        with KafkaFollower(kafka.client_config(), [kafka.topics.results, kafka.topics.dlq]) as follower:
            began_s = monotonic()
            environment = {**self.environment, "ASSAY_KAFKA__INSTANCE": "bench-starts"}
            worker = WorkerProcess.start(environment, self.versions.folder / "starts.log")
            try:
                warm_s = _since(began_s, worker, lambda: bool(worker.health))
                spent_s = processor_s(psutil.Process(worker.process.pid))
                ready_s = _since(began_s, worker, lambda: _ready(worker))
                answered = _answers(worker, follower, 1)
                verdict_s = monotonic() - began_s
            finally:
                worker.stop()
        if answered != sent:
            raise RunFailed(f"{answered} was answered, and {sent} was sent")
        return Start(processor_s=spent_s, warm_s=warm_s, ready_s=ready_s, verdict_s=verdict_s)


def _swapped(marks_at: Path, engine: bytes, seen: int) -> bool:
    """Whether it is among the marks beyond the first `seen` bytes."""
    with marks_at.open("rb") as marks:
        marks.seek(seen)
        return any(engine in line for line in marks if b'"swapped"' in line)


def _since(began_s: float, worker: WorkerProcess, holds: Callable[[], bool]) -> float:
    """Seconds until `holds`. Raises RunFailed."""
    while not holds():
        if worker.process.poll() is not None or monotonic() - began_s > WITHIN_S:
            raise RunFailed(f"the worker did not start:\n{worker.log_tail()}")
        sleep(0.01)
    return monotonic() - began_s


def _ready(worker: WorkerProcess) -> bool:
    try:
        return bool(worker.get("/readyz"))
    except OSError:  # it says 503 so
        return False


def _answers(worker: WorkerProcess, follower: KafkaFollower, count: int) -> list[str]:
    """Job ids of the next `count` verdicts. Raises RunFailed."""
    found: list[str] = []
    until = monotonic() + WITHIN_S
    while len(found) < count:
        record = follower.poll(1.0)
        if record is not None:
            found.append(verdict_of(record).job_id)
            until = monotonic() + WITHIN_S
        elif worker.process.poll() is not None or monotonic() > until:
            raise RunFailed(f"{len(found)} of {count} jobs were answered:\n{worker.log_tail()}")
    return found


def _pause(seconds: float) -> Window:
    from_s = monotonic()
    sleep(seconds)
    return Window(from_s=from_s, to_s=monotonic())


def _run(marks: Sequence[Mark], quiet: Sequence[Window], busy: Sequence[Window], *, jobs: int, lost: int) -> SwapRun:
    last_s = max(mark.at_s for mark in marks if mark.kind == "ended")
    if last_s < quiet[-1].to_s:
        raise RunFailed(f"{jobs} jobs were answered before the last quiet time was over: give more --jobs")
    opening = [one.seconds for window in busy for one in opening_times(marks, window)]
    return SwapRun(
        jobs=jobs,
        lost=lost,
        quiet=[images_in(marks, window) / window.seconds for window in quiet],
        busy=[images_in(marks, window) / window.seconds for window in busy],
        opening_s=opening,
        opening_share=sum(opening) / sum(window.seconds for window in busy),
        swaps=[swap for window in busy for swap in swaps(marks, window)],
        usual_wait_s=percentile([wait for window in quiet for wait in usual_waits_s(marks, window)], 0.99),
    )


def _findings(run: SwapRun, starts: Sequence[Start]) -> list[Finding]:
    gaps, waits = [swap.gap_s for swap in run.swaps], [swap.wait_s for swap in run.swaps]
    lost_rate = 1.0 - mean(run.busy) / mean(run.quiet)
    work_s = lost_rate * mean(run.opening_s) / run.opening_share
    spent_s, warm_s, ready_s, verdict_s = (median(one) for one in zip(*map(astuple, starts), strict=True))
    found = [
        (
            "swap-gap",
            f"no batch under way at a swap, P99 of {len(gaps)}",
            1e3 * percentile(gaps, 0.99),
            GAP_GOAL_MS,
            "ms",
        ),
        ("swap-wait", "longest wait for a batch about a swap, P99", 1e3 * percentile(waits, 0.99), None, "ms"),
        ("usual-wait", "the same while nothing is swapped, P99", 1e3 * run.usual_wait_s, None, "ms"),
        ("swap-lost", f"jobs lost of {run.jobs}", float(run.lost), 0.0, ""),
        ("load", "throughput lost while engine after engine is loaded", lost_rate, LOAD_GOAL, ""),
        ("load-work", "the work that one loading keeps the worker from, of all cores", 1e3 * work_s, None, "ms"),
        ("load-time", "mean time to load, warm and test beside the jobs", 1e3 * mean(run.opening_s), None, "ms"),
        ("start-work", "processor time until the engines of a new process are warm", spent_s, None, "s"),
        ("start-warm", "from the start of the process until its engines are warm", warm_s, START_GOAL_S, "s"),
        ("start-ready", "the same until it is ready: owns its partitions", ready_s, START_GOAL_S, "s"),
        ("start-verdict", "the same to its first verdict, with its gallery to load", verdict_s, START_GOAL_S, "s"),
    ]
    return [
        Finding(id=name, measure=measure, value=value, goal=goal, better="lower", unit=unit)
        for name, measure, value, goal, unit in found
    ]


def _read(marks_at: Path) -> list[Mark]:
    return marks_of(json.loads(line) for line in marks_at.read_text().splitlines())


if __name__ == "__main__":
    sys.exit(main())
