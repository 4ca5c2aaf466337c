"""The gallery's bell through a real Redis, and without one."""

from __future__ import annotations

import threading
import time
from uuid import uuid4

from worker.adapters.gallery_bell import GalleryBell


def test_a_waiting_worker_hears_the_bell(redis_url: str) -> None:
    bell = GalleryBell(redis_url, channel=f"gallery-{uuid4().hex}")
    bell.wait(0.05)  # subscribes
    done = threading.Event()

    def wait() -> None:
        bell.wait(60)
        done.set()

    waiting = threading.Thread(target=wait, name="waiting")
    waiting.start()
    bell.ring("acme", 7)
    assert done.wait(20)
    waiting.join()
    bell.close()


def test_without_redis_it_waits_its_time_and_never_raises() -> None:
    bell = GalleryBell("redis://127.0.0.1:1/0")
    started_s = time.monotonic()
    bell.ring("acme", 7)
    bell.wait(0.2)
    assert time.monotonic() - started_s >= 0.2
    bell.close()
