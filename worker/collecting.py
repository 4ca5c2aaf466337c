"""How often Python's collector of cycles runs in a worker.

What a job is made of holds no cycles, so reference counts free nearly all of it, and the collector finds nothing. By
default it goes through all that lives, modules and engines and thousands of values in flight, a few times a second: up
to a sixth of a second with the interpreter's lock held each time, and a millisecond a job.
"""

from __future__ import annotations

import gc
from typing import Final

# Some 300 objects of a job are the collector's: the youngest are looked at every 150 jobs or so, all every 30,000.
THRESHOLDS: Final = (50_000, 20, 10)


def collect_seldom() -> None:
    """Once a worker is composed: what is there now is never looked at again, what comes is looked at seldom."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
