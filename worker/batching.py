"""Cuts batches of images out of many jobs, by a budget of images, bytes and time. Counts images, not jobs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, Protocol, TypeVar


class Flush(StrEnum):
    """Why a batch was cut."""

    IMAGES = "images"
    BYTES = "bytes"
    WINDOW = "window"
    IDLE = "idle"
    CLOSING = "closing"


class Sized(Protocol):
    @property
    def data(self) -> bytes: ...


S = TypeVar("S", bound=Sized)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """`max_bytes` counts encoded bytes; one image above it still makes a batch of its own. `eager`: the window is for
    what comes while the encoder has a batch; one that has none is given what is there."""

    max_images: int
    max_bytes: int
    window_s: float
    eager: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch(Generic[S]):
    images: tuple[S, ...]
    flush: Flush


class Batcher(Generic[S]):
    """Not thread-safe: one stage owns it. Times are seconds of one monotonic clock, passed in."""

    def __init__(self, limits: BatchLimits) -> None:
        self._limits = limits
        self._waiting: deque[tuple[S, float]] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, images: Iterable[S], now_s: float) -> None:
        for image in images:
            self._waiting.append((image, now_s))
            self._bytes += len(image.data)

    def wait_s(self, now_s: float) -> float | None:
        """Seconds until a batch must be cut; None when nothing waits, 0 when one is due."""
        if not self._waiting:
            return None
        if self._full() is not None:
            return 0.0
        return max(0.0, self._waiting[0][1] + self._limits.window_s - now_s)

    def cut(self, now_s: float, *, closing: bool = False, idle: bool = False) -> Batch[S] | None:
        """The next batch in arrival order if one is due (or `closing`, or the encoder is `idle`), else None."""
        flush = self._full() or (Flush.WINDOW if self.wait_s(now_s) == 0.0 else None)
        if flush is None and idle and self._limits.eager and self._waiting:
            flush = Flush.IDLE
        if flush is None and not (closing and self._waiting):
            return None
        return Batch(images=tuple(self._take()), flush=flush or Flush.CLOSING)

    def _full(self) -> Flush | None:
        if len(self._waiting) >= self._limits.max_images:
            return Flush.IMAGES
        return Flush.BYTES if self._bytes >= self._limits.max_bytes else None

    def _take(self) -> Iterable[S]:
        taken = taken_bytes = 0
        while self._waiting and taken < self._limits.max_images:
            size = len(self._waiting[0][0].data)
            if taken and taken_bytes + size > self._limits.max_bytes:
                return
            image, _ = self._waiting.popleft()
            self._bytes -= size
            taken, taken_bytes = taken + 1, taken_bytes + size
            yield image
