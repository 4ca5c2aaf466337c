"""Photographs in, features out: how fast. tests/gpu compare the features with the CPU's."""

from __future__ import annotations

import time
from collections.abc import Sequence

from engines.catalogue import SessionOptions, open_session
from engines.session import EncodeRequest, EncoderSession
from layers.opening import NAMES, PLANS, engine, gpu, photographs
from layers.telling import tell, timed


def session() -> None:
    """A session by batch, with one, two and three batches in flight."""
    engines = [engine(name) for name in NAMES]
    options = SessionOptions(plans_dir=PLANS, deadline_s=60.0)
    opened = timed("open_session with kept plans", lambda: open_session(engines, "tensorrt", options))
    tell("session", type(opened).__name__)
    for name in NAMES:
        batch = [EncodeRequest(blob=blob, encoder=name) for blob in photographs() * 4]
        for count in (1, 8, 64, 128):
            for flying in (1, 2, 3):
                _fly(opened, f"{name} session b{count}, {flying} in flight", batch[:count], flying)
    tell("free at the end MiB", gpu().device.run(gpu().device.memory_bytes)[0] >> 20)
    timed("close", opened.close)


def _fly(opened: EncoderSession, name: str, batch: Sequence[EncodeRequest], flying: int, seconds: float = 1.0) -> None:
    pending = [opened.start(batch) for _ in range(flying)]
    pending.pop(0).result()
    began, turns = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < seconds:
        pending.append(opened.start(batch))
        pending.pop(0).result()
        turns += 1
    for left in pending:
        left.result()
    cpu_us = _cpu_us_a_photograph(opened, batch)
    ms = round(spent / turns * 1e3, 2)
    tell(f"{name}: img/s, ms a batch, CPU us an image", (round(turns * len(batch) / spent), ms, cpu_us))


def _cpu_us_a_photograph(opened: EncoderSession, batch: Sequence[EncodeRequest]) -> int:
    began = time.process_time()
    for _ in range(3):
        opened.start(batch).result()
    return round((time.process_time() - began) * 1e6 / 3 / len(batch))
