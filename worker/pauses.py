"""Why partitions are paused, and telling the source only of what changed."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Set

import structlog

from worker.observe import Meter
from worker.ports import JobSource, Partition

_log = structlog.get_logger()


class Pauses:
    """Reasons that pause everything may be asked for and withdrawn by any thread; `apply` belongs to intake's."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._reasons: set[str] = set()
        self._paused: set[Partition] = set()
        self._lock = threading.Lock()

    def ask(self, reason: str) -> None:
        self._set(reason, wanted=True)

    def withdraw(self, reason: str) -> None:
        self._set(reason, wanted=False)

    @property
    def everything(self) -> bool:
        return bool(self._reasons)

    def apply(self, source: JobSource, *, owned: Set[Partition], single: Set[Partition]) -> None:
        """Pause all that is owned while there is a reason for all, else `single`; resume the rest."""
        wanted = set(owned if self._reasons else single)
        if wanted == self._paused:
            return
        if stopping := wanted - self._paused:
            source.pause(stopping)
        if going_on := self._paused - wanted:
            source.resume(going_on)
        self._paused = wanted

    def forget(self, partitions: Iterable[Partition]) -> None:
        """They were assigned anew or given up: the client has forgotten their pause as well."""
        self._paused.difference_update(partitions)

    def _set(self, reason: str, *, wanted: bool) -> None:
        if (reason in self._reasons) is wanted:
            return
        with self._lock:
            (self._reasons.add if wanted else self._reasons.discard)(reason)
        self._meter.paused.labels(reason).set(wanted)
        _log.info("intake_paused" if wanted else "intake_resumed", reason=reason)
