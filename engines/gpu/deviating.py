"""Patch features of many views against their references, on the device: maps, their scalars and how both lie.

The twins are worker.core.deviation and worker.core.alignment; compare.cu says what each kernel does. Of a view, 4 bytes
a cell and 16 more travel back, and 52 of each of its references.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from engines.gpu.device import Device
from engines.gpu.memory import Buffers

COMPARE: Final = Path(__file__).with_name("compare.fatbin")
MOST_DEPTH: Final = 128
MOST_CELLS: Final = 4096
_MOST_COARSE: Final = 1024
_POOL_FROM_CELLS: Final = 16
_OFFSETS: Final = 25
_TILE: Final = 64
_MOST_VIEWS: Final = 64  # of one launch: bounds the buffers between kernels
_MOST_PAIRS: Final = 512
_VIEW: Final = np.dtype(
    [("probe", "u8"), ("references", "u8"), ("spread", "u8"), ("kept", "u8")]
    + [(name, "i4") for name in ("count", "kept_cells", "first_pair", "pad")]
)
_FIT_BYTES: Final = 32
_TOTALS: Final = 4  # float32 of a view: scalar, mean distance, aligned, finite
OVERLAY: Final = 13  # float32 of a pair: compare.cu's Overlay
_KERNELS: Final = (
    *("pool_probes", "pool_references", "coarse_nearest", "fit_affine"),
    *("local_cosines", "free_cosines", "finish"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicePatches:
    """Patch features float32 [h*w, d] that already lie on the device at `address`; `owner` keeps them there."""

    address: int
    shape: tuple[int, int]
    owner: object


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchSet:
    """References on the device: int8 [count, h*w, d] and their spread float32 [h*w]. Sized."""

    allocation: Any
    spread_at: int  # bytes from the allocation's start
    size_bytes: int
    count: int
    grid: tuple[int, int]
    depth: int

    def free(self) -> None:
        self.allocation.free()


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A probe's patches [h*w, d] (rows L2-normalised) to be compared; `kept` bool [h, w]: False where masked."""

    probe: NDArray[np.float32] | DevicePatches
    references: PatchSet
    kept: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deviations:
    """`cells` float32 [h, w], 1 is typical of genuine, 0 where masked. `overlays` float32 [references, 13]: inliers,
    their affine [3, 2] and the one that does not prefer near matches. The rest as worker.core.deviation.Deviation."""

    cells: NDArray[np.float32]
    overlays: NDArray[np.float32]
    scalar: float
    mean_distance: float
    aligned: bool
    finite: bool  # False: the probe holds a NaN or an infinity, and nothing else here means anything


