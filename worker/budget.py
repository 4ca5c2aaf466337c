"""A budget of bytes shared by the stages: intake takes, embed gives back after decoding."""

from __future__ import annotations

import threading


class ByteBudget:
    """Counts bytes in flight. Never refuses: one record may exceed the limit, then intake pauses until there is room.

    `spent` turns True at `limit_bytes` and back to False only at `resume_bytes`, so that intake does not flutter:
    each pause throws away what the client has fetched ahead.
    """

    def __init__(self, limit_bytes: int, resume_bytes: int | None = None) -> None:
        self._limit = limit_bytes
        self._resume = limit_bytes // 2 if resume_bytes is None else resume_bytes
        self._held = 0
        self._spent = False
        self._lock = threading.Lock()

    def take(self, count: int) -> None:
        with self._lock:
            self._held += count
            self._spent = self._spent or self._held >= self._limit

    def give(self, count: int) -> None:
        """Give back what one `take` took. Raises ValueError when more is given than was taken."""
        with self._lock:
            if count > self._held:
                raise ValueError(f"{count} bytes given back, but only {self._held} are held: something gives twice")
            self._held -= count
            self._spent = self._spent and self._held > self._resume

    @property
    def spent(self) -> bool:
        return self._spent

    @property
    def held_bytes(self) -> int:
        return self._held
