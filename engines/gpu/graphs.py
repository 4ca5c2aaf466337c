"""CUDA graphs of a batch: launched as one, where `cuda.bindings` is installed (PyCUDA has no graphs of its own)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from engines.errors import RunnerFailed

_log = logging.getLogger(__name__)


def buckets(largest: int) -> tuple[int, ...]:
    """Batch sizes that have a graph: all up to 8, then four to a doubling: filling up adds a quarter at most."""
    sizes = list(range(1, 9))
    while sizes[-1] < largest:
        step = sizes[-1] // 4
        sizes += [sizes[-1] + step * part for part in (1, 2, 3, 4)]
    return (*(size for size in sizes if size < largest), largest)


def bucket_for(count: int, sizes: tuple[int, ...]) -> int:
    """The smallest bucket that holds `count`."""
    return next(size for size in sizes if size >= count)


class Graphs:
    """The recorded launches of one stream, by batch size. In the device's thread."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._runtime = _runtime()
        self._recorded: dict[int, Any] = {}
        self._recording = self._runtime is not None

    def launch(self, size: int) -> bool:
        """Launch what was recorded for `size`; False where nothing was. Raises RunnerFailed."""
        graph = self._recorded.get(size)
        if graph is None:
            return False
        _checked(self._runtime.cudaGraphLaunch(graph, self._stream.handle))
        return True

    def record(self, size: int, enqueue: Callable[[], None]) -> None:
        """Record what `enqueue` puts on the stream, which it has done once before without a graph; nothing runs. Where
        that fails, this stream goes without graphs."""
        if not self._recording or size in self._recorded:
            return
        try:
            self._recorded[size] = self._captured(enqueue)
        except Exception as error:  # whatever a library says, the launches work without being recorded
            _log.warning("batches of %d run without a CUDA graph: %s", size, error)
            self._recording = False

    def _captured(self, enqueue: Callable[[], None]) -> Any:
        runtime = self._runtime
        mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        _checked(runtime.cudaStreamBeginCapture(self._stream.handle, mode))
        try:
            enqueue()
        finally:
            ended = runtime.cudaStreamEndCapture(self._stream.handle)
        (graph,) = _checked(ended)
        (executable,) = _checked(runtime.cudaGraphInstantiate(graph, 0))
        _checked(runtime.cudaGraphDestroy(graph))
        return executable

    def close(self) -> None:
        """Let the graphs go."""
        for graph in self._recorded.values():
            self._runtime.cudaGraphExecDestroy(graph)
        self._recorded.clear()


def _runtime() -> Any:
    try:
        from cuda.bindings import runtime
    except ImportError:
        return None
    return runtime


def _checked(answer: tuple[Any, ...]) -> tuple[Any, ...]:
    error, *values = answer
    if int(error) != 0:
        raise RunnerFailed(f"CUDA says {error!s}")
    return tuple(values)