def takes(grid: tuple[int, int], depth: int) -> bool:
    """Whether the kernels' fixed sizes fit; what they do not take is the host's."""
    cells, factor = grid[0] * grid[1], _pooled_by(grid)
    coarse = (grid[0] // factor) * (grid[1] // factor)
    return depth % 16 == 0 and depth <= MOST_DEPTH and 0 < cells <= MOST_CELLS and 0 < coarse <= _MOST_COARSE


def patch_set_bytes(patches: NDArray[np.int8]) -> int:
    return _spread_at(patches) + 4 * int(patches.shape[1])


def load_patch_set(patches: NDArray[np.int8], spread: NDArray[np.float32]) -> PatchSet:
    """Copy `patches` [n, h*w, d] and `spread` [h, w]. In the device's thread."""
    import pycuda.driver as cuda

    size, at = patch_set_bytes(patches), _spread_at(patches)
    packed = np.zeros(size, np.uint8)
    packed[: patches.nbytes] = patches.reshape(-1).view(np.uint8)
    packed[at:] = np.ascontiguousarray(spread, np.float32).reshape(-1).view(np.uint8)
    allocation = cuda.mem_alloc(size)
    cuda.memcpy_htod(allocation, packed)
    height, width = spread.shape
    return PatchSet(
        allocation=allocation,
        spread_at=at,
        size_bytes=size,
        count=len(patches),
        grid=(height, width),
        depth=patches.shape[2],
    )


class DeviationKernels:
    """Runs comparisons. All of it in the device's thread."""

    def __init__(self, device: Device) -> None:
        import pycuda.driver as cuda

        self._cuda = cuda
        self._kernels = {name: device.kernel(name, COMPARE) for name in _KERNELS}
        self._buffers = Buffers()
        self._stream = cuda.Stream()

    def run(self, comparisons: Sequence[Comparison]) -> list[Deviations]:
        """In the order of `comparisons`; those of one grid and depth run together."""
        results: list[Deviations | None] = [None] * len(comparisons)
        numbered = sorted(enumerate(comparisons), key=lambda pair: _geometry(pair[1]))
        for _, alike in itertools.groupby(numbered, key=lambda pair: _geometry(pair[1])):
            for launch in _launches(list(alike)):
                found = self._launch([comparison for _, comparison in launch])
                for (number, _), result in zip(launch, found, strict=True):
                    results[number] = result
        return [result for result in results if result is not None]

    def _launch(self, views: Sequence[Comparison]) -> list[Deviations]:
        grid, depth = views[0].references.grid, views[0].references.depth
        cells, factor = grid[0] * grid[1], _pooled_by(grid)
        coarse_grid = (grid[0] // factor, grid[1] // factor)
        coarse = coarse_grid[0] * coarse_grid[1]
        counts = [view.references.count for view in views]
        described, pairs = self._describe(views, cells, depth)
        geometry = np.array([*grid, depth, factor, *coarse_grid], np.int32)
        count, pair_count = len(views), sum(counts)
        pooled = self._buffers.device("pooled", (count + pair_count) * coarse * depth * 4)
        pooled_references = np.uint64(int(pooled) + count * coarse * depth * 4)
        forward = self._zeroed("nearest", 4 * pair_count * coarse * 8)  # for the two fits
        backward = np.uint64(int(forward) + 2 * pair_count * coarse * 8)
        any_aligned = self._zeroed("any", count * 4)
        ahead = self._zeroed("free", 2 * count * cells * 4)
        back = np.uint64(int(ahead) + count * cells * 4)
        fits = self._buffers.device("fits", pair_count * _FIT_BYTES)
        cosines = self._buffers.device("cosines", count * cells * _OFFSETS * 4)
        totals = self._buffers.device("answer", 4 * answer_floats(count, cells, pair_count))
        maps = np.uint64(int(totals) + 4 * count * _TOTALS)  # behind them, for they are written 16 bytes at once
        overlays = np.uint64(int(maps) + 4 * count * cells)
        tiles = (-(-coarse // _TILE)) ** 2
        self._call("pool_probes", (coarse, count), 128, described, geometry, pooled)
        self._call("pool_references", (coarse, pair_count), 128, described, pairs, geometry, pooled_references)
        near = (pairs, geometry, pooled, pooled_references, forward, backward)
        self._call("coarse_nearest", (tiles, pair_count), 256, *near)
        fit = (pairs, geometry, forward, backward, fits, any_aligned, overlays)
        self._call("fit_affine", (pair_count, 2), 128, *fit)
        self._call("local_cosines", (cells, count), 128, described, geometry, fits, any_aligned, cosines)
        free = (described, pairs, np.int32(pair_count), geometry, any_aligned, ahead, back)
        self._call("free_cosines", (min(528, pair_count * (-(-cells // _TILE)) ** 2), 1), 256, *free)
        rest = (described, geometry, any_aligned, cosines, ahead, back, maps, totals)
        self._call("finish", (count, 1), 256, *rest)
        staged = self._buffers.pinned("answer", 4 * answer_floats(count, cells, pair_count))
        self._cuda.memcpy_dtoh_async(staged, totals, self._stream)
        self._stream.synchronize()
        return read_answer(staged.view(np.float32).copy(), counts, grid)

    def _describe(self, views: Sequence[Comparison], cells: int, depth: int) -> tuple[Any, Any]:
        """Views and pairs on the device, with whatever of them lies on the host still. One copy."""
        table = np.zeros(len(views), _VIEW)
        counts = [view.references.count for view in views]
        first = np.cumsum([0, *counts[:-1]])
        pairs = _pairs(counts, first)
        kept = np.stack([view.kept for view in views]).reshape(len(views), cells)
        kept_cells = kept.sum(axis=1).tolist()
        hosted = [view.probe.reshape(-1) for view in views if not isinstance(view.probe, DevicePatches)]
        pairs_at = table.nbytes
        kept_at = pairs_at + pairs.nbytes
        probes_at = -(-(kept_at + len(views) * cells) // 16) * 16
        size = probes_at + len(hosted) * cells * depth * 4
        sent = self._buffers.device("sent", size)
        staged = self._buffers.pinned("sent", size)
        upload = iter(range(int(sent) + probes_at, int(sent) + size, cells * depth * 4))
        for number, view in enumerate(views):
            held = view.references
            at = view.probe.address if isinstance(view.probe, DevicePatches) else next(upload)
            references = int(held.allocation)
            addresses = (at, references, references + held.spread_at, int(sent) + kept_at + number * cells)
            table[number] = (*addresses, held.count, kept_cells[number], first[number], 0)
        staged[:pairs_at] = table.view(np.uint8)
        staged[pairs_at:kept_at] = pairs.reshape(-1).view(np.uint8)
        staged[kept_at : kept_at + kept.size] = kept.reshape(-1).view(np.uint8)
        if hosted:
            np.concatenate(hosted, out=staged[probes_at:size].view(np.float32))
        self._cuda.memcpy_htod_async(sent, staged, self._stream)
        return sent, np.uint64(int(sent) + pairs_at)

    def _zeroed(self, name: str, size_bytes: int) -> Any:
        allocation = self._buffers.device(name, size_bytes)
        self._cuda.memset_d8_async(int(allocation), 0, size_bytes, self._stream)
        return allocation

    def _call(self, name: str, grid: tuple[int, int], threads: int, *arguments: Any) -> None:
        self._kernels[name](*arguments, block=(threads, 1, 1), grid=grid, stream=self._stream)


def answer_floats(views: int, cells: int, pairs: int) -> int:
    """How many float32 the answer of a launch has."""
    return views * (_TOTALS + cells) + pairs * OVERLAY


def read_answer(numbers: NDArray[np.float32], counts: Sequence[int], grid: tuple[int, int]) -> list[Deviations]:
    """Of views with `counts` references: their totals, then their maps, then the overlays of their pairs."""
    maps_at = len(counts) * _TOTALS
    overlays_at = maps_at + len(counts) * grid[0] * grid[1]
    totals = numbers[:maps_at].reshape(-1, _TOTALS).tolist()
    maps = numbers[maps_at:overlays_at].reshape(-1, *grid)
    overlays = numbers[overlays_at:].reshape(-1, OVERLAY)
    ends = itertools.accumulate(counts)
    return [
        Deviations(
            cells=cells,
            overlays=overlays[end - count : end],
            scalar=scalar,
            mean_distance=mean,
            aligned=bool(aligned),
            finite=bool(finite),
        )
        for cells, count, end, (scalar, mean, aligned, finite) in zip(maps, counts, ends, totals, strict=True)
    ]


def _pairs(counts: Sequence[int], first: NDArray[np.int64]) -> NDArray[np.int32]:
    """int32 [p, 2]: each view beside each of its references, both by number."""
    views = np.repeat(np.arange(len(counts)), counts)
    return np.stack([views, np.arange(len(views)) - first[views]], axis=1).astype(np.int32)


def _launches(numbered: Sequence[tuple[int, Comparison]]) -> list[list[tuple[int, Comparison]]]:
    """Cut so that none has too many views or pairs; a view of very many references goes alone."""
    launches: list[list[tuple[int, Comparison]]] = []
    pairs = _MOST_PAIRS
    for item in numbered:
        count = item[1].references.count
        if not launches or len(launches[-1]) == _MOST_VIEWS or pairs + count > _MOST_PAIRS:
            launches.append([])
            pairs = 0
        launches[-1].append(item)
        pairs += count
    return launches


def _geometry(comparison: Comparison) -> tuple[int, int, int]:
    return *comparison.references.grid, comparison.references.depth


def _pooled_by(grid: tuple[int, int]) -> int:
    return 2 if min(grid) >= _POOL_FROM_CELLS else 1


def _spread_at(patches: NDArray[np.int8]) -> int:
    return -(-patches.nbytes // 16) * 16
