"""What a step found, in the order found; first_contact.py writes it down at the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

TOLD: dict[str, Any] = {}


def tell(name: str, value: Any) -> None:
    TOLD[name] = value
    shown = f"{value:.4g}" if isinstance(value, float) else value
    print(f"  {name:44s} {shown}", flush=True)


def timed(name: str, run: Callable[[], Any], times: int = 1) -> Any:
    """The mean in ms; gives what the last run gave."""
    began = time.perf_counter()
    for _ in range(times):
        got = run()
    tell(f"{name} ms", (time.perf_counter() - began) * 1e3 / times)
    return got


def rate(name: str, run: Callable[[], Any], images: int, seconds: float = 1.5) -> None:
    """Images a second, `images` a run, after one that does not count."""
    run()
    began, done = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < seconds:
        run()
        done += images
    tell(f"{name} img/s", done / spent)
