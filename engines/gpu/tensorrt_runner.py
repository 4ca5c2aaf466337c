"""TensorRT behind the port of every runner. Beside squares it takes photographs, which the device decodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.gpu.encoder import DeviceBatch, DeviceEncoder
from engines.gpu.photographs import Photograph
from engines.runner import EngineInfo


class TensorRtRunner:
    """A Runner over squares. Thread-safe: any thread may start a batch; batches begin in order."""

    def __init__(self, encoder: DeviceEncoder) -> None:
        self._encoder = encoder
        self.photographs = PhotographRunner(encoder)

    @property
    def info(self) -> EngineInfo:
        return self._encoder.info

    def start(self, pixels: NDArray[np.uint8]) -> DeviceBatch:
        return self._encoder.squares(pixels)

    def close(self) -> None:
        self._encoder.close()


class PhotographRunner:
    """The same encoder, over photographs; closed with its runner."""

    def __init__(self, encoder: DeviceEncoder) -> None:
        self._encoder = encoder

    @property
    def info(self) -> EngineInfo:
        return self._encoder.info

    @property
    def largest(self) -> int:
        """Photographs that run as one."""
        return self._encoder.largest

    def opened(self, picture: bytes) -> Any | None:
        """The decoder's view of a photograph, for its `stream`. In any thread."""
        return self._encoder.opened(picture)

    def start(self, batch: Sequence[Photograph]) -> DeviceBatch:
        return self._encoder.photographs(batch)

    def close(self) -> None:
        """Nothing of its own."""
