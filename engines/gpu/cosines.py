"""Cosines of embeddings with rows that lie on the device, in float32: all of them, the best that is not one's own, or
the best of each SKU. For galleries too large to read whole for each probe see engines/gpu/search.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from engines.gpu.deviating import COMPARE
from engines.gpu.device import Device
from engines.gpu.memory import Buffers
from engines.gpu.search import Table

_ROWS: Final = np.dtype(
    [(name, "u8") for name in ("embedding", "rows", "skus")]
    + [(name, "i4") for name in ("count", "dims", "own_from", "own_to", "out", "pad")]
)
_WARPS: Final = 8
_MOST_BLOCKS: Final = 64  # of one view


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """An embedding [dims] that looks at `count` rows of a table from `first` on, but for its `own` (from, to)."""

    embedding: NDArray[np.float32]
    table: Table
    first: int
    count: int
    own: tuple[int, int] = (0, 0)


class CosineKernels:
    """All of it in the device's thread."""

    def __init__(self, device: Device) -> None:
        import pycuda.driver as cuda

        self._cuda = cuda
        self._buffers = Buffers()
        self._stream = cuda.Stream()
        names = ("row_cosines", "nearest_row", "sku_cosines")
        self._kernels = {name: device.kernel(name, COMPARE) for name in names}

    def all(self, looked: Sequence[Looked]) -> list[NDArray[np.float32]]:
        """The cosines with every row, [count] each."""
        ends = np.cumsum([one.count for one in looked], dtype=np.int64)
        numbers = self._run("row_cosines", looked, [0, *ends[:-1]], int(ends[-1]) * 4, zeroed=False).view(np.float32)
        return np.split(numbers, ends[:-1])

    def nearest(self, looked: Sequence[Looked]) -> list[tuple[int, float] | None]:
        """The nearest row, counted from `first`, and its cosine; ties go to the lower row. None: all are its own."""
        keys = self._run("nearest_row", looked, [0] * len(looked), len(looked) * 8, zeroed=True).view(np.uint64)
        rows = 0xFFFFFFFF - (keys & 0xFFFFFFFF).astype(np.int64)
        cosines = _unordered((keys >> np.uint64(32)).astype(np.uint32))
        found = zip(keys.tolist(), rows.tolist(), cosines.tolist(), strict=True)
        return [(row, cosine) if key else None for key, row, cosine in found]

    def by_sku(self, looked: Sequence[Looked], skus: Sequence[tuple[Any, int]]) -> list[NDArray[np.float32]]:
        """The best cosine of each SKU: `skus` beside `looked`, an int32 array on the device that numbers each row's
        SKU, and how many there are."""
        ends = np.cumsum([count for _, count in skus], dtype=np.int64)
        numbered = [int(allocation) for allocation, _ in skus]
        keys = self._run("sku_cosines", looked, [0, *ends[:-1]], int(ends[-1]) * 4, zeroed=True, skus=numbered)
        return np.split(_unordered(keys.view(np.uint32)), ends[:-1])

    def _run(
        self,
        name: str,
        looked: Sequence[Looked],
        outs: Sequence[int],
        size_bytes: int,
        *,
        zeroed: bool,
        skus: Sequence[int] = (),
    ) -> NDArray[np.uint8]:
        described = self._describe(looked, outs, skus)
        answer = self._buffers.device("answer", size_bytes)
        if zeroed:
            self._cuda.memset_d8_async(int(answer), 0, size_bytes, self._stream)
        blocks = min(_MOST_BLOCKS, -(-max(one.count for one in looked) // _WARPS))
        self._kernels[name](
            described, answer, block=(_WARPS * 32, 1, 1), grid=(max(1, blocks), len(looked)), stream=self._stream
        )
        staged = self._buffers.pinned("answer", size_bytes)
        self._cuda.memcpy_dtoh_async(staged, answer, self._stream)
        self._stream.synchronize()
        return np.array(staged)

    def _describe(self, looked: Sequence[Looked], outs: Sequence[int], skus: Sequence[int]) -> Any:
        """The descriptions and then the embeddings, in one copy."""
        embeddings = np.concatenate([one.embedding for one in looked])
        table_bytes = len(looked) * _ROWS.itemsize
        size = table_bytes + embeddings.nbytes
        sent, staged = self._buffers.device("sent", size), self._buffers.pinned("sent", size)
        at = int(sent) + table_bytes
        rows_of: list[tuple[int, ...]] = []
        for number, one in enumerate(looked):
            rows = int(one.table.exact) + one.first * one.table.dims * 4
            owned = (one.own[0] - one.first, one.own[1] - one.first)
            whose = skus[number] if skus else 0
            rows_of.append((at, rows, whose, one.count, one.table.dims, *owned, outs[number], 0))
            at += one.embedding.nbytes
        staged[:table_bytes] = np.array(rows_of, _ROWS).view(np.uint8)
        staged[table_bytes:] = embeddings.view(np.uint8)
        self._cuda.memcpy_htod_async(sent, staged, self._stream)
        return sent


def _unordered(keys: NDArray[np.uint32]) -> NDArray[np.float32]:
    """The kernels' order-preserving numbers as the floats they were."""
    bits = np.where(keys >> np.uint32(31), keys & np.uint32(0x7FFFFFFF), ~keys)
    return bits.astype(np.uint32).view(np.float32)
