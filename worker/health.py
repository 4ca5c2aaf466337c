"""What is wrong with a worker that runs, by name: the content of its pages /livez and /readyz."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from worker.pipeline import Pipeline


class Background(Protocol):
    """A thread beside the stages, such as the one that refreshes the gallery; `failed` is what it failed at, if so."""

    @property
    def failed(self) -> BaseException | None: ...


class Following(Background, Protocol):
    """worker.adapters.engine_follower.EngineFollower; it tries again after most failures, and is dead after others."""

    @property
    def dead(self) -> bool: ...


def dead(pipeline: Pipeline, engines: Following | None) -> Mapping[str, str]:
    """What only a new process mends."""
    wrong = dict(pipeline.dead_threads())
    if engines is not None and engines.dead:
        wrong["engines"] = f"the thread that follows the registry ended: {engines.failed!r}"
    return wrong


def not_ready(pipeline: Pipeline, gallery: Background, engines: Following | None) -> Mapping[str, str]:
    """The same, and what may mend itself while jobs are answered."""
    wrong = dict(dead(pipeline, engines))
    if engines is not None and engines.failed is not None:
        wrong.setdefault("engines", f"the registry is not followed, and is tried again: {engines.failed!r}")
    if gallery.failed is not None:
        wrong["gallery"] = f"its mirror is no longer refreshed: {gallery.failed}"
    if not pipeline.intake.joined:
        wrong["kafka"] = "the consumer has no partitions yet"
    return wrong
