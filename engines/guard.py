"""What a runner answers is not believed unseen.

A batch for which the device has no memory runs in halves. A batch with a number that is not finite is not used: each
of its photographs runs again alone, and only what is broken alone as well stays so. An engine that answers nothing else
any more has failed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from engines.errors import OutOfMemory, RunnerFailed
from engines.runner import OUTPUT_NAMES, EncoderOutputs, EngineInfo, Pending, joined

_BROKEN_IN_A_ROW: Final = 8  # photographs; a test on golden images at the next start finds what is wrong for good


class Batch(Protocol):
    """Photographs that can be cut: squares in an array, or a list of what a device decodes itself."""

    def __len__(self) -> int: ...
    def __getitem__(self, rows: slice, /) -> Any: ...


B = TypeVar("B", bound=Batch)
B_contra = TypeVar("B_contra", bound=Batch, contravariant=True)


class Starts(Protocol[B_contra]):
    """A Runner, or what is like one with another kind of batch."""

    @property
    def info(self) -> EngineInfo: ...
    def start(self, batch: B_contra, /) -> Pending: ...
    def close(self) -> None: ...


class GuardedRunner(Generic[B]):
    """A runner over another."""

    def __init__(self, runner: Starts[B]) -> None:
        self._runner = runner
        self._broken = 0  # in a row, until now; told by the one thread that reads results

    @property
    def info(self) -> EngineInfo:
        return self._runner.info

    def start(self, batch: B, /) -> GuardedBatch[B]:
        return GuardedBatch(self._runner, batch, self._count)

    def close(self) -> None:
        self._runner.close()

    def _count(self, row_is_broken: bool) -> None:
        self._broken = self._broken + 1 if row_is_broken else 0
        if self._broken >= _BROKEN_IN_A_ROW:
            raise RunnerFailed(f"{self.info.name}: no finite numbers for the last {self._broken} photographs")


class GuardedBatch(Generic[B]):
    """`broken`, bool [n], names the rows whose numbers must not be used; it is there once `result` has returned."""

    broken: NDArray[np.bool_]

    def __init__(self, runner: Starts[B], batch: B, count: Callable[[bool], None]) -> None:
        self._runner = runner
        self._batch = batch
        self._count = count
        self._pending = _begun(runner, batch)
        self._outputs: EncoderOutputs | None = None

    def result(self, timeout_s: float | None = None) -> EncoderOutputs:
        """See engines.runner. A batch that is run again has the same time again. Raises RunnerFailed."""
        if self._outputs is None:
            self._outputs, self.broken = self._believed(timeout_s)
            for row_is_broken in self.broken:
                self._count(bool(row_is_broken))
        return self._outputs

    def _believed(self, timeout_s: float | None) -> tuple[EncoderOutputs, NDArray[np.bool_]]:
        outputs = _read(self._runner, self._batch, self._pending, timeout_s)
        broken = _broken(outputs)
        if len(self._batch) == 1 or not broken.any():
            return outputs, broken
        singles = [self._batch[row : row + 1] for row in range(len(self._batch))]
        again = joined([_read(self._runner, one, _begun(self._runner, one), timeout_s) for one in singles])
        return again, _broken(again)


def _broken(outputs: EncoderOutputs) -> NDArray[np.bool_]:
    """bool [n]: the rows that hold anything but finite numbers."""
    sums = [getattr(outputs, name).reshape(len(outputs.embedding), -1).sum(axis=1) for name in OUTPUT_NAMES]
    return np.asarray(~np.isfinite(np.stack(sums)).all(axis=0))


def _begun(runner: Starts[B], batch: B) -> Pending | None:
    """None where there was no memory to begin with."""
    try:
        return runner.start(batch)
    except OutOfMemory:
        return None


def _read(runner: Starts[B], batch: B, pending: Pending | None, timeout_s: float | None) -> EncoderOutputs:
    try:
        if pending is not None:
            return pending.result(timeout_s)
        raise OutOfMemory(f"{runner.info.name}: no memory for a batch of {len(batch)}")
    except OutOfMemory:
        if len(batch) <= 1:
            raise
    middle = len(batch) // 2
    halves = batch[:middle], batch[middle:]
    return joined([_read(runner, half, _begun(runner, half), timeout_s) for half in halves])
