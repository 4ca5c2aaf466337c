"""What a runner answers is not believed unseen.

A batch for which the device has no memory runs in halves. A batch with a number that is not finite is not used: each
of its photographs runs again alone, and only what is broken alone as well stays so. An engine that answers nothing else
any more has failed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from engines.errors import OutOfMemory, RunnerFailed
from engines.runner import OUTPUT_NAMES, EncoderOutputs, EngineInfo, Pending, Runner

_BROKEN_IN_A_ROW: Final = 8  # photographs; a test on golden images at the next start finds what is wrong for good


class GuardedRunner:
    """A Runner over another."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._broken = 0  # in a row, until now; told by the one thread that reads results

    @property
    def info(self) -> EngineInfo:
        return self._runner.info

    def start(self, pixels: NDArray[np.uint8]) -> GuardedBatch:
        return GuardedBatch(self._runner, pixels, self._count)

    def close(self) -> None:
        self._runner.close()

    def _count(self, row_is_broken: bool) -> None:
        self._broken = self._broken + 1 if row_is_broken else 0
        if self._broken >= _BROKEN_IN_A_ROW:
            raise RunnerFailed(f"{self.info.name}: no finite numbers for the last {self._broken} photographs")


class GuardedBatch:
    """`broken`, bool [n], names the rows whose numbers must not be used; it is there once `result` has returned."""

    broken: NDArray[np.bool_]

    def __init__(self, runner: Runner, pixels: NDArray[np.uint8], count: Callable[[bool], None]) -> None:
        self._runner = runner
        self._pixels = pixels
        self._count = count
        self._pending = _begun(runner, pixels)
        self._outputs: EncoderOutputs | None = None

    def result(self, timeout_s: float | None = None) -> EncoderOutputs:
        """See engines.runner. A batch that is run again has the same time again. Raises RunnerFailed."""
        if self._outputs is None:
            self._outputs = self._believed(timeout_s)
            self.broken = _broken(self._outputs)
            for row_is_broken in self.broken:
                self._count(bool(row_is_broken))
        return self._outputs

    def _believed(self, timeout_s: float | None) -> EncoderOutputs:
        outputs = _read(self._runner, self._pixels, self._pending, timeout_s)
        if len(self._pixels) == 1 or not _broken(outputs).any():
            return outputs
        singles = [self._pixels[row : row + 1] for row in range(len(self._pixels))]
        return _joined([_read(self._runner, one, _begun(self._runner, one), timeout_s) for one in singles])


def _broken(outputs: EncoderOutputs) -> NDArray[np.bool_]:
    """bool [n]: the rows that hold anything but finite numbers."""
    sums = [getattr(outputs, name).reshape(len(outputs.embedding), -1).sum(axis=1) for name in OUTPUT_NAMES]
    return np.asarray(~np.isfinite(np.stack(sums)).all(axis=0))


def _begun(runner: Runner, pixels: NDArray[np.uint8]) -> Pending | None:
    """None where there was no memory to begin with."""
    try:
        return runner.start(pixels)
    except OutOfMemory:
        return None


def _read(
    runner: Runner, pixels: NDArray[np.uint8], pending: Pending | None, timeout_s: float | None
) -> EncoderOutputs:
    try:
        if pending is not None:
            return pending.result(timeout_s)
        raise OutOfMemory(f"{runner.info.name}: no memory for a batch of {len(pixels)}")
    except OutOfMemory:
        if len(pixels) <= 1:
            raise
    middle = len(pixels) // 2
    halves = pixels[:middle], pixels[middle:]
    return _joined([_read(runner, half, _begun(runner, half), timeout_s) for half in halves])


def _joined(parts: list[EncoderOutputs]) -> EncoderOutputs:
    return EncoderOutputs(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in OUTPUT_NAMES})
