"""The gallery on a GPU: the exact search of a large one (G17), and patch features compared, each beside its twin.

    python -m benchmarks.gpu_gallery [--rows 1000000] [--out FILE]

Needs PyCUDA and a GPU and no service. Times are medians of CUDA events; the first answers are checked in float64.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.drawn_patches import GRID, REFERENCES, genuine_view, unit
from engines.gpu.deviating import Comparison, DeviationKernels, DevicePatches, load_patch_set
from engines.gpu.device import Device
from engines.gpu.memory import Buffers
from engines.gpu.search import NearestKernels, Table, load_table
from worker.core.deviation import Floats, deviation

WANTED = 10
PROBES = 256
DIMS = 768
PATCH_DEPTH = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    device = Device()
    found = {"gpu": device.name, "search": searched(device, given.rows), "compare": compared(device)}
    device.close()
    text = json.dumps(found, indent=2)
    print(text)
    if given.out is not None:
        given.out.write_text(text + "\n")


def searched(device: Device, rows: int) -> dict[str, object]:
    """Of random directions, a tenth of them near copies of others, and probes near to some of them."""
    rng = np.random.default_rng(1)
    gallery = unit(rng.standard_normal((rows, DIMS), np.float32))
    copies = rows // 10
    gallery[:copies] = unit(gallery[copies : 2 * copies] + np.float32(1e-3) * gallery[2 * copies : 3 * copies])
    probes = unit(gallery[rng.integers(0, rows, PROBES)] + np.float32(0.02) * gallery[rng.integers(0, rows, PROBES)])
    probes[: PROBES // 2] = unit(rng.standard_normal((PROBES // 2, DIMS), np.float32))
    started_s = time.monotonic()
    table = device.run(lambda: load_table(device, gallery, searched=True))
    load_s = time.monotonic() - started_s
    kernels = device.run(lambda: NearestKernels(device))
    own = [(0, 0)] * PROBES
    answer = device.run(lambda: kernels.search(table, probes, own, WANTED))
    wanted = nearest_in_float64(gallery, probes)
    timed = device.run(lambda: _search_times(kernels, table, probes))
    walls = [_wall_ms(lambda: device.run(lambda: kernels.search(table, probes, own, WANTED))) for _ in range(20)]
    return {
        "rows": rows,
        "dims": DIMS,
        "probes": PROBES,
        "wanted": WANTED,
        "recall": float(np.mean([len(set(a) & set(b)) / WANTED for a, b in zip(answer.rows, wanted, strict=True)])),
        "in order": bool(np.array_equal(answer.rows, wanted)),
        "known": float(answer.known.mean()),
        "load, s": round(load_s, 2),
        "table, GB": round(table.size_bytes / 1e9, 2),
        **timed,
        "search with copies, ms": round(statistics.median(walls), 3),
    }


def nearest_in_float64(gallery: Floats, probes: Floats) -> NDArray[np.intp]:
    """The WANTED nearest rows, best first, ties by row."""
    best_rows = np.empty((len(probes), 0), np.intp)
    best = np.empty((len(probes), 0))
    exact = probes.astype(np.float64)
    for first in range(0, len(gallery), 50_000):
        scores = exact @ gallery[first : first + 50_000].astype(np.float64).T
        best = np.concatenate([best, scores], axis=1)
        best_rows = np.concatenate(
            [best_rows, np.broadcast_to(np.arange(first, first + scores.shape[1]), scores.shape)], axis=1
        )
        order = np.argsort(-best, axis=1, kind="stable")[:, :WANTED]
        best, best_rows = np.take_along_axis(best, order, 1), np.take_along_axis(best_rows, order, 1)
    return best_rows


def compared(device: Device, views: int = 64) -> dict[str, object]:
    """One launch of `views` probes, whose patches lie on the device, or still on the host."""
    rng = np.random.default_rng(2)
    genuine, references, spread = genuine_view(rng, PATCH_DEPTH)
    alien = unit(rng.standard_normal((GRID[0] * GRID[1], PATCH_DEPTH), np.float32))
    figures: dict[str, object] = {"views": views, "references": REFERENCES, "grid": GRID, "depth": PATCH_DEPTH}
    for name, probe in {"aligned": genuine, "not aligned": alien}.items():
        want = deviation(probe, references, GRID, spread)
        figures[name] = device.run(partial(_compare_times, device, probe, references, spread, views))
        got = figures[name].pop("answer")  # type: ignore[attr-defined]
        figures[name] |= {  # type: ignore[operator]
            "as aligned as the twin": got.aligned == want.aligned,
            "largest difference of a cell": float(np.abs(got.cells - want.cells).max()),
            "difference of the scalar": float(abs(got.scalar - want.scalar)),
            "twin, ms a view": round(_wall_ms(partial(deviation, probe, references, GRID, spread)), 3),
        }
    return figures


def _search_times(kernels: NearestKernels, table: Table, probes: Floats) -> dict[str, object]:
    """Probes and what is their own already on the device. Also one batch of 64 probes, and the launches alone."""
    buffers = Buffers()
    times: dict[str, object] = {}
    for count in (PROBES, 64):
        sent = buffers.device(f"probes {count}", count * DIMS * 4)
        own = buffers.device(f"own {count}", count * 8)
        kernels.cuda.memcpy_htod(sent, np.ascontiguousarray(probes[:count]))
        kernels.cuda.memcpy_htod(own, np.zeros((count, 2), np.int32))
        times[f"{count} probes, ms"] = _event_ms(kernels, partial(kernels.enqueue, table, sent, own, count, WANTED))
    times["by kernel, ms"] = kernels.timed(
        table, buffers.device(f"probes {PROBES}", 1), buffers.device(f"own {PROBES}", 1)
    )
    return times


def _compare_times(
    device: Device, probe: Floats, references: NDArray[np.int8], spread: Floats, views: int
) -> dict[str, Any]:
    kernels, held = DeviationKernels(device), load_patch_set(references, spread)
    there = load_table(device, probe, searched=False)
    shape = (probe.shape[0], probe.shape[1])
    resident = DevicePatches(address=int(there.exact), shape=shape, owner=there)
    kept = np.ones(GRID, np.bool_)
    figures: dict[str, Any] = {}
    placed: dict[str, Floats | DevicePatches] = {"on the device": resident, "from the host": probe}
    for name, patches in placed.items():
        batch = [Comparison(probe=patches, references=held, kept=kept)] * views
        figures["answer"] = kernels.run(batch)[-1]
        walls = [_wall_ms(partial(kernels.run, batch)) for _ in range(20)]
        figures[f"{name}, us a view"] = round(statistics.median(walls) * 1e3 / views, 2)
    held.free()
    return figures


def _event_ms(kernels: NearestKernels, call: Callable[[], None], repeats: int = 30) -> float:
    return round(statistics.median(kernels.event_ms(call) for _ in range(repeats)), 3)


def _wall_ms(call: Callable[[], object]) -> float:
    started_s = time.monotonic()
    call()
    return (time.monotonic() - started_s) * 1e3


if __name__ == "__main__":
    main()
