"""The device's kernels, compiled from their own source for this CPU: one thread a block, blocks one after another."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.gpu import resample

SOURCE = Path(resample.__file__).with_name("kernels.cu")
# What CUDA's compiler brings along. A block has one thread, so a barrier has nothing to wait for.
PRELUDE = """
#include <cmath>
#include <cstring>
#define __device__
#define __global__
#define __shared__ static
struct Place { unsigned x, y, z; };
static Place blockIdx{}, blockDim{1, 1, 1}, gridDim{1, 1, 1}, threadIdx{};
static unsigned char shared_bytes[1 << 20];
static void __syncthreads() {}
template <typename T> static T atomicAdd(T *at, T more) { const T was = *at; *at += more; return was; }
static unsigned short half_bits(float value) {
    const _Float16 half = (_Float16)value; unsigned short bits; std::memcpy(&bits, &half, 2); return bits;
}
"""
CALLS = """
#define RUN(gx, gy, gz, call) for (unsigned z = 0; z < gz; z++) for (unsigned y = 0; y < gy; y++) \\
    for (unsigned x = 0; x < gx; x++) { blockIdx = {x, y, z}; call; }
typedef const Photograph *P; typedef unsigned char *B; typedef const float *F;
extern "C" void on_weigh(P p, int *t, int n, int side) { RUN(n, 2, 1, weigh(p, t, side)) }
extern "C" void on_resample(P p, int *t, B s, int n, int side) { RUN(side, side, n, resample(p, t, s, side)) }
extern "C" void on_measure(B s, unsigned *l, unsigned long long *e, B b, int n, int side) {
    RUN((side + CELL - 1) / CELL, n, 1, measure(s, l, e, b, side)) }
extern "C" void on_shrink(B s, B o, int n, int side) { RUN(n, 1, 1, shrink(s, o, side)) }
extern "C" void on_normalise(B s, float *o, F m, F k, int side, int n, int c) {
    RUN(1, 1, 1, normalise(s, o, m, k, side, n, c)) }
extern "C" void on_normalise_half(B s, unsigned short *o, F m, F k, int side, int n, int c) {
    RUN(1, 1, 1, normalise_half(s, o, m, k, side, n, c)) }
extern "C" void on_quantise(B s, signed char *o, F m, F k, float step, int side, int n) {
    RUN(1, 1, 1, quantise(s, o, m, k, step, side, n)) }
"""


def compiler() -> str | None:
    return shutil.which("g++") or shutil.which("c++")


def built(folder: Path) -> ctypes.CDLL:
    """The kernels as a library of this machine."""
    source, library = folder / "kernels.cpp", folder / "kernels.so"
    source.write_text(PRELUDE + SOURCE.read_text() + CALLS)
    flags = ["-O2", "-ffp-contract=off", "-fPIC", "-shared", "-msse2", "-w"]
    subprocess.run([str(compiler()), *flags, str(source), "-o", str(library)], check=True, timeout=120)
    return ctypes.CDLL(str(library))


def call(library: ctypes.CDLL, name: str, *given: Any) -> None:
    """Run a kernel; arrays are passed where they lie."""
    plain = [ctypes.c_void_p(g.ctypes.data) if isinstance(g, np.ndarray) else g for g in given]
    getattr(library, f"on_{name}")(*plain)


def squares_of(
    library: ctypes.CDLL, photographs: list[NDArray[np.uint8]], orientations: list[int], side: int
) -> NDArray[np.uint8]:
    """Ragged uint8 [H,W,3] photographs, as the device's resampling makes them uint8 [n,S,S,3]."""
    sources = [
        resample.Source(
            address=p.ctypes.data, pitch=p.strides[0], width=p.shape[1], height=p.shape[0], orientation=o, row=row
        )
        for row, (p, o) in enumerate(zip(photographs, orientations, strict=True))
    ]
    table, integers = resample.described(sources, side)
    tables = np.full(integers, -1, np.int32)
    squares = np.zeros((len(sources), side, side, 3), np.uint8)
    call(library, "weigh", table, tables, len(sources), side)
    call(library, "resample", table, tables, squares, len(sources), side)
    return squares
