"""What holds the interpreter's lock: py-spy's samples of a process, by stage and by function."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.worker_run import RunFailed

RATE: Final = 250
OURS: Final = ("worker/", "engines/", "schemas/", "migrations/")
_FRAME: Final = re.compile(r"(.+) \((.+?)(?::\d+)?\)$")
_THREAD: Final = re.compile(r"thread \(0x[0-9a-fA-F]+\)|thread \(\d+\)")
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_NUMBERED: Final = re.compile(r"[-_]\d+$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """`count` over `seconds`; `stacks` of (thread, frames outermost first), each frame as (function, file)."""

    seconds: float
    stacks: tuple[tuple[str, tuple[tuple[str, str], ...], int], ...]

    @property
    def share(self) -> float:
        """Of the time, over all threads."""
        return sum(count for _, _, count in self.stacks) / (RATE * self.seconds)

    def by_thread(self) -> Mapping[str, float]:
        """Share of the time by thread, pools as one."""
        return self._summed(thread for thread, _, _ in self.stacks)

    def by_function(self) -> Mapping[str, float]:
        """Share of the time by the innermost function of ours."""
        return self._summed(_innermost(frames) for _, frames, _ in self.stacks)

    def _summed(self, names: Iterator[str]) -> Mapping[str, float]:
        sums: Counter[str] = Counter()
        for name, (_, _, count) in zip(names, self.stacks, strict=True):
            sums[name] += count
        return {name: count / (RATE * self.seconds) for name, count in sums.most_common()}


def thread_names(pid: int) -> dict[int, str]:
    """The Python threads of a process by the system's number, pools as one."""
    told = subprocess.run((_program(), "dump", "--nonblocking", "-p", str(pid)), capture_output=True, text=True)
    found = re.findall(r'^Thread (\d+) \(.*?\): "(.*)"$', told.stdout, re.MULTILINE)
    return {int(number): _NUMBERED.sub("", name) for number, name in found}


def thread_cpu_s(pid: int, names: Mapping[int, str]) -> dict[str, float]:
    """CPU time by thread so far; whatever has no name is a library's."""
    spent: defaultdict[str, float] = defaultdict(float)
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            fields = (task / "stat").read_text().rpartition(")")[2].split()
        except FileNotFoundError:  # it has ended
            continue
        spent[names.get(int(task.name), "a library's")] += (int(fields[11]) + int(fields[12])) / _TICKS
    return spent


def _program() -> str:
    beside = [Path(place) / "bin" / "py-spy" for place in sys.path if place]
    program = shutil.which("py-spy") or next((str(path) for path in beside if path.exists()), None)
    if program is None:
        raise RunFailed("py-spy is not installed: pip install py-spy")
    return program


class Sampler:
    """py-spy over a process for some seconds: the threads that hold the lock. Raises RunFailed where it is missing."""

    def __init__(self, pid: int, out: Path, seconds: int) -> None:
        self._out, self._seconds = out, seconds
        arguments = ("record", "--gil", "--threads", "--nonblocking", "-f", "raw", "-r", str(RATE), "-d", str(seconds))
        command = (_program(), *arguments, "-p", str(pid), "-o", str(out))
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def result(self) -> Samples:
        """Waits. Raises RunFailed."""
        _, told = self._process.communicate(timeout=self._seconds + 60)
        if self._process.returncode:
            raise RunFailed(f"py-spy ended with {self._process.returncode}: {told[-300:]!r}")
        return samples_of(self._out.read_text(), self._seconds)


def samples_of(raw: str, seconds: float) -> Samples:
    """From py-spy's raw format: a line a stack, frames separated by semicolons, the count at the end."""
    return Samples(seconds=seconds, stacks=tuple(_parsed(line) for line in raw.splitlines() if line.strip()))


def _parsed(line: str) -> tuple[str, tuple[tuple[str, str], ...], int]:
    stack, _, count = line.rpartition(" ")
    first, *rest = stack.split(";")
    thread = _NUMBERED.sub("", _THREAD.sub("", first).lstrip(": ")) or "a library's"
    return thread, tuple(_frame(text) for text in rest), int(count)


def _frame(text: str) -> tuple[str, str]:
    found = _FRAME.match(text)
    return (found[1], found[2]) if found else (text, "")


def _innermost(frames: tuple[tuple[str, str], ...]) -> str:
    ours = [f"{name} ({file})" for name, file in frames if file.startswith(OURS)]
    return ours[-1] if ours else "none of ours"
