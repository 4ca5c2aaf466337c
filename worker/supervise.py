"""One or several processes a GPU, or several on a CPU: starts them, starts again what ends, drains all together.

Two decisions are pure: what each process is given (`shares`) and whether and when one that ended starts again
(`RestartRule`). The rest waits for signals and holds no connection, no GPU and no thread of its own.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import structlog

from worker.errors import EXIT_CONFIGURATION, ConfigurationError
from worker.settings import Settings

_PR_SET_PDEATHSIG: Final = 1
_HEARD: Final = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)
_SIGNALLED: Final = 128  # as a shell counts: 128 + the signal that ended a process
KILL_AFTER_S: Final = 15.0  # beyond the drain's own deadline
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one process is given: `name` is its instance, `environment` what differs from the supervisor's own."""

    name: str
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartRule:
    """Waits double from `first_s` to `longest_s`; a process that ran for `calm_s` starts from the first again, and one
    that ended `limit` times in a row without is given up."""

    first_s: float = 1.0
    longest_s: float = 60.0
    limit: int = 10
    calm_s: float = 300.0

    def ended(self, failures: int, ran_s: float) -> int:
        """Ends in a row, with the one after `ran_s` seconds."""
        return 1 if ran_s >= self.calm_s else failures + 1

    def wait_s(self, failures: int) -> float | None:
        """None: given up."""
        return None if failures >= self.limit else min(self.first_s * 2.0 ** (failures - 1), self.longest_s)


class Process(Protocol):
    """What is used of subprocess.Popen."""

    pid: int

    def poll(self) -> int | None: ...

    def send_signal(self, sig: int, /) -> None: ...


Spawn = Callable[[Share], Process]


