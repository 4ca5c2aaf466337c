"""A bounded hand-off between two stages: a queue that can be closed, waited on with a deadline, and drained in bulk."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Closed(Exception):
    """The hand-off was closed; nothing can be put any more."""


class Handoff(Generic[T]):
    """First in, first out, at most `capacity` items. After `close`, what is inside can still be taken."""

    def __init__(self, name: str, capacity: int) -> None:
        self.name = name
        self.capacity = capacity
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._woken = False

    def offer(self, item: T) -> bool:
        """Put without waiting; False when full. Raises Closed."""
        return self.put(item, timeout_s=0.0)

    def put(self, item: T, timeout_s: float | None = None) -> bool:
        """Put, waiting for room; False when `timeout_s` passed. Raises Closed."""
        with self._changed:
            has_room = self._changed.wait_for(lambda: self._closed or len(self._items) < self.capacity, timeout_s)
            if self._closed:
                raise Closed(self.name)
            if has_room:
                self._items.append(item)
                self._changed.notify_all()
            return has_room

    def take(self, timeout_s: float | None = None) -> T | None:
        """Take the oldest; None when `timeout_s` passed, or when closed and empty."""
        taken = self.take_many(1, timeout_s)
        return taken[0] if taken else None

    def take_many(self, max_items: int, first_wait_s: float | None = None) -> list[T]:
        """Take what is there, at most `max_items`, waiting `first_wait_s` for the first; [] when there is none."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._woken or bool(self._items), first_wait_s)
            self._woken = False
            taken = [self._items.popleft() for _ in range(min(max_items, len(self._items)))]
            if taken:
                self._changed.notify_all()
            return taken

    def wake(self) -> None:
        """Let a taker that waits, or is about to, go on with nothing: something else is ready for it."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def finished(self) -> bool:
        """Closed and empty: the taker can stop."""
        with self._changed:
            return self._closed and not self._items

    def __len__(self) -> int:
        return len(self._items)
