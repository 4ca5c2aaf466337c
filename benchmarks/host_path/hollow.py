"""PyCUDA, TensorRT and nvImageCodec in which nothing is computed: launches only note what they were about, and copies
to the host bring what was planted. All that Assay itself does around the device runs as it does on one.

What this cannot show: what the real libraries take of the interpreter in their calls.
"""

from __future__ import annotations

import itertools
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.host_path.answers import KINDS, MANIFEST, Answers, kind_of
from engines.gpu import lending
from engines.gpu.deviating import OVERLAY
from engines.runner import OUTPUT_NAMES

PHOTOGRAPH_PX: Final = 1024
_ADDRESS, _ROW = 0, 7  # columns of engines.gpu.resample's table
_addresses = itertools.count(1 << 40, 1 << 32)


class Memory:
    """Memory that is not there: an address."""

    def __init__(self, size: int) -> None:
        self.address = next(_addresses)

    def __int__(self) -> int:
        return self.address

    def free(self) -> None: ...


class Event:
    def __init__(self, flags: int = 0) -> None: ...
    def record(self, stream: Any) -> None: ...
    def synchronize(self) -> None: ...


class HollowStream:
    """`launched` and `grid` are the last kernel's."""

    handle = 0
    launched = ""
    grid: tuple[int, ...] = ()

    def __init__(self, flags: int = 0) -> None: ...
    def wait_for_event(self, event: Event) -> None: ...
    def synchronize(self) -> None: ...


class Context:
    """Of the device, and of an engine."""

    def push(self) -> None: ...
    def pop(self) -> None: ...
    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        return True

    def execute_async_v3(self, handle: int) -> bool:
        return True


