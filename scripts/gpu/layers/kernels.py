"""The device, and the launches that a slot makes (engines.gpu.slots) without a plan behind them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engines.gpu.resample import Source, described
from engines.gpu.slots import InputForm, LoadedPlan, _Kernels, _measured_buffers
from engines.preprocess import resized
from layers.opening import engine, gpu
from layers.telling import tell, timed

SIZES = ((448, 448), (1023, 777), (640, 480), (1500, 1501), (3000, 2000), (449, 460))
FORMS = {
    "half": InputForm(dtype=np.dtype(np.float16), channels=4, scale=None),
    "int8": InputForm(dtype=np.dtype(np.int8), channels=4, scale=0.02),
}


def device() -> None:
    """Opening it, what it is, and what a call to its thread costs."""
    found = timed("open", lambda: gpu().device)
    tell("name, capability", (found.name, found.capability))
    tell("free, total MiB", [b >> 20 for b in found.run(found.memory_bytes)])
    timed("a call in the device's thread", lambda: found.run(lambda: None), 300)


def kernels() -> None:
    """Resampling beside Pillow; then how fast it, the measures and every input form are."""
    gpu().device.run(_beside_pillow)
    gpu().device.run(_how_fast)


class _Launches:
    """The kernels of one input form on a stream of their own. In the device's thread."""

    def __init__(self, form: InputForm) -> None:
        import pycuda.driver as cuda

        self.plan = LoadedPlan(engine=None, manifest=engine("resnet18").manifest, form=form)
        self.stream = cuda.Stream()
        self.kernels = _Kernels(cuda, gpu().device, self.plan, self.stream)

    def timed(self, name: str, launch: Callable[[], None], times: int = 20) -> None:
        def run() -> None:
            launch()
            self.stream.synchronize()

        timed(name, run, times)


def _beside_pillow() -> None:
    import pycuda.driver as cuda

    launches = _Launches(FORMS["half"])
    rng, side = np.random.default_rng(1), launches.plan.side
    pixels = [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for width, height in SIZES]
    held = [cuda.to_device(one) for one in pixels]
    sources = [_source(int(at), one, row) for row, (at, one) in enumerate(zip(held, pixels, strict=True))]
    squares = np.zeros((len(pixels), side, side, 3), np.uint8)
    out = cuda.to_device(squares)
    launches.timed("first resample (loads code)", _resampling(launches, sources, out), 1)
    cuda.memcpy_dtoh(squares, out)
    for size, square, one in zip(SIZES, squares, pixels, strict=True):
        expected = np.asarray(resized(Image.fromarray(one), side)).astype(int)
        tell(f"resample {size}: largest difference to Pillow", int(np.abs(square - expected).max()))


def _how_fast() -> None:
    import pycuda.driver as cuda

    launches = {name: _Launches(form) for name, form in FORMS.items()}
    first = launches["half"]
    count, side = first.plan.largest, first.plan.side
    photo = np.random.default_rng(1).integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
    held, squares = cuda.to_device(photo), cuda.mem_alloc(count * side * side * 3)
    sources = [_source(int(held), photo, row) for row in range(count)]
    first.timed(f"resample {count} of 1024 px", _resampling(first, sources, squares))
    numbers = _measured_buffers(cuda, first.plan)
    first.timed(f"measure and shrink {count}", lambda: first.kernels.measure(squares, numbers, count))
    for name, one in launches.items():
        images = cuda.mem_alloc(one.plan.form.bytes_for(count, side))
        one.timed(f"normalise {count} to {name}", partial(one.kernels.normalise, squares, images, count))


def _source(address: int, pixels: NDArray[np.uint8], row: int) -> Source:
    height, width, _ = pixels.shape
    return Source(address=address, pitch=pixels.strides[0], width=width, height=height, orientation=1, row=row)


def _resampling(launches: _Launches, sources: Sequence[Source], squares: Any) -> Callable[[], None]:
    import pycuda.driver as cuda

    table, integers = described(sources, launches.plan.side)
    given, weights = cuda.to_device(table), cuda.mem_alloc(integers * 4)
    return lambda: launches.kernels.resample(given, weights, squares, len(sources))
