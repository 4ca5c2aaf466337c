"""What may lie on a GPU: things kept by key, the least recently used leaving first, and buffers that grow.

A fifth of the GPU stays free. What is there when `allowance` is asked (engines, their buffers) has its place already;
the rest, down to that fifth, is for galleries.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Set
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Protocol, TypeVar

FREE_SHARE: Final = 0.2
_SMALLEST: Final = 1 << 16


class Sized(Protocol):
    """Something on the device. `free` gives its memory back."""

    @property
    def size_bytes(self) -> int: ...

    def free(self) -> None: ...


K = TypeVar("K", bound=Hashable)
V = TypeVar("V", bound=Sized)


def allowance(free_bytes: int, total_bytes: int) -> int:
    """Bytes that may still be taken of a GPU."""
    return max(0, free_bytes - int(FREE_SHARE * total_bytes))


@dataclass(slots=True)
class Kept(Generic[K, V]):
    """Values by key within `limit_bytes`. Used by one thread at a time."""

    limit_bytes: int
    used_bytes: int = field(init=False, default=0)
    _values: OrderedDict[K, V] = field(init=False, default_factory=OrderedDict)

    def find(self, key: K) -> V | None:
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def add(self, key: K, size_bytes: int, make: Callable[[], V], held: Set[K]) -> V | None:
        """What `make` makes, kept as `key`. None where it does not fit beside what is `held`, which stays."""
        if not self._make_room(size_bytes, held):
            return None
        made = make()
        self._values[key] = made
        self.used_bytes += made.size_bytes
        return made

    def drop(self, unwanted: Callable[[K], bool]) -> None:
        """Let go what nobody will ask for any more."""
        for key in [key for key in self._values if unwanted(key)]:
            self._drop(key)

    def close(self) -> None:
        self.drop(lambda _: True)

    def _make_room(self, size_bytes: int, held: Set[K]) -> bool:
        leaving = []
        free = self.limit_bytes - self.used_bytes
        for key, value in self._values.items():
            if free >= size_bytes:
                break
            if key not in held:
                leaving.append(key)
                free += value.size_bytes
        if free < size_bytes:
            return False
        for key in leaving:
            self._drop(key)
        return True

    def _drop(self, key: K) -> None:
        value = self._values.pop(key)
        self.used_bytes -= value.size_bytes
        value.free()


class Buffers:
    """Device buffers and pinned host twins by name, each as large as the most that was asked of it. In the device's
    thread."""

    def __init__(self) -> None:
        import pycuda.driver as cuda

        self._cuda = cuda
        self._device: dict[str, tuple[int, Any]] = {}
        self._host: dict[str, Any] = {}

    def device(self, name: str, size_bytes: int) -> Any:
        """An allocation of at least `size_bytes`; its content is whatever was there."""
        size, allocation = self._device.get(name, (0, None))
        if size < size_bytes:
            if allocation is not None:
                del self._device[name], allocation
            size = max(_SMALLEST, 1 << (size_bytes - 1).bit_length())
            self._device[name] = size, self._cuda.mem_alloc(size)
        return self._device[name][1]

    def pinned(self, name: str, size_bytes: int) -> Any:
        """uint8 [size_bytes] of page-locked memory."""
        found = self._host.get(name)
        if found is None or len(found) < size_bytes:
            size = max(_SMALLEST, 1 << max(0, size_bytes - 1).bit_length())
            found = self._host[name] = self._cuda.pagelocked_empty((size,), "u1")
        return found[:size_bytes]
