"""Runners that several sessions of a process use: an engine that stays while another is swapped is not loaded again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from engines.manifest import EngineManifest, sha256_hex
from engines.runner import Backend, Runner

Key = tuple[str, Backend]


def runner_key(manifest: EngineManifest, backend: Backend) -> Key:
    """The same for the same published engine on the same backend."""
    return sha256_hex(manifest.to_json()), backend


@dataclass(slots=True)
class _Shared:
    runner: Runner
    users: int = 0


class SharedRunners:
    """Each runner is open while somebody uses it. Thread-safe; while one is opened, others wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shared: dict[Key, _Shared] = {}

    def take(self, key: Key, opened: Callable[[], Runner]) -> tuple[Runner, Callable[[], None]]:
        """The runner of `key`, which `opened` gives where there is none, and what its user calls once, in the end.
        Raises what `opened` raises."""
        with self._lock:
            shared = self._shared.get(key) or self._shared.setdefault(key, _Shared(opened()))
            shared.users += 1
        return shared.runner, lambda: self._leave(key)

    def has(self, key: Key) -> bool:
        """Whether somebody uses it."""
        with self._lock:
            return key in self._shared

    def _leave(self, key: Key) -> None:
        with self._lock:
            shared = self._shared[key]
            shared.users -= 1
            if shared.users:
                return
            del self._shared[key]
        shared.runner.close()
