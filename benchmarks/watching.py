"""What a process uses while it works: memory by jobs answered, and processor time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean
from types import TracebackType

import numpy as np
import psutil

PERIOD_S = 0.5
MB = 1e6
COURSE_POINTS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryUse:
    """Resident memory in MB; quarters are quarters of the jobs answered, the slope is of the last three."""

    peak: float
    first_quarter: float
    second_quarter: float
    last_quarter: float
    mb_per_1000_jobs: float
    late_mb_per_1000_jobs: float  # of the last half: a step that was taken earlier is not in it
    course: Sequence[tuple[int, float]] = ()  # (jobs answered, MB), thinned out


class MemoryWatch:
    """Samples the resident memory of a process in a thread; `answered` tells how many jobs are done by now."""

    def __init__(self, pid: int, answered: Callable[[], int]) -> None:
        self._process = psutil.Process(pid)
        self._answered = answered
        self._samples: list[tuple[int, float]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory-watch", daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def use(self) -> MemoryUse:
        return memory_use([sample for sample in self._samples if sample[0]])

    def _watch(self) -> None:
        while not self._ended.wait(PERIOD_S):
            try:
                self._samples.append((self._answered(), self._process.memory_info().rss / MB))
            except psutil.NoSuchProcess:
                return


def memory_use(samples: Sequence[tuple[int, float]]) -> MemoryUse:
    """From samples of (jobs answered, MB), in order; at least two."""
    total = samples[-1][0]
    quarters: list[list[float]] = [[], [], [], []]
    for done, used in samples:
        quarters[min(3, 4 * done // max(total, 1))].append(used)
    return MemoryUse(
        peak=max(used for _, used in samples),
        first_quarter=mean(quarters[0] or [samples[0][1]]),
        second_quarter=mean(quarters[1] or [samples[0][1]]),
        last_quarter=mean(quarters[3] or [samples[-1][1]]),
        mb_per_1000_jobs=1000 * _slope([sample for sample in samples if 4 * sample[0] >= total]),
        late_mb_per_1000_jobs=1000 * _slope([sample for sample in samples if 2 * sample[0] >= total]),
        course=samples[:: max(1, len(samples) // COURSE_POINTS)],
    )


def _slope(samples: Sequence[tuple[int, float]]) -> float:
    """MB a job, by least squares; 0 of fewer than two samples."""
    if len(samples) < 2:
        return 0.0
    return float(np.polyfit([done for done, _ in samples], [used for _, used in samples], 1)[0])


def processor_s(process: psutil.Process) -> float:
    """Processor time of a process so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


def machine_busy_s() -> float:
    """Processor time of everything on this machine so far, that of other people included."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)
