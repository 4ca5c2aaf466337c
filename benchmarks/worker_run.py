"""One worker process from a full topic to the last verdict, watched from outside."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from time import monotonic

import psutil
from rich.console import Console
from rich.progress import Progress

from benchmarks.deployment import Deployment
from benchmarks.watching import MemoryUse, MemoryWatch, machine_busy_s, processor_s
from demo.stand import WorkerProcess
from schemas.codec import decode_verdict
from schemas.codes import ReasonCode
from schemas.message import InputRecord
from schemas.verdict import Grid, VerdictEvent
from worker.adapters.kafka_follower import KafkaFollower

RAMP_JOBS = 64  # answered before the clock starts: connections, caches and the first batches are warm by then
SILENCE_S = 120.0


class RunFailed(Exception):
    """The worker did not answer every job with a verdict; the message says what came instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRun:
    """Rates are jobs a second over the timed jobs; processor times are milliseconds a job."""

    jobs: int
    timed_jobs: int
    jobs_per_second: float
    worker_cpu_ms: float
    machine_cpu_ms: float
    memory: MemoryUse
    verdicts: dict[str, int]
    reasons: dict[str, int]
    map_bytes: tuple[int, int]  # least and most a view
    metrics: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A moment of the run."""

    time_s: float
    worker_s: float
    machine_s: float

    @classmethod
    def now(cls, process: psutil.Process) -> Mark:
        return cls(time_s=monotonic(), worker_s=processor_s(process), machine_s=machine_busy_s())


def run_worker(deployment: Deployment, jobs: int, console: Console) -> WorkerRun:
    """Start a worker on the preloaded topic and wait for `jobs` verdicts. Raises RunFailed."""
    kafka = deployment.settings.kafka
    with KafkaFollower(kafka.client_config(), [kafka.topics.results, kafka.topics.dlq]) as follower:
        worker = deployment.stand.worker("bench-0")
        try:
            return _watched(worker, follower, jobs, console)
        finally:
            worker.stop()


def _watched(worker: WorkerProcess, follower: KafkaFollower, jobs: int, console: Console) -> WorkerRun:
    process = psutil.Process(worker.process.pid)
    answers: list[InputRecord] = []
    with MemoryWatch(process.pid, lambda: len(answers)) as memory, Progress(console=console, transient=True) as bar:
        task = bar.add_task("worker: jobs answered", total=jobs)
        first = _collect(worker, follower, answers, min(RAMP_JOBS, jobs // 2), process)
        timed_from = len(answers)
        while len(answers) < jobs:
            last = _collect(worker, follower, answers, min(len(answers) + 50, jobs), process)
            bar.update(task, completed=len(answers))
    metrics = worker.get("/metrics")
    return _summary(answers, timed_from, first, last, memory.use(), metrics)


def _collect(
    worker: WorkerProcess, follower: KafkaFollower, answers: list[InputRecord], until: int, process: psutil.Process
) -> Mark:
    """Take answers until there are `until`; the records are read later, so that this process stays idle."""
    silent_since = monotonic()
    while len(answers) < until:
        record = follower.poll(1.0)
        if record is not None:
            answers.append(record)
            silent_since = monotonic()
        elif worker.process.poll() is not None or monotonic() - silent_since > SILENCE_S:
            raise RunFailed(f"{len(answers)} of {until} jobs were answered:\n{worker.log_tail()}")
    return Mark.now(process)


def _summary(
    answers: list[InputRecord], timed_from: int, first: Mark, last: Mark, memory: MemoryUse, metrics: str
) -> WorkerRun:
    timed = len(answers) - timed_from
    events = [verdict_of(record) for record in answers]
    if len({event.job_id for event in events}) != len(answers):
        raise RunFailed("a job was answered twice")
    if all(_without_calibration(event) for event in events):
        raise RunFailed("no job reached the decision: the score calibration is not of the engines that ran")
    maps = [_map_bytes(view.attention, view.deviation_map) for event in events for view in event.views]
    return WorkerRun(
        jobs=len(answers),
        timed_jobs=timed,
        jobs_per_second=timed / (last.time_s - first.time_s),
        worker_cpu_ms=(last.worker_s - first.worker_s) / timed * 1e3,
        machine_cpu_ms=(last.machine_s - first.machine_s) / timed * 1e3,
        memory=memory,
        verdicts=dict(Counter(str(event.verdict) for event in events)),
        reasons=dict(Counter(str(reason.code) for event in events for reason in event.reasons)),
        map_bytes=(min(maps), max(maps)),
        metrics=metrics,
    )


def verdict_of(record: InputRecord) -> VerdictEvent:
    """Raises RunFailed for a dead letter."""
    if record.source.topic.endswith(".dlq"):
        raise RunFailed(f"a job became a dead letter: {dict(record.headers)}")
    return decode_verdict(record.value, record.headers)


def _map_bytes(*grids: Grid | None) -> int:
    return sum(len(grid.cells) for grid in grids if grid is not None)


def _without_calibration(event: VerdictEvent) -> bool:
    return any(reason.code is ReasonCode.NO_CALIBRATION for reason in event.reasons)
