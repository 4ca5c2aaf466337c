"""What a process that works for another gives up, whatever it works at."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38


def lessen(nice: int) -> None:
    """Of this process: no life after its parent's, no new privileges, no core dumps, and a priority lower by `nice`; of
    the session that it leads, if it does, the same."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    os.nice(nice)
    if os.getsid(0) == os.getpid():  # Linux may share the cores among sessions before priorities count
        with contextlib.suppress(OSError):  # it does not; or it lets no more sessions change theirs just now
            Path("/proc/self/autogroup").write_text(str(nice))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def yield_cores() -> None:
    """This process runs where no other of its session wants the core."""
    with contextlib.suppress(OSError):  # refused, it has the priority that it was given
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
