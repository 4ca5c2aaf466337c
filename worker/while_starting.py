"""SIGTERM before a worker listens for it: the process ends of it as any process does, but lets go of what it is at
first."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALLED = 128  # and the signal's number: how a shell calls such an end


class _ToldToEnd(BaseException):
    """As KeyboardInterrupt is for SIGINT: nobody handles it, and every `finally` on its way runs."""


@contextmanager
def ending_in_order() -> Iterator[None]:
    """The record of an opening (worker.adapters.engine_failures) is to go with it: engines are not to blame for a
    restart that meets a worker which starts. In the main thread."""
    signal.signal(signal.SIGTERM, _tell)
    try:
        yield
    except _ToldToEnd:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)
        os._exit(_SIGNALLED + signal.SIGTERM)  # a container's first process does not end of its own signal
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _tell(number: int, frame: FrameType | None) -> None:
    raise _ToldToEnd
