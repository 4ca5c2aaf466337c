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
    """Of this process: no life after its parent's, no new privileges, no cores, and a priority lower by `nice`."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    os.nice(nice)
    if os.getsid(0) == os.getpid():  # Linux shares the cores among sessions first, whatever their processes' priority
        with contextlib.suppress(OSError):  # a kernel that does not
            Path("/proc/self/autogroup").write_text(str(nice))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
