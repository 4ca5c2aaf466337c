"""A worker under a full topic, watched from outside: its rate, its memory, the device's use, and who holds the GIL."""

from __future__ import annotations

import os
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from statistics import mean
from time import monotonic
from types import TracebackType

import psutil
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.gpu.machine import gpus
from benchmarks.gpu.serving import Deployed, Load
from benchmarks.held import Sampler, Samples, thread_cpu_s, thread_names
from benchmarks.watching import MB, machine_busy_s, processor_s
from benchmarks.worker_run import RunFailed, verdict_of
from demo.stand import ASSAY_WORKER, WorkerProcess
from schemas.message import InputRecord
from worker.adapters.kafka_follower import KafkaFollower
from worker.supervise import cpu_shares

SILENCE_S = 60.0
RAMP = 0.15  # of the jobs, answered before the clock starts
LEAST_TIMED = 0.3
FEW = 100  # jobs, as of a dry run, whose figures mean nothing
LOOKED_AT = 200  # verdicts that are read in full
GIL_S = 6
SPARE = 1.5  # times the jobs that are answered while py-spy samples: it must not see a worker with nothing to do
MOST_SAMPLED = 3  # times the jobs of the run itself, whose rate means little where they are few
MOST_TOLD = 25  # functions and threads


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """`jobs_per_s` over the timed jobs; processor time in ms a job; memory of all workers; `held`: the CPU time by
    thread, of the timed jobs; it, `metrics` and `stages_ms`, how long each stage took on average since the start (and
    how many images a batch had), are the first one's. Then, of a part of its own in which py-spy sampled
    and `sampled_jobs_per_s` were answered: `gil_us`, Python time holding the GIL a job, and in `held` where."""

    jobs: int
    jobs_per_s: float
    worker_cpu_ms: float
    machine_cpu_ms: float
    resident_mb: float
    verdicts: Mapping[str, int]
    reasons: Mapping[str, int]
    result_bytes: float
    held: Mapping[str, Mapping[str, float]]
    gpu: Mapping[str, float]
    metrics: str
    gil_us: float | None = None
    sampled_jobs_per_s: float | None = None

    @property
    def stages_ms(self) -> dict[str, float]:
        return means(self.metrics)

    def told(self) -> dict[str, object]:
        """For the record; the metrics page is long."""
        told = {name: getattr(self, name) for name in self.__slots__ if name != "metrics"}
        return {**told, "stages_ms": self.stages_ms}