class Driver:
    """What passes for pycuda.driver."""

    event_flags = types.SimpleNamespace(DISABLE_TIMING=2, BLOCKING_SYNC=1)
    Stream = HollowStream
    Event = Event
    mem_alloc = Memory

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._tables: dict[int, NDArray[np.int64]] = {}  # of photographs, by where they were copied to
        self._kinds: dict[int, NDArray[np.intp]] = {}  # of a slot's rows, by the address of its squares
        self._squares: dict[int, int] = {}  # by the address of what the engine is given
        self._planted: dict[int, tuple[str, int]] = {}  # a measure: its name, and the squares that it is of
        self._outputs: dict[int, tuple[str, int]] = {}  # the same of an output, and what the engine is given

    def init(self) -> None: ...
    def mem_get_info(self) -> tuple[int, int]:
        return 100 << 30, 140 << 30

    def Device(self, ordinal: int) -> Any:
        return types.SimpleNamespace(
            name=lambda: "hollow", compute_capability=lambda: (7, 5), retain_primary_context=Context
        )

    def pagelocked_empty(self, shape: Any, dtype: Any) -> NDArray[Any]:
        return np.zeros(shape, dtype)

    def to_device(self, array: NDArray[Any]) -> Memory:
        return Memory(array.nbytes)

    def memcpy_htod(self, to: Any, rows: NDArray[Any]) -> None: ...
    def memcpy_htod_async(self, to: Any, rows: NDArray[Any], stream: HollowStream) -> None:
        if rows.dtype == np.int64 and rows.ndim == 2:
            self._tables[int(to)] = rows.copy()

    def memset_d8_async(self, at: int, value: int, size: int, stream: HollowStream) -> None: ...
    def memcpy_dtoh_async(self, rows: NDArray[Any], source: Any, stream: HollowStream) -> None:
        at = int(source)
        if at in self._planted:
            name, squares = self._planted[at]
            self._bring(self._answers.measured[name], squares, rows)
        elif at in self._outputs:
            name, images = self._outputs[at]
            if name in self._answers.outputs:
                self._bring(self._answers.outputs[name], self._squares[images], rows)
            else:
                rows.fill(0)  # patches: what was in the memory may be no numbers
        else:
            self._compared(rows, stream)

    def _bring(self, by_kind: NDArray[Any], squares: int, rows: NDArray[Any]) -> None:
        np.take(by_kind, self._kinds[squares][: len(rows)], axis=0, out=rows)

    def module_from_buffer(self, raw: bytes) -> Any:
        return types.SimpleNamespace(get_function=self._kernel)

    def note_output(self, output: int, name: str, images: int) -> None:
        self._outputs[output] = name, images

    def _kernel(self, name: str) -> Callable[..., None]:
        def run(*given: Any, stream: HollowStream, grid: tuple[int, ...], **_more: Any) -> None:
            stream.launched, stream.grid = name, grid
            if name == "resample":
                self._resampled(int(given[0]), int(given[2]))
            elif name == "measure":
                squares, levels, edges, burnt, _ = given
                for key, memory in (("levels", levels), ("edges", edges), ("burnt", burnt)):
                    self._planted[int(memory)] = key, int(squares)
            elif name == "shrink":
                self._planted[int(given[1])] = "small", int(given[0])
            elif name == "normalise":
                self._squares[int(given[1])] = int(given[0])

        return run

    def _resampled(self, table: int, squares: int) -> None:
        told = self._tables.pop(table)
        kinds = self._kinds.setdefault(squares, np.zeros(max(MANIFEST.profiles), np.intp))
        kinds[told[:, _ROW]] = told[:, _ADDRESS] % KINDS

    def _compared(self, staged: NDArray[np.uint8], stream: HollowStream) -> None:
        """What the kernels of compare.fatbin answer."""
        if stream.launched == "row_cosines":
            staged.view(np.float32)[:] = np.resize(self._answers.cosines, len(staged) // 4)
        elif stream.launched == "nearest_row":
            staged.view(np.uint64)[:] = _NEAREST
        elif stream.launched == "finish":
            count, (_, cells) = stream.grid[0], self._answers.cells.shape
            totals, maps, overlays = np.split(staged.view(np.float32), [4 * count, (4 + cells) * count])
            totals.reshape(count, 4)[:] = self._answers.comparison
            maps.reshape(count, cells)[:] = self._answers.cells[:count]
            overlays.reshape(-1, OVERLAY)[:] = self._answers.overlay


_COSINE: Final = np.float32(0.5).view(np.uint32) | np.uint32(1 << 31)  # as the kernels order floats
_NEAREST: Final = np.uint64(int(_COSINE) << 32 | 0xFFFFFFFF)  # row 0


class Engine:
    """A plan of the hollow engine."""

    device_memory_size_v2 = 1 << 20

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        side, grid = MANIFEST.preprocessing.size, MANIFEST.patch_grid
        self._shapes = {
            "images": (-1, 3, side, side),
            "embedding": (-1, MANIFEST.embedding_dim),
            "patches": (-1, grid[0] * grid[1], MANIFEST.patch_dim),
            "attention": (-1, *MANIFEST.attention_grid),
        }

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def get_tensor_dtype(self, name: str) -> Any:
        return types.SimpleNamespace(name="FLOAT")

    def create_execution_context(self) -> Context:
        return _Execution(self._driver)


class _Execution(Context):
    """Tells the driver which outputs belong to which input, whose address is set first."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._images = 0

    def set_tensor_address(self, name: str, address: int) -> None:
        if name in OUTPUT_NAMES:
            self._driver.note_output(address, name, self._images)
        else:
            self._images = address


class Opened:
    """A code stream; its photograph's kind stands in its last bytes."""

    width = height = PHOTOGRAPH_PX

    def __init__(self, picture: bytes) -> None:
        self.kind = kind_of(picture)


class Image:
    capacity = PHOTOGRAPH_PX * PHOTOGRAPH_PX * 3
    shape = (PHOTOGRAPH_PX, PHOTOGRAPH_PX, 3)
    strides = (PHOTOGRAPH_PX * 3, 3, 1)

    def __init__(self, kind: int) -> None:
        self._kind = kind

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"shape": (PHOTOGRAPH_PX, PHOTOGRAPH_PX, 3), "strides": None, "data": (KINDS + self._kind, False)}


class Decoder:
    def __init__(self, **given: Any) -> None: ...
    def decode(self, streams: Sequence[Opened], **given: Any) -> list[Image]:
        return [Image(stream.kind) for stream in streams]


def install(answers: Answers) -> None:
    """Into this process, in place of the real ones."""
    driver = Driver(answers)
    kinds = types.SimpleNamespace(HW_GPU_ONLY=1, HYBRID_CPU_GPU=2)
    codec = types.SimpleNamespace(
        BackendKind=kinds, Backend=lambda kind: kind, Decoder=Decoder, CodeStream=Opened,
        DecodeParams=lambda **given: None, ColorSpec=types.SimpleNamespace(SRGB=1),
    )  # fmt: skip
    logger = type("Logger", (), {"WARNING": 1, "__init__": lambda self, level: None})
    trt = types.SimpleNamespace(
        __version__="10.6.0", Logger=logger,
        Runtime=lambda log: types.SimpleNamespace(deserialize_cuda_engine=lambda plan: Engine(driver)),
    )  # fmt: skip
    modules: dict[str, Any] = {
        "pycuda": types.SimpleNamespace(driver=driver), "pycuda.driver": driver, "tensorrt": trt,
        "nvidia": types.SimpleNamespace(nvimgcodec=codec), "nvidia.nvimgcodec": codec,
    }  # fmt: skip
    sys.modules.update(modules)
    pinning = types.SimpleNamespace(cuMemHostRegister_v2=lambda *given: 0, cuMemHostUnregister=lambda at: 0)
    lending.cuda_driver = lambda: pinning
