"""A worker under a full topic, watched from outside: its rate, its memory, the device's use, and who holds the GIL."""

from __future__ import annotations

import subprocess
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import mean
from time import monotonic
from types import TracebackType

import psutil

from benchmarks.gpu.machine import gpus
from benchmarks.gpu.serving import Deployed, Load
from benchmarks.held import Sampler
from benchmarks.watching import MB, machine_busy_s, processor_s
from benchmarks.worker_run import RunFailed, verdict_of
from demo.stand import ASSAY_WORKER, WorkerProcess
from schemas.message import InputRecord
from worker.adapters.kafka_follower import KafkaFollower

SILENCE_S = 60.0
RAMP = 0.15  # of the jobs, answered before the clock starts
LOOKED_AT = 200  # verdicts that are read in full
GIL_S = 6
INSTANCE = {"ASSAY_KAFKA__INSTANCE": "bench-0"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """`jobs_per_s` over the timed jobs; processor time in ms a job; `gil_us` Python time holding the GIL a job."""

    jobs: int
    jobs_per_s: float
    worker_cpu_ms: float
    machine_cpu_ms: float
    resident_mb: float
    verdicts: Mapping[str, int]
    reasons: Mapping[str, int]
    result_bytes: float
    gil_us: float | None
    gpu: Mapping[str, float]
    metrics: str

    def told(self) -> dict[str, object]:
        """For the record; the metrics page is long."""
        return {name: getattr(self, name) for name in self.__slots__ if name != "metrics"}


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
) -> Run:
    """Fill the topic with `jobs`, start a worker, and wait for all verdicts. `python`: what the interpreter is given.
    Raises RunFailed."""
    kafka = deployed.settings.kafka
    with KafkaFollower(kafka.client_config(), [kafka.topics.results, kafka.topics.dlq]) as follower:
        deployed.fill(load, jobs, name)
        worker = started(deployed, python)
        try:
            return _watched(worker, follower, jobs, gil=gil)
        finally:
            worker.stop()


def changed(change: str) -> tuple[str, ...]:
    """What starts a worker with that change (benchmarks.gpu.changed_worker)."""
    return ("-m", "benchmarks.gpu.changed_worker", change)


def started(deployed: Deployed, python: Sequence[str] = ASSAY_WORKER) -> WorkerProcess:
    stand = deployed.stand
    return WorkerProcess.start({**stand.environment, **INSTANCE}, stand.folder / "bench-0.log", python)


def shared(deployed: Deployed, load: Load, jobs: int, name: str, settings: Sequence[Mapping[str, str]]) -> float:
    """Jobs a second of several ready workers, one a mapping of settings, while jobs keep coming faster than they are
    answered. Raises RunFailed."""
    kafka = deployed.settings.kafka
    with (
        KafkaFollower(kafka.client_config(), [kafka.topics.results, kafka.topics.dlq]) as follower,
        ExitStack() as ends,
    ):
        workers = [deployed.stand.worker(f"bench-{n}", **own) for n, own in enumerate(settings)]
        for worker in workers:
            ends.callback(worker.stop)
        for worker in workers:
            worker.wait_ready()
        filling = threading.Thread(target=deployed.fill, args=(load, jobs, name), daemon=True)
        filling.start()
        heard = Heard(workers[0], follower)
        ramp, end = round(jobs * RAMP), round(jobs * (1 - RAMP))  # towards the end some have nothing left to do
        began_s = heard.until(ramp)
        ended_s = heard.until(end)
        heard.until(jobs)
        filling.join()
    return (end - ramp) / (ended_s - began_s)


class Heard:
    """Answers as they come; few are kept, so that the reader stays fast."""

    def __init__(self, worker: WorkerProcess, follower: KafkaFollower) -> None:
        self._worker = worker
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
                self.count += 1
                self.bytes += len(record.value)
                heard_s = monotonic()
                if len(self.kept) < LOOKED_AT:
                    self.kept.append(record)
            elif self._worker.process.poll() is not None or monotonic() - heard_s > SILENCE_S:
                raise RunFailed(f"{self.count} of {count} jobs were answered:\n{self._worker.log_tail()}")
        return heard_s


def _watched(worker: WorkerProcess, follower: KafkaFollower, jobs: int, *, gil: bool) -> Run:
    process, heard = psutil.Process(worker.process.pid), Heard(worker, follower)
    ramp = max(1, round(jobs * RAMP))
    with GpuWatch() as gpu:
        began_s = heard.until(ramp)
        worker_s, machine_s = processor_s(process), machine_busy_s()
        sampler = _sampler(worker) if gil else None
        ended_s = heard.until(jobs)
        timed = jobs - ramp
        rate = timed / (ended_s - began_s)
        used = processor_s(process) - worker_s, machine_busy_s() - machine_s
        resident = process.memory_info().rss / MB
        metrics = worker.get("/metrics")
    verdicts, reasons = read(heard.kept)
    return Run(
        jobs=jobs,
        jobs_per_s=rate,
        worker_cpu_ms=used[0] / timed * 1e3,
        machine_cpu_ms=used[1] / timed * 1e3,
        resident_mb=round(resident, 1),
        verdicts=verdicts,
        reasons=reasons,
        result_bytes=heard.bytes / max(heard.count, 1),
        gil_us=_held_us(sampler, rate) if sampler else None,
        gpu=gpu.told(),
        metrics=metrics,
    )


def _sampler(worker: WorkerProcess) -> Sampler | None:
    """None where nothing can be sampled, which costs no run."""
    try:
        return Sampler(worker.process.pid, worker.log.with_suffix(".gil"), GIL_S)
    except (RunFailed, OSError) as error:
        print(f"the GIL is not sampled: {error}", flush=True)
        return None


def _held_us(sampler: Sampler, rate: float) -> float | None:
    """Python time holding the GIL a job; None where it could not be sampled, which costs no run."""
    try:
        return sampler.result().share / rate * 1e6
    except (RunFailed, OSError, subprocess.SubprocessError, ValueError) as error:
        print(f"the GIL was not sampled: {error}", flush=True)
        return None


def read(records: list[InputRecord]) -> tuple[dict[str, int], dict[str, int]]:
    """Verdicts and reasons of some answers. Raises RunFailed for a dead letter."""
    verdicts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for record in records:
        event = verdict_of(record)
        verdicts[str(event.verdict)] += 1
        reasons.update(str(reason.code) for reason in event.reasons)
    return dict(verdicts), dict(reasons)