def shares(settings: Settings, devices: Sequence[str], cores: int, each: int = 1) -> list[Share]:
    """`each` shares a GPU of `devices` (what CUDA_VISIBLE_DEVICES calls it, in the order of the PCI bus): one process's
    Python holds its lock for longer a job than a fast GPU takes. Raises ConfigurationError."""
    if settings.engines.backend in ("openvino", "onnxruntime"):
        raise ConfigurationError(
            f"setting ASSAY_ENGINES__BACKEND is {settings.engines.backend}, which uses no GPU; "
            "unset it, or say --processes alone, without --gpus"
        )
    common = _common(settings, len(devices) * each, cores)
    common |= {"ASSAY_ENGINES__BACKEND": "tensorrt", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    common |= {"ASSAY_ENGINES__GPU_WORKERS": str(each)}
    return [
        _share(settings, f"gpu{place}-p{n}" if each > 1 else f"gpu{place}", place * each + n, own)
        for place, device in enumerate(devices)
        for own in [common | {"CUDA_VISIBLE_DEVICES": device}]
        for n in range(each)
    ]


def cpu_shares(settings: Settings, count: int, cores: int) -> list[Share]:
    """As many shares of a CPU's cores."""
    common = _common(settings, count, cores)
    return [_share(settings, f"p{number}", number, common) for number in range(count)]


def _common(settings: Settings, count: int, cores: int) -> dict[str, str]:
    """Threads that stand for "one a core" are divided; numbers that somebody chose are not."""
    engines, each = settings.engines, str(max(1, cores // count))
    chosen = {"DECODE_THREADS": engines.decode_threads, "INFERENCE_THREADS": engines.inference_threads}
    return {f"ASSAY_ENGINES__{name}": each for name, threads in chosen.items() if not threads}


def _share(settings: Settings, suffix: str, number: int, environment: Mapping[str, str]) -> Share:
    """The instance follows the number, so that who takes a process's place ends its open transaction at once."""
    name = f"{settings.kafka.instance}-{suffix}"
    port = settings.observe.port
    own = {"ASSAY_KAFKA__INSTANCE": name, "ASSAY_OBSERVE__PORT": str(port + number if port else 0)}
    return Share(name=name, environment={**environment, **own})


def start_process(command: Sequence[str], share: Share) -> subprocess.Popen[bytes]:
    """Its own process group, so that a terminal's Ctrl-C reaches the supervisor alone and is passed on once."""
    return subprocess.Popen(  # noqa: S603 # the caller's own command
        list(command), env={**os.environ, **share.environment}, process_group=0, preexec_fn=_ends_with_its_parent
    )


def _ends_with_its_parent() -> None:
    """In the child: drain when the supervisor is gone, however it went, and hear the signals that it had blocked."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEARD)


@dataclass(slots=True, kw_only=True)
class _Place:
    """A share and what runs in it: a process, or the time at which the next one starts, or neither (given up)."""

    share: Share
    process: Process | None = None
    started_s: float = 0.0
    due_s: float | None = 0.0
    failures: int = 0


@dataclass(slots=True, kw_only=True)
class Supervisor:
    """Runs `shares` until a signal, until all are given up, or until one refuses its configuration."""

    shares: Sequence[Share]
    spawn: Spawn
    drain_s: float
    rule: RestartRule = RestartRule()
    clock: Callable[[], float] = time.monotonic
    exit_code: int = field(init=False, default=0)  # the worst of those that were not started again
    _places: list[_Place] = field(init=False)
    _kill_at_s: float | None = field(init=False, default=None)  # once it drains

    def __post_init__(self) -> None:
        self._places = [_Place(share=share) for share in self.shares]

    def run(self) -> int:
        """The worst exit code of those that were not started again; 0 where all drained. In the main thread."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
        try:
            while self.step():
                self._hear()
            return self.exit_code
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def step(self) -> bool:
        """See who ended and start who is due. False when nothing runs and nothing will."""
        for place in self._places:
            self._reap(place)
        if self._kill_at_s is None:
            for place in self._places:
                self._start_if_due(place)
        elif self.clock() >= self._kill_at_s:
            self._tell(signal.SIGKILL)
            self._kill_at_s = self.clock() + KILL_AFTER_S  # what the system holds is waited for, not asked for
        return any(place.process is not None or place.due_s is not None for place in self._places)

    def drain(self) -> None:
        """Start nothing more; all are asked to end, together."""
        if self._kill_at_s is not None:
            return
        self._kill_at_s = self.clock() + self.drain_s + KILL_AFTER_S
        for place in self._places:
            place.due_s = None
        self._tell(signal.SIGTERM)

    def _hear(self) -> None:
        heard = signal.sigtimedwait(_HEARD, self._wait_s())
        if heard is not None and heard.si_signo != signal.SIGCHLD:
            _log.info("processes_draining", signal=signal.Signals(heard.si_signo).name)
            self.drain()

    def _wait_s(self) -> float:
        due = [place.due_s for place in self._places if place.process is None and place.due_s is not None]
        times = [*due, *([self._kill_at_s] if self._kill_at_s is not None else [])]
        return max(0.0, min(times) - self.clock()) if times else self.rule.longest_s

    def _start_if_due(self, place: _Place) -> None:
        if place.process is not None or place.due_s is None or self.clock() < place.due_s:
            return
        place.process, place.started_s, place.due_s = self.spawn(place.share), self.clock(), None
        _log.info("process_started", instance=place.share.name, pid=place.process.pid)

    def _reap(self, place: _Place) -> None:
        status = place.process.poll() if place.process is not None else None
        if status is None:
            return
        code, ran_s = _SIGNALLED - status if status < 0 else status, self.clock() - place.started_s
        place.process = None
        if self._kill_at_s is not None or code == EXIT_CONFIGURATION:
            self._ended_for_good(place, code)
            self.drain()  # where it does not already: a wrong setting is wrong for all
            return
        place.failures = self.rule.ended(place.failures, ran_s)
        wait_s = self.rule.wait_s(place.failures)
        if wait_s is None:
            _log.error("process_given_up", instance=place.share.name, exit_code=code, ends=place.failures)
            self._ended_for_good(place, code)
            return
        place.due_s = self.clock() + wait_s
        _log.warning("process_ended", instance=place.share.name, exit_code=code, again_in_s=wait_s)

    def _ended_for_good(self, place: _Place, code: int) -> None:
        place.due_s = None
        if self._kill_at_s is not None and code == _SIGNALLED + signal.SIGTERM:
            code = 0  # as it was told, before it listened
        self.exit_code = max(self.exit_code, code, key=lambda one: (one == EXIT_CONFIGURATION, one))

    def _tell(self, number: signal.Signals) -> None:
        for place in self._places:
            if place.process is not None:
                place.process.send_signal(number)
