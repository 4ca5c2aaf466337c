"""A worker's start from the first moment of its process to the verdict of a job that waits in the topic, and what it
told of itself meanwhile."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from benchmarks.gpu.loading import started
from benchmarks.gpu.serving import Deployed, Load
from demo.stand import ASSAY_WORKER
from worker.adapters.kafka_follower import KafkaFollower

TIMED_WORKER: Final = ("-m", "benchmarks.gpu.timed_worker")
WITHIN_S: Final = 60.0
MOST_TOLD: Final = 80  # events
LEFT_OUT: Final = ("timestamp", "level", "library")


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdStart:
    """`events`: the worker's own log until the verdict, each line with its `s` since the process's start; then
    the verdict."""

    seconds: float
    events: Sequence[dict[str, Any]]


def cold_start(place: Deployed, load: Load, name: str, python: Sequence[str] = ASSAY_WORKER) -> ColdStart:
    """`name` is in no other job's id. Raises RuntimeError where no verdict comes."""
    kafka = place.settings.kafka
    with KafkaFollower(kafka.client_config(), [kafka.topics.results, kafka.topics.dlq]) as follower:
        place.fill(load, 1, name)
        at, began_s = time.time(), time.monotonic()
        worker = started(place, python)
        try:
            while follower.poll(0.5) is None:
                if worker.process.poll() is not None or time.monotonic() - began_s > WITHIN_S:
                    raise RuntimeError(f"no verdict: {worker.log_tail()}")
            seconds = time.monotonic() - began_s
            told = worker.log.read_bytes()[worker.skip :]
        finally:
            worker.stop()
    verdict = {"s": round(seconds, 3), "event": "verdict"}
    return ColdStart(seconds=seconds, events=[*events_since(told, at), verdict])


def events_since(log: bytes, began: float) -> list[dict[str, Any]]:
    """Lines of a structured log with the seconds since `began`, of the epoch; what is no event is left out."""
    found = []
    for line in log.splitlines():
        try:
            event = json.loads(line)
            at = datetime.fromisoformat(event["timestamp"]).timestamp()
        except (ValueError, KeyError, TypeError):  # a library's words, or a line that is not whole
            continue
        found.append({"s": round(at - began, 3), **{k: v for k, v in event.items() if k not in LEFT_OUT}})
    return found[:MOST_TOLD]
