"""Something that goes on beside a test."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def repeated(call: Callable[[], object], every_s: float) -> Iterator[None]:
    """Call again and again, the first time after `every_s`; no call is under way when this ends. Raises what a call
    raised."""
    stop = threading.Event()

    def go_on() -> None:
        while not stop.wait(every_s):
            call()

    with ThreadPoolExecutor(1) as pool:
        going = pool.submit(go_on)
        try:
            yield
        finally:
            stop.set()
        going.result()
