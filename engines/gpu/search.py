"""The exact nearest rows of a large gallery, by tensor cores, with nothing missed.

Half-precision scores leave the chip only as the largest of each group of 32 rows. Let m be the m-th largest of those
over groups, for m nearest rows asked; a half-precision score lies within a bound E of the exact one (Cauchy-Schwarz on
what rounding took from the probe and from the rows, measured, and the additions' own error). The m groups above hold m
rows of at least m - E exactly, so every one of the m nearest has at least that, hence m - 2 E in half precision, and so
has its group. All groups from there on are scored again in float64. `chosen_groups` is this rule on the host.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from engines.gpu.device import Device
from engines.gpu.memory import Buffers

SEARCH: Final = Path(__file__).with_name("search.fatbin")
NEEDS: Final = (8, 0)  # compute capability
GROUP: Final = 32
SLOTS: Final = 256  # groups scored again; more, and the search says that it does not know
_TILE: Final = 128
_DEPTH: Final = 64
_STAGES: Final = 4
_MOST_WANTED: Final = 32
_MOST_PROBES: Final = 256
_UNIT: Final = 2.0**-22


def score_bound(probe: tuple[float, float], gallery: tuple[float, float], depth: int) -> float:
    """How far a half-precision score may lie from the exact one. Lengths: (lost to rounding, left by it), of the probe
    and the largest of the gallery; `depth` elements are added up."""
    added = (depth + depth // 16) * _UNIT
    off = probe[0] * (gallery[0] + gallery[1]) + probe[1] * gallery[0]
    return 1.0001 * (off + added * probe[1] * gallery[1]) + 1e-7


def chosen_groups(largest: NDArray[np.float32], bound: float, wanted: int) -> NDArray[np.intp]:
    """Groups that may hold one of the `wanted` nearest rows, of the largest score of each, [groups]."""
    if wanted >= len(largest):
        return np.arange(len(largest))
    least = np.partition(largest, len(largest) - wanted)[len(largest) - wanted] - 2 * bound
    return np.flatnonzero(largest >= least)


@dataclass(frozen=True, slots=True, kw_only=True)
class Nearest:
    """`rows` int32 [probes, wanted], -1 where there are fewer, best first, ties by row; `scores` float64 beside them.
    `known` [probes]: False where too many groups came as near as the nearest; those rows are not to be used."""

    rows: NDArray[np.int32]
    scores: NDArray[np.float64]
    known: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A gallery's rows on the device: float32 [count, dims], and in half precision, padded, where it is `searched`.
    Sized."""

    exact: Any
    halves: Any | None
    longest: NDArray[np.float32]  # [2]: of the rows' lengths, lost to rounding and left
    count: int
    dims: int
    size_bytes: int

    @property
    def depth(self) -> int:
        return _padded(self.dims, _DEPTH)

    @property
    def tiles(self) -> int:
        return -(-self.count // _TILE)

    def free(self) -> None:
        for allocation in (self.exact, self.halves):
            if allocation is not None:
                allocation.free()


def table_bytes(count: int, dims: int, *, searched: bool) -> int:
    halves = _padded(count, _TILE) * _padded(dims, _DEPTH) * 2 if searched else 0
    return count * dims * 4 + halves


def load_table(device: Device, rows: NDArray[np.float32], *, searched: bool) -> Table:
    """Copy `rows` [count, dims]. In the device's thread. A table that is not `searched` is for kernels that read every
    row."""
    import pycuda.driver as cuda

    count, dims = rows.shape
    exact = cuda.mem_alloc(max(1, rows.nbytes))
    cuda.memcpy_htod(exact, np.ascontiguousarray(rows, np.float32))
    halves, longest = _halved(device, exact, count, dims) if searched else (None, np.zeros(2, np.float32))
    size = table_bytes(count, dims, searched=searched)
    return Table(exact=exact, halves=halves, longest=longest, count=count, dims=dims, size_bytes=size)


def load_numbers(numbers: NDArray[np.int32]) -> Any:
    """Copy int32 numbers. In the device's thread."""
    import pycuda.driver as cuda

    allocation = cuda.mem_alloc(max(4, numbers.nbytes))
    cuda.memcpy_htod(allocation, numbers)
    return allocation


class NearestKernels:
    """Searches. All of it in the device's thread. Needs compute capability `NEEDS` and its shared memory."""

    def __init__(self, device: Device) -> None:
        import pycuda.driver as cuda

        self.cuda = cuda
        self._timed: dict[str, float] | None = None
        self._buffers = Buffers()
        self._stream = cuda.Stream()
        names = ("halve", "group_maxima_64", "group_maxima_256", "choose_groups", "score_again", "best_rows")
        self._kernels = {name: device.kernel(name, SEARCH) for name in names}
        for wide in (64, 256):
            limit = cuda.function_attribute.MAX_DYNAMIC_SHARED_SIZE_BYTES
            self._kernels[f"group_maxima_{wide}"].set_attribute(limit, _shared_bytes(wide))
        self._blocks = device.processors()

    def search(self, table: Table, probes: NDArray[np.float32], own: Sequence[tuple[int, int]], wanted: int) -> Nearest:
        """The `wanted` (at most 32) nearest rows of each of `probes` [n, dims], but for its `own` (from, to)."""
        parts = [slice(at, at + _MOST_PROBES) for at in range(0, len(probes), _MOST_PROBES)]
        found = [self._search(table, probes[part], own[part], wanted) for part in parts]
        return Nearest(
            rows=np.concatenate([one.rows for one in found]),
            scores=np.concatenate([one.scores for one in found]),
            known=np.concatenate([one.known for one in found]),
        )

    def _search(
        self, table: Table, probes: NDArray[np.float32], own: Sequence[tuple[int, int]], wanted: int
    ) -> Nearest:
        sent, own_at = self._send(probes, own)
        self.enqueue(table, sent, own_at, len(probes), wanted)
        return self._read(len(probes), wanted)

    def enqueue(self, table: Table, probes: Any, own: Any, count: int, wanted: int) -> None:
        """Start the search of `count` probes that lie on the device, with their own rows; benchmarks time this."""
        if not 1 <= wanted <= _MOST_WANTED or table.halves is None:
            raise ValueError(f"{wanted} rows of at most {_MOST_WANTED}, searched: {table.halves is not None}")
        wide = 64 if count <= 64 else _MOST_PROBES
        depth, tiles = np.int32(table.depth), np.int32(table.tiles)
        halves = self._buffers.device("halves", wide * table.depth * 2)
        lengths = self._buffers.device("lengths", wide * 8)
        largest = self._buffers.device("largest", wide * table.tiles * 16)
        groups = self._buffers.device("groups", count * SLOTS * 4)
        exact = self._buffers.device("exact", count * SLOTS * GROUP * 8)
        answer, found, scores = self._answer(count, wanted)
        rows, dims, most = np.int32(table.count), np.int32(table.dims), np.int32(wanted)
        self._call("halve", (wide, 1), 128, probes, np.int32(count), dims, depth, halves, lengths)
        self._call(
            f"group_maxima_{wide}", (min(self._blocks, table.tiles), 1), 256,
            table.halves, halves, tiles, depth, largest, shared=_shared_bytes(wide),
        )  # fmt: skip
        judged = (largest, lengths, table.longest, depth, own, rows, tiles, most)
        self._call("choose_groups", (count, 1), 1024, *judged, groups, found)
        self._call("score_again", (16, count), 256, table.exact, probes, own, groups, found, rows, dims, exact)
        self._call("best_rows", (count, 1), 256, exact, groups, found, most, answer, scores)

    def event_ms(self, call: Callable[[], None]) -> float:
        """How long the device takes for what `call` enqueues here."""
        first, last = self.cuda.Event(), self.cuda.Event()
        first.record(self._stream)
        call()
        last.record(self._stream)
        last.synchronize()
        return float(last.time_since(first))

    def timed(self, table: Table, probes: Any, own: Any, count: int = 256, wanted: int = 10) -> dict[str, float]:
        """Milliseconds by kernel of one search, each waited for."""
        self._timed = {}
        self.enqueue(table, probes, own, count, wanted)
        found, self._timed = self._timed, None
        return found

    def _send(self, probes: NDArray[np.float32], own: Sequence[tuple[int, int]]) -> tuple[Any, Any]:
        at = _padded(probes.nbytes, 16)
        size = at + len(probes) * 8
        sent, staged = self._buffers.device("sent", size), self._buffers.pinned("sent", size)
        staged[: probes.nbytes].view(np.float32)[:] = probes.ravel()
        staged[at:].view(np.int32)[:] = np.asarray(own, np.int32).ravel()
        self.cuda.memcpy_htod_async(sent, staged, self._stream)
        return sent, np.uint64(int(sent) + at)

    def _answer(self, count: int, wanted: int) -> tuple[Any, Any, Any]:
        """Rows [count, wanted], found [count], scores [count, wanted], one behind the other."""
        size, found_at, scores_at = _answer_layout(count, wanted)
        answer = self._buffers.device("answer", size)
        return answer, np.uint64(int(answer) + found_at), np.uint64(int(answer) + scores_at)

    def _read(self, count: int, wanted: int) -> Nearest:
        size, found_at, scores_at = _answer_layout(count, wanted)
        staged = self._buffers.pinned("answer", size)
        self.cuda.memcpy_dtoh_async(staged, self._answer(count, wanted)[0], self._stream)
        self._stream.synchronize()
        raw = staged.copy()
        return Nearest(
            rows=raw[: count * wanted * 4].view(np.int32).reshape(count, wanted),
            scores=raw[scores_at:].view(np.float64).reshape(count, wanted),
            known=raw[found_at : found_at + count * 4].view(np.int32) <= SLOTS,
        )

    def _call(self, name: str, grid: tuple[int, int], threads: int, *arguments: Any, shared: int = 0) -> None:
        def call() -> None:
            self._kernels[name](*arguments, block=(threads, 1, 1), grid=grid, stream=self._stream, shared=shared)

        if self._timed is None:
            call()
        else:
            self._timed[name] = round(self.event_ms(call), 4)


def _halved(device: Device, exact: Any, count: int, dims: int) -> tuple[Any, NDArray[np.float32]]:
    import pycuda.driver as cuda

    padded, depth = _padded(count, _TILE), _padded(dims, _DEPTH)
    halves, lengths = cuda.mem_alloc(padded * depth * 2), cuda.mem_alloc(padded * 8)
    device.kernel("halve", SEARCH)(
        exact, np.int32(count), np.int32(dims), np.int32(depth), halves, lengths, block=(128, 1, 1), grid=(padded, 1)
    )
    read = np.empty((padded, 2), np.float32)
    cuda.memcpy_dtoh(read, lengths)
    lengths.free()
    return halves, read.max(axis=0)


def _answer_layout(count: int, wanted: int) -> tuple[int, int, int]:
    found_at = count * wanted * 4
    scores_at = _padded(found_at + count * 4, 8)
    return scores_at + count * wanted * 8, found_at, scores_at


def _shared_bytes(wide: int) -> int:
    return _STAGES * (_TILE + wide) * _DEPTH * 2 + wide * 16


def _padded(value: int, step: int) -> int:
    return -(-value // step) * step
