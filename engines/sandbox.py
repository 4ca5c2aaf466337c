"""Helper processes that decode what the worker's own process should not touch. Each has limits on memory, CPU time,
files and descriptors; its death, overrun or want of memory costs one photograph, and another helper takes its place."""

from __future__ import annotations

import dataclasses
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from typing import Final

from engines.decode import Decoded, DecodeLimits, ImageFault
from engines.sandbox_frames import LENGTH, READY, BrokenFrame, largest_answer, unpacked

_START_S: Final = 60.0
_OVERRUNS: Final = (-signal.SIGPROF, -signal.SIGXCPU)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SandboxLimits:
    """What one photograph may take. `cpu_s` ends a helper that works; `wall_s` one that does not, and leaves room for
    a machine that is busy: the answer must not depend on the load. Memory is DecodeLimits' own."""

    cpu_s: float = 2.0
    wall_s: float = 30.0
    module: str = "engines.sandbox_child"  # what a helper runs; tests have one that misbehaves


class HelperFailed(Exception):
    """A helper could not be started: a fault of the installation, never of a photograph."""


class _Died(Exception):
    """A helper ended, or was ended, before it answered; `overran` says that it had used up its CPU time."""

    def __init__(self, message: str, overran: bool = False) -> None:
        super().__init__(message)
        self.overran = overran


class Sandbox:
    """Up to `helpers` processes, started when first needed and kept. Any thread may decode; one closes."""

    def __init__(
        self, *, helpers: int, size: int, limits: DecodeLimits, reduced: bool, sandbox: SandboxLimits | None = None
    ) -> None:
        self._size = size
        self._limits = sandbox or SandboxLimits()
        settings = {
            "size": size,
            "limits": dataclasses.asdict(limits),
            "reduced": reduced,
            "cpu_s": self._limits.cpu_s,
        }
        self._argument = json.dumps(settings)
        self._free: queue.LifoQueue[_Helper | None] = queue.LifoQueue()
        for _ in range(helpers):
            self._free.put(None)
        self._helpers = helpers

    def decode(self, blob: bytes) -> Decoded | ImageFault:
        """As decode_photograph; waits for a free helper. Raises HelperFailed where none can be started."""
        helper = self._free.get()
        try:
            while True:
                fresh = helper is None
                helper = helper or _Helper(self._limits.module, self._argument, self._size)
                try:
                    return helper.decode(blob, self._limits.wall_s)
                except _Died as death:
                    helper.end()
                    helper = None
                    # what a helper did before must not count against this photograph
                    if fresh or death.overran:
                        return ImageFault(code="decoder_crashed", message=str(death))
        finally:
            self._free.put(helper)

    def close(self) -> None:
        """End every helper; waits for those that decode."""
        for _ in range(self._helpers):
            helper = self._free.get()
            if helper is not None:
                helper.end()


class _Helper:
    """One process and the socket to it. Used by one thread at a time."""

    def __init__(self, module: str, argument: str, size: int) -> None:
        self._size = size
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 (our own interpreter and module)
                [sys.executable, "-P", "-s", "-m", module, argument],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env=bare_environment(),
                start_new_session=True,
            )
        try:
            if self._heard(time.monotonic() + _START_S) != READY:
                raise _Died("it said something else first")
        except _Died as death:
            self.end()
            raise HelperFailed(f"a decode helper does not start: {death}") from death

    @property
    def pid(self) -> int:
        return int(self._process.pid)

    def decode(self, blob: bytes, wall_s: float) -> Decoded | ImageFault:
        """Raises _Died."""
        deadline_s = time.monotonic() + wall_s
        try:
            self._socket.settimeout(wall_s)
            self._socket.sendall(LENGTH.pack(len(blob)))
            self._socket.sendall(blob)
        except OSError as error:
            raise self._death(error) from error
        try:
            answer = unpacked(self._heard(deadline_s), self._size)
        except BrokenFrame as error:
            raise _Died(f"the decoder gave {error}") from error
        if answer == "no_memory":
            raise _Died("the decoder asked for more memory than a photograph may take")
        return answer

    def end(self) -> None:
        self._socket.close()
        with suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()

    def _heard(self, deadline_s: float) -> bytes:
        try:
            (length,) = LENGTH.unpack(self._exactly(LENGTH.size, deadline_s))
            if length > largest_answer(self._size):
                raise _Died(f"the decoder announced an answer of {length} bytes")
            return self._exactly(length, deadline_s)
        except OSError as error:
            raise self._death(error) from error

    def _exactly(self, length: int, deadline_s: float) -> bytes:
        body = bytearray(length)
        view, at = memoryview(body), 0
        while at < length:
            self._socket.settimeout(max(0.001, deadline_s - time.monotonic()))
            got = self._socket.recv_into(view[at:])
            if got == 0:
                raise ConnectionResetError("it closed its socket")
            at += got
        return bytes(body)

    def _death(self, error: OSError) -> _Died:
        """What the process has to say of its end; one that is still there hangs, and is ended."""
        if isinstance(error, TimeoutError):
            return _Died("the decoder was still at it when its time was up")
        try:
            code = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return _Died(f"the decoder closed its socket ({error})")
        if code in _OVERRUNS:
            return _Died("the decoder took more CPU time than a photograph may", overran=True)
        ended = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return _Died(f"the decoder died ({ended})")


def bare_environment() -> dict[str, str]:
    """Nothing of the worker's: it may hold secrets. Only where the code lies, and no threads of numpy's own."""
    where = os.pathsep.join(path for path in sys.path if path)
    return {"PYTHONPATH": where, "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "LC_ALL": "C.UTF-8"}
