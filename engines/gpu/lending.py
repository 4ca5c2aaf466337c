"""Pinned memory that a batch's results lie in for as long as anyone has a part of them: it comes back by itself when
the last array over it is gone. So results are copied once, by the device.

It is the host's own, pinned from its first loan until the lender closes: what somebody has a part of lives on. What
CUDA itself allocates can be freed in the device's thread alone, and the last part of it goes in any.
"""

from __future__ import annotations

import ctypes
import dataclasses
import math
import queue
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from engines.errors import OutOfMemory, RunnerFailed

_ALIGNMENT: Final = 256
_PAGE_BYTES: Final = 4096
_NO_MEMORY: Final = 2  # CUDA_ERROR_OUT_OF_MEMORY


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pinned:
    """uint8 [n] that the device copies to without holding up its thread, until `unpin` is called in that thread."""

    array: NDArray[np.uint8]
    unpin: Callable[[], object]


def pinned(size_bytes: int) -> Pinned:
    """In the device's thread. Raises OutOfMemory or RunnerFailed with CUDA's code. The driver itself is called, for
    PyCUDA's `register_host_memory` sets an array's base twice, and NumPy refuses that."""
    whole = np.empty(size_bytes + _PAGE_BYTES, np.uint8)
    first = -whole.ctypes.data % _PAGE_BYTES
    array, driver = whole[first : first + size_bytes], cuda_driver()
    at = ctypes.c_void_p(array.ctypes.data)
    if code := driver.cuMemHostRegister_v2(at, ctypes.c_size_t(size_bytes), ctypes.c_uint(0)):
        kind = OutOfMemory if code == _NO_MEMORY else RunnerFailed
        raise kind(f"{size_bytes} bytes of the host's memory could not be pinned: CUDA error {code}")
    return Pinned(array=array, unpin=lambda: driver.cuMemHostUnregister(at))


def cuda_driver() -> Any:
    return ctypes.CDLL("libcuda.so.1")  # what PyCUDA has loaded


class _Lent:
    """NumPy keeps this as the base of every array over it, and nothing else does."""

    def __init__(self, block: NDArray[np.uint8]) -> None:
        self.block = block
        self.__array_interface__ = block.__array_interface__


class Lender:
    """Blocks for arrays of these `shapes`, by name. At most `most` are pinned; whoever wants another while all are lent
    gets memory that is not. Made, taken of and closed in the device's thread."""

    def __init__(
        self,
        shapes: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]],
        most: int,
        make: Callable[[int], Pinned] = pinned,
    ) -> None:
        self._shapes = shapes
        self._make = make
        self._left = most
        self._pinned: list[Pinned] = []
        self._back: queue.SimpleQueue[NDArray[np.uint8]] = queue.SimpleQueue()
        self._bytes = sum(_padded(shape, dtype) for shape, dtype in shapes.values())

    def take(self) -> tuple[dict[str, NDArray[Any]], bool]:
        """Arrays with whatever was there before, and whether they are pinned."""
        block = self._block()
        if block is None:
            return self._cut(np.empty(self._bytes, np.uint8)), False
        lent = _Lent(block)
        weakref.finalize(lent, self._back.put, block).atexit = False
        return self._cut(np.asarray(lent)), True

    def _cut(self, whole: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        arrays, first = {}, 0
        for name, (shape, dtype) in self._shapes.items():
            size = math.prod(shape) * dtype.itemsize
            arrays[name] = whole[first : first + size].view(dtype).reshape(shape)
            first += _padded(shape, dtype)
        return arrays

    def close(self) -> None:
        """Whoever has arrays still keeps them, in memory like any other."""
        self._left = 0
        for block in self._pinned:
            block.unpin()
        self._pinned.clear()
        while not self._back.empty():
            self._back.get()

    def _block(self) -> NDArray[np.uint8] | None:
        """None where all are lent."""
        try:
            return self._back.get_nowait()
        except queue.Empty:
            pass
        if self._left:
            self._left -= 1
            self._pinned.append(self._make(self._bytes))
            return self._pinned[-1].array
        return None


def _padded(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    return -(-math.prod(shape) * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT
