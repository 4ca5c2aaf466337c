"""Compiling a step's parts, within bounds: a host that cannot, or not in time, trains without it."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch

LOG = logging.getLogger(__name__)


class TooSlow(Exception):
    """Compiling took longer than it was given; the message says how long that was."""


def compiled(parts: dict[str, Any], trial: Callable[[dict[str, Any]], float], seconds: float) -> dict[str, Any]:
    """The compiled parts, where compiling them and one `trial` of all (giving its loss) end within `seconds`, and the
    parts themselves where they do not. Main thread only; takes SIGALRM."""
    if seconds <= 0:
        return parts
    began = time.monotonic()
    try:
        with _bounded(seconds):
            made = {name: torch.compile(part, dynamic=False) for name, part in parts.items()}
            loss = trial(made)
            if loss != loss:
                raise ValueError("the compiled step's loss is not a number")
    except Exception as error:  # compilers fail in many ways, none of which may end the training
        LOG.warning("training without compiling, after %.0f s: %r", time.monotonic() - began, error)
        torch._dynamo.reset()  # noqa: SLF001 - there is no public way to forget what was half compiled
        return parts
    LOG.info("compiled in %.0f s, loss of the trial %.3f", time.monotonic() - began, loss)
    return made


@contextmanager
def _bounded(seconds: float) -> Iterator[None]:
    def late(_signal: int, _frame: FrameType | None) -> None:
        raise TooSlow(f"compiling took more than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
