"""The workers of a chaos run: slots with stable names, each a real process that is started again after every death.

One thread watches: it starts what is due, notes every start and end, and reads each worker's own log for the moment at
which transactions are committed again. Failpoints are armed for the next start of a slot, by environment.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from tests.chaos.observation import KillRecord, Recovery

ROOT = Path(__file__).resolve().parents[2]
WATCH_S = 0.1
BACK_OFF_S = 0.5  # between a death and the next start, as a supervisor has it
STOP_DEADLINE_S = 45.0
COMMITS, STARTED = b'"commits_again"', b'"worker_started"'
EXPECTED = frozenset({0, -signal.SIGKILL, 71, 72})  # 71 and 72: a fault of Kafka's ends the process by design


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A place for one worker: `instance` is its stable name, `group` the deployment it belongs to.

    `through` changes the environment at each start: the way through the proxies.
    """

    instance: str
    group: str
    environment: Mapping[str, str]
    through: Callable[[Mapping[str, str]], Mapping[str, str]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Arming:
    """A failpoint for the next start of a slot: ACTION@HIT, as worker.adapters.failpoints reads it."""

    name: str
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How a worker ended: `code` is negative for a signal. `asked` is what the harness did to it, if anything.

    `began`: it had come so far that it heeds signals.
    """

    at_ms: int
    instance: str
    code: int
    asked: str
    armed: Arming | None
    began: bool

    @property
    def strange(self) -> bool:
        """Whether no rule of the harness or of the worker explains it."""
        cut_short = self.asked == "SIGTERM" and self.code == -signal.SIGTERM and not self.began
        drained = self.asked != "SIGTERM" or self.code in (0, -signal.SIGKILL)
        return not cut_short and not (drained and self.code in EXPECTED)

    def __str__(self) -> str:
        return f"{self.instance} ended with {self.code}" + (f" after {self.asked}" if self.asked else "")


@dataclass(slots=True, kw_only=True)
class Running:
    process: subprocess.Popen[bytes]
    started_s: float
    armed: Arming | None
    asked: str = ""
    began: bool = False
    resume_s: float | None = None  # when a stopped process goes on


@dataclass(slots=True, kw_only=True)
class _Place:
    slot: Slot
    log: Path
    running: Running | None = None
    due_s: float | None = 0.0
    next: deque[Arming] = field(default_factory=deque)
    died_s: float | None = None  # wall clock; until the next commit
    read_to: int = 0
    rest: bytes = b""


class Fleet:
    """Start it, do things to its slots, `settle` to end the doing, `stop` to end the workers."""

    def __init__(self, slots: Iterable[Slot], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.failpoint_log = folder / "failpoints.log"
        self.kills: list[KillRecord] = []
        self.exits: list[Exit] = []
        self.commits: list[tuple[int, str]] = []  # ms, instance: transactions are committed again
        self.recoveries: list[Recovery] = []
        self.starts = 0
        self._places = {s.instance: _Place(slot=s, log=folder / f"{s.instance}.log") for s in slots}
        self._lock = threading.RLock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="fleet", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def instances(self) -> Sequence[str]:
        return tuple(self._places)

    def slots(self, group: str) -> list[Slot]:
        return [place.slot for place in self._places.values() if place.slot.group == group]

    def pids(self) -> dict[str, int]:
        with self._lock:
            return {name: place.running.process.pid for name, place in self._places.items() if place.running}

    def kill(self, instance: str, *, then: Sequence[Arming] = ()) -> None:
        """SIGKILL, as a power cut would; the next starts are armed with `then`, one each."""
        with self._lock:
            place = self._places[instance]
            place.next.extend(then)
            if place.running is not None:
                place.running.asked = "SIGKILL"
                place.running.process.kill()

    def terminate(self, instance: str, *, down_s: float = BACK_OFF_S) -> None:
        """SIGTERM; it drains and ends with 0, and is started again `down_s` later."""
        with self._lock:
            place = self._places[instance]
            if place.running is not None and not place.running.asked:
                place.running.asked = "SIGTERM"
                place.due_s = down_s  # relative until it has ended
                place.running.process.terminate()
                self._note(instance, "SIGTERM")

    def freeze(self, instance: str, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after `seconds`."""
        with self._lock:
            running = self._places[instance].running
            if running is not None and not running.asked:
                running.process.send_signal(signal.SIGSTOP)
                running.resume_s = time.monotonic() + seconds
                self._note(instance, "SIGSTOP")

    def leave(self, instance: str) -> None:
        """SIGTERM without a next start."""
        self.terminate(instance, down_s=float("inf"))

    def join(self, slot: Slot) -> None:
        """Another slot, started at once."""
        with self._lock:
            known = self._places.get(slot.instance)
            if known is None:
                self._places[slot.instance] = _Place(slot=slot, log=self.folder / f"{slot.instance}.log")
            elif known.running is None:
                known.due_s = 0.0

    def armed(self) -> list[Arming]:
        """What is armed now or for a next start: it has not acted yet."""
        with self._lock:
            places = self._places.values()
            return [p.running.armed for p in places if p.running and p.running.armed] + [
                a for p in places for a in p.next
            ]

    def disarm(self) -> None:
        """Nothing is armed at starts to come."""
        with self._lock:
            for place in self._places.values():
                place.next.clear()

    def hits(self) -> dict[str, int]:
        """How often each failpoint acted, as the workers wrote it down before they died."""
        found: dict[str, int] = {}
        if self.failpoint_log.exists():
            for line in self.failpoint_log.read_text().splitlines():
                name = line.split()[1]
                found[name] = found.get(name, 0) + 1
        return found

    def stop(self) -> dict[str, int]:
        """SIGTERM to all, each given its grace; the exit codes by instance. Frozen ones go on first."""
        self._ending.set()
        self._thread.join()
        running = {name: place.running for name, place in self._places.items() if place.running}
        for one in running.values():
            one.process.send_signal(signal.SIGCONT)
            one.process.terminate()
        return {name: _ended(one.process) for name, one in running.items()}

    def _watch(self) -> None:
        while not self._ending.wait(WATCH_S):
            with self._lock:
                for place in list(self._places.values()):
                    self._look_after(place)

    def _look_after(self, place: _Place) -> None:
        running = place.running
        self._read_log(place)
        if running is not None and running.resume_s is not None and time.monotonic() >= running.resume_s:
            running.resume_s = None
            running.process.send_signal(signal.SIGCONT)
        if running is not None and running.process.poll() is not None:
            self._ended(place, running)
        if place.running is None and place.due_s is not None and time.monotonic() >= place.due_s:
            self._start(place)

    def _start(self, place: _Place) -> None:
        armed = place.next.popleft() if place.next else None
        through = place.slot.through or dict
        settings = {**through(place.slot.environment), "ASSAY_KAFKA__INSTANCE": place.slot.instance}
        if armed is not None:
            settings["ASSAY_FAILPOINTS__ARMED"] = json.dumps({armed.name: armed.what})
            settings["ASSAY_FAILPOINTS__LOG"] = str(self.failpoint_log)
        with place.log.open("ab") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.standin"], cwd=ROOT, env=settings, stdout=out, stderr=out,
                start_new_session=True,
            )  # fmt: skip
        self.starts += 1
        place.running, place.due_s = Running(process=process, started_s=time.monotonic(), armed=armed), None

    def _ended(self, place: _Place, running: Running) -> None:
        code, instance = int(running.process.returncode), place.slot.instance
        ended = Exit(
            at_ms=now_ms(), instance=instance, code=code, asked=running.asked, armed=running.armed, began=running.began
        )
        self.exits.append(ended)
        down_s = place.due_s if running.asked == "SIGTERM" and place.due_s is not None else BACK_OFF_S
        place.running, place.due_s = None, time.monotonic() + down_s
        if code == -signal.SIGKILL:
            self._note(instance, "SIGKILL", running.armed.name if running.armed and not running.asked else None)
        if code != 0:
            place.died_s = time.time()

    def _read_log(self, place: _Place) -> None:
        """What the worker said since the last look; whole lines alone."""
        if not place.log.exists():
            return
        with place.log.open("rb") as log:
            log.seek(place.read_to)
            text = place.rest + log.read()
            place.read_to = log.tell()
        *lines, place.rest = text.split(b"\n")
        for line in lines:
            if STARTED in line and place.running is not None:
                place.running.began = True
            if COMMITS in line:
                self._commits(place, datetime.fromisoformat(json.loads(line)["timestamp"]).timestamp())

    def _commits(self, place: _Place, at_s: float) -> None:
        self.commits.append((round(at_s * 1e3), place.slot.instance))
        if place.died_s is not None and at_s > place.died_s:
            died_ms = round(place.died_s * 1e3)
            self.recoveries.append(Recovery(service="worker", seconds=at_s - place.died_s, at_ms=died_ms))
            place.died_s = None

    def _note(self, instance: str, how: str, failpoint: str | None = None) -> None:
        self.kills.append(
            KillRecord(at_ms=now_ms(), service="worker", how=how, instance=instance, failpoint=failpoint)
        )  # fmt: skip


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def wait_until(true: Callable[[], bool], deadline_s: float, every_s: float = 0.25) -> bool:
    """Look again and again until `true` or until `deadline_s` seconds have passed."""
    until, pause = time.monotonic() + deadline_s, threading.Event()
    while not true():
        if time.monotonic() > until:
            return False
        pause.wait(every_s)
    return True


def _ended(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(STOP_DEADLINE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