def means(page: str) -> dict[str, float]:
    """Of a worker's metrics: ms a stage, and `images` a batch."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(page):
        if family.name not in ("assay_stage_seconds", "assay_batch_images"):
            continue
        totals = {(s.labels.get("stage", "images"), s.name.rpartition("_")[2]): s.value for s in family.samples}
        for name in {name for name, part in totals if part == "count" and totals[name, part]}:
            scale = 1.0 if name == "images" else 1e3
            found[name] = round(scale * totals[name, "sum"] / totals[name, "count"], 2)
    return dict(sorted(found.items()))


class GpuWatch:
    """Samples the driver's counters while a run goes on."""

    FIELDS = ("utilization.gpu", "memory.used", "memory.total", "clocks.sm", "power.draw")
    MORE = ("utilization.jpeg", "utilization.decoder")

    def __init__(self) -> None:
        self._samples: list[dict[str, float]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> GpuWatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(5)

    def told(self) -> dict[str, float]:
        """Means of the later half, and the most memory."""
        late = self._samples[len(self._samples) // 2 :]
        if not late:
            return {}
        told = {name: round(mean(sample.get(name, 0.0) for sample in late), 1) for name in late[0]}
        return {**told, "memory.most": max(sample["memory.used"] for sample in self._samples)}

    def _watch(self) -> None:
        fields = self.FIELDS + (self.MORE if gpus(self.MORE) else ())
        while not self._over.wait(1.0):
            found = gpus(fields)
            if found:
                self._samples.append({name: _number(value) for name, value in found[0].items()})


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # "[N/A]"
        return 0.0


def saturated(
    deployed: Deployed,
    load: Load,
    jobs: int,
    name: str,
    *,
    python: Sequence[str] = ASSAY_WORKER,
    gil: bool = False,
    workers: int = 1,
) -> Run:
    """Fill the topic with `jobs`, start `workers` on the GPU, and wait for all verdicts. `python`: what the interpreter
    is given. `gil`: then more of the same load, for one worker's samples. Raises RunFailed."""
    kafka = deployed.settings.kafka
    with KafkaFollower(kafka.client_config(), [kafka.topics.results, kafka.topics.dlq]) as follower:
        deployed.fill(load, jobs, name)
        with together(started(deployed, python, number=n, workers=workers) for n in range(workers)) as running:
            heard = Heard(running, follower)
            run = _watched(running, heard, jobs)
            more = partial(deployed.fill, load, name=f"{name}-sampled")
            return with_samples(run, running[0], heard, more) if gil else run


def changed(change: str) -> tuple[str, ...]:
    """What starts a worker with that change (benchmarks.gpu.changed_worker)."""
    return ("-m", "benchmarks.gpu.changed_worker", change)


def started(
    deployed: Deployed, python: Sequence[str] = ASSAY_WORKER, *, number: int = 0, workers: int = 1
) -> WorkerProcess:
    """Worker `number` of as many on one GPU, given its share as `assay worker` gives it; a dry run has none."""
    stand, share = deployed.stand, cpu_shares(deployed.settings, workers, len(os.sched_getaffinity(0)))[number]
    own = {**share.environment, "ASSAY_ENGINES__GPU_WORKERS": str(workers)}
    return WorkerProcess.start({**stand.environment, **own}, stand.folder / f"bench-{number}.log", python)


@contextmanager
def together(starting: Iterable[WorkerProcess]) -> Iterator[list[WorkerProcess]]:
    """All of them once they are ready; drained at the end."""
    with ExitStack() as ends:
        running = []
        for worker in starting:
            ends.callback(worker.stop)
            running.append(worker)
        for worker in running:
            worker.wait_ready()
        yield running


def shared(deployed: Deployed, load: Load, jobs: int, name: str, settings: Sequence[Mapping[str, str]]) -> float:
    """Jobs a second of several ready workers, one a mapping of settings, while jobs keep coming faster than they are
    answered. Raises RunFailed."""
    kafka = deployed.settings.kafka
    with (
        KafkaFollower(kafka.client_config(), [kafka.topics.results, kafka.topics.dlq]) as follower,
        together(deployed.stand.worker(f"bench-{n}", **own) for n, own in enumerate(settings)) as workers,
    ):
        filling = threading.Thread(target=deployed.fill, args=(load, jobs, name), daemon=True)
        filling.start()
        heard = Heard(workers, follower)
        ramp, end = round(jobs * RAMP), round(jobs * (1 - RAMP))  # towards the end some have nothing left to do
        began_s = heard.until(ramp)
        ended_s = heard.until(end)
        heard.until(jobs)
        filling.join()
    return (end - ramp) / (ended_s - began_s)


class Heard:
    """Answers as they come; few are kept, so that the reader stays fast."""

    def __init__(self, workers: Sequence[WorkerProcess], follower: KafkaFollower) -> None:
        self._workers = workers
        self._follower = follower
        self.count = 0
        self.bytes = 0
        self.kept: list[InputRecord] = []

    def until(self, count: int) -> float:
        """The moment of the last of `count` answers. Raises RunFailed."""
        heard_s = monotonic()
        while self.count < count:
            record = self._follower.poll(1.0)
            if record is not None:
                self._take(record)
                heard_s = monotonic()
            elif (ended := self._ended()) is not None or monotonic() - heard_s > SILENCE_S:
                told = (ended or self._workers[0]).log_tail()
                raise RunFailed(f"{self.count} of {count} jobs were answered:\n{told}")
        return heard_s

    def rate(self, seconds: float, last: int) -> float | None:
        """Jobs a second over at least `seconds`; None where answer `last` came before. Raises RunFailed."""
        first, began_s, heard_s = self.count, monotonic(), 0.0
        while heard_s < began_s + seconds:
            if self.count >= last:
                print(f"all {last} jobs were answered before {seconds} s were over", flush=True)
                return None
            heard_s = self.until(self.count + 1)
        return (self.count - first) / (heard_s - began_s)

    def catch_up(self) -> None:
        """Take what waits to be read."""
        while (record := self._follower.poll(0.0)) is not None:
            self._take(record)

    def _take(self, record: InputRecord) -> None:
        self.count += 1
        self.bytes += len(record.value)
        if len(self.kept) < LOOKED_AT:
            self.kept.append(record)

    def _ended(self) -> WorkerProcess | None:
        return next((worker for worker in self._workers if worker.process.poll() is not None), None)


def _watched(workers: Sequence[WorkerProcess], heard: Heard, jobs: int) -> Run:
    processes = [psutil.Process(worker.process.pid) for worker in workers]
    with GpuWatch() as gpu:
        heard.catch_up()
        first, last = timed_part(heard.count, jobs, alone=len(workers) == 1)
        began_s = heard.until(first)
        worker_s, machine_s = sum(map(processor_s, processes)), machine_busy_s()
        threads = _threads(workers[0])
        ended_s = heard.until(last)
        timed = last - first
        used = sum(map(processor_s, processes)) - worker_s, machine_busy_s() - machine_s
        spent_us = threads.spent_us(timed / len(workers)) if threads else {}
        resident = sum(process.memory_info().rss for process in processes) / MB
        metrics = workers[0].get("/metrics")
        heard.until(jobs)
    verdicts, reasons = read(heard.kept)
    return Run(
        jobs=jobs,
        jobs_per_s=timed / max(ended_s - began_s, 1e-9),
        worker_cpu_ms=used[0] / timed * 1e3,
        machine_cpu_ms=used[1] / timed * 1e3,
        resident_mb=round(resident, 1),
        verdicts=verdicts,
        reasons=reasons,
        result_bytes=heard.bytes / max(heard.count, 1),
        held={"CPU by thread, us": spent_us},
        gpu=gpu.told(),
        metrics=metrics,
    )


def with_samples(run: Run, worker: WorkerProcess, heard: Heard, fill: Callable[[int], None]) -> Run:
    """`run` with who held the lock. py-spy slows the worker, so that the rate while it samples is another, and the
    share of that time belongs to it. Where nothing could be sampled `run` is as it was. Raises RunFailed."""
    ramp = max(1, round(run.jobs * RAMP))
    last = heard.count + ramp + 1 + min(round(run.jobs_per_s * GIL_S * SPARE), MOST_SAMPLED * run.jobs)
    fill(last - heard.count)
    heard.until(heard.count + ramp)
    sampler = _sampler(worker)
    rate = heard.rate(GIL_S, last) if sampler else None
    samples = _samples(sampler) if sampler else None
    heard.until(last)
    if samples is None or rate is None:
        return run
    held = {**run.held, **_held(samples, rate)}
    return replace(run, gil_us=samples.share / rate * 1e6, sampled_jobs_per_s=rate, held=held)


def timed_part(answered: int, jobs: int, *, alone: bool) -> tuple[int, int]:
    """Between which answers of `jobs` the time is taken: all workers are ready when so many are `answered`, and towards
    the end some of several have nothing left to do. Raises RunFailed where too few are left."""
    first, last = answered + max(1, round(jobs * RAMP)), jobs if alone else round(jobs * (1 - RAMP))
    if last - first >= jobs * LEAST_TIMED:
        return first, last
    if jobs >= FEW:
        raise RunFailed(f"{answered} of {jobs} jobs were answered before all workers were ready: ask for more")
    return min(first, last - 1), last


def _threads(worker: WorkerProcess) -> Threads | None:
    """None where nobody can tell their names, which costs no run."""
    try:
        return Threads(worker)
    except (RunFailed, OSError) as error:
        print(f"CPU time is not told by thread: {error}", flush=True)
        return None


def _sampler(worker: WorkerProcess) -> Sampler | None:
    """None where nothing can be sampled, which costs no run."""
    try:
        return Sampler(worker.process.pid, worker.log.with_suffix(".gil"), GIL_S)
    except (RunFailed, OSError) as error:
        print(f"the GIL is not sampled: {error}", flush=True)
        return None


def _samples(sampler: Sampler) -> Samples | None:
    """None where it could not be sampled, which costs no run."""
    try:
        return sampler.result()
    except (RunFailed, OSError, subprocess.SubprocessError, ValueError) as error:
        print(f"the GIL was not sampled: {error}", flush=True)
        return None


def _held(samples: Samples, jobs_per_s: float) -> dict[str, dict[str, float]]:
    """Who holds the lock, us a job."""
    by = {"thread": samples.by_thread(), "function": samples.by_function()}
    return {
        f"lock by {name}, us": {k: round(v / jobs_per_s * 1e6, 1) for k, v in list(found.items())[:MOST_TOLD]}
        for name, found in by.items()
    }


class Threads:
    """CPU time of a worker's threads from now on."""

    def __init__(self, worker: WorkerProcess) -> None:
        self._pid = worker.process.pid
        self._names = thread_names(self._pid)
        self._before = thread_cpu_s(self._pid, self._names)

    def spent_us(self, jobs: float) -> dict[str, float]:
        """A job, by thread, the most first."""
        now = thread_cpu_s(self._pid, self._names)
        spent = {name: round((s - self._before.get(name, 0.0)) / jobs * 1e6, 1) for name, s in now.items()}
        return dict(sorted(spent.items(), key=lambda one: -one[1])[:MOST_TOLD])


def read(records: list[InputRecord]) -> tuple[dict[str, int], dict[str, int]]:
    """Verdicts and reasons of some answers. Raises RunFailed for a dead letter."""
    verdicts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for record in records:
        event = verdict_of(record)
        verdicts[str(event.verdict)] += 1
        reasons.update(str(reason.code) for reason in event.reasons)
    return dict(verdicts), dict(reasons)
