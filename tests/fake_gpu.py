"""A GPU that is this CPU, for what decides around the device: host memory is device memory, kernels are those of
kernels.cu compiled for the CPU, TensorRT is ONNX Runtime, and nvImageCodec is Pillow. Only tests have it."""

from __future__ import annotations

import ctypes
import io
import sys
import threading
import types
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
import pytest
from kernels_on_cpu import call
from PIL import Image

from engines.gpu import lending


class Memory:
    def __init__(self, size: int) -> None:
        self.array = np.zeros(max(size, 1), np.uint8)

    def __int__(self) -> int:
        return self.array.ctypes.data


def _at(address: int, size: int) -> Any:
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))


class Event:
    def __init__(self, flags: int = 0) -> None:
        self.hung = threading.Event()
        self.hung.set()

    def record(self, stream: Any) -> None:
        if stream.fault is not None:
            raise stream.fault

    def synchronize(self) -> None:
        self.hung.wait()


class Stream:
    def __init__(self, flags: int = 0) -> None: ...

    fault: Exception | None = None
    handle = 0

    def wait_for_event(self, event: Event) -> None:
        pass

    def synchronize(self) -> None:
        pass


class Fakes:
    """The fake libraries, and what a test plants in them: `refuses` pictures that the decoder gives None for, `most`
    photographs that memory holds, `hang` events that never come, `nan` where outputs break."""

    def __init__(self, kernels: ctypes.CDLL) -> None:
        self.kernels = kernels
        self.pinned: list[tuple[int, int]] = []  # from, to
        self.reset()

    def reset(self) -> None:
        self.refuses: set[bytes] = set()
        self.most = 10**9
        self.nan_above: float | None = None
        self.lost = False
        self.hang: threading.Event | None = None
        self.decoded: list[int] = []
        self.executed: list[int] = []
        self.steps: list[str] = []
        self.threads: set[str] = set()
        self.free_bytes = 100 << 30

    def install(self, patch: pytest.MonkeyPatch) -> None:
        nvidia = types.ModuleType("nvidia")
        codec = self._codec()
        nvidia.nvimgcodec = codec  # type: ignore[attr-defined]
        pycuda = types.ModuleType("pycuda")
        pycuda.driver = self._driver()  # type: ignore[attr-defined]
        modules = {"nvidia": nvidia, "nvidia.nvimgcodec": codec, "pycuda": pycuda, "pycuda.driver": pycuda.driver}
        for name, module in {**modules, "tensorrt": self._tensorrt()}.items():
            patch.setitem(sys.modules, name, module)
        patch.setattr(lending, "cuda_driver", self._pinning)

    def _pinning(self) -> Any:
        places: dict[int | None, tuple[int, int]] = {}

        def register(at: ctypes.c_void_p, size: ctypes.c_size_t, flags: ctypes.c_uint) -> int:
            assert at.value is not None and flags.value == 0
            self.pinned.append(places.setdefault(at.value, (at.value, at.value + size.value)))
            return 0

        def unregister(at: ctypes.c_void_p) -> int:
            self.pinned.remove(places.pop(at.value))
            return 0

        return types.SimpleNamespace(cuMemHostRegister_v2=register, cuMemHostUnregister=unregister)

    def _driver(self) -> Any:
        fakes = self

        class Context:
            def push(self) -> None: ...
            def pop(self) -> None: ...

        class Device:
            def __init__(self, ordinal: int) -> None: ...
            def name(self) -> str:
                return "Fake"

            def compute_capability(self) -> tuple[int, int]:
                return 9, 0

            def retain_primary_context(self) -> Context:
                return Context()

        def to_device(array: Any) -> Memory:
            memory = Memory(array.nbytes)
            memory.array[:] = array.view(np.uint8).reshape(-1)
            return memory

        def copy(to: int, source: int, size: int) -> None:
            fakes.threads.add(threading.current_thread().name)
            ctypes.memmove(to, source, size)

        def pinned(shape: Any, dtype: Any) -> Any:
            made = np.zeros(shape, dtype)
            fakes.pinned.append((made.ctypes.data, made.ctypes.data + made.nbytes))
            return made

        def to_host(rows: Any, source: Any, stream: Any) -> None:
            begin = rows.ctypes.data
            assert any(b <= begin and begin + rows.nbytes <= e for b, e in fakes.pinned), "the thread would wait here"
            copy(begin, int(source), rows.nbytes)

        class Hung(Event):
            def synchronize(self) -> None:
                if fakes.hang is not None:
                    fakes.hang.wait()
                if fakes.lost:
                    raise RuntimeError("cuEventSynchronize failed: an illegal memory access was encountered")

        return types.SimpleNamespace(
            init=lambda: None, Device=Device, Stream=Stream, Event=Hung, mem_alloc=Memory, to_device=to_device,
            event_flags=types.SimpleNamespace(DISABLE_TIMING=2, BLOCKING_SYNC=1),
            mem_get_info=lambda: (fakes.free_bytes, 100 << 30),
            pagelocked_empty=pinned,
            memcpy_htod_async=lambda to, rows, stream: copy(int(to), rows.ctypes.data, rows.nbytes),
            memcpy_dtoh_async=to_host,
            memset_d8_async=lambda at, value, size, stream: ctypes.memset(int(at), value, size),
            module_from_buffer=lambda raw: types.SimpleNamespace(get_function=self._kernel),
        )  # fmt: skip

    def _kernel(self, name: str) -> Any:
        def run(*given: Any, grid: Sequence[int], block: Sequence[int], stream: Any, shared: int = 0) -> None:
            plain = [ctypes.c_void_p(int(g)) if isinstance(g, Memory | np.intp) else _number(g) for g in given]
            side = plain[-1]
            match name:
                case "weigh":
                    call(self.kernels, name, *plain[:2], grid[0], side)
                case "resample":
                    call(self.kernels, name, *plain[:3], grid[2], side)
                case "measure":
                    call(self.kernels, name, *plain[:-1], grid[1], side)
                case "shrink":
                    call(self.kernels, name, *plain[:-1], grid[0], side)
                case _:
                    call(self.kernels, name, *plain)

        return run

    def _tensorrt(self) -> Any:
        fakes = self

        class Network:
            def __init__(self) -> None:
                self.model = b""

            def get_input(self, at: int) -> Any:
                return types.SimpleNamespace()

        class Parser:
            num_errors = 0

            def __init__(self, network: Network, logger: Any) -> None:
                self.network = network

            def parse(self, model: bytes) -> bool:
                self.network.model = model
                return True

        class Builder:
            def __init__(self, logger: Any) -> None: ...
            def create_network(self, flags: int) -> Network:
                return Network()

            def create_builder_config(self) -> Any:
                cache = types.SimpleNamespace(serialize=lambda: b"timings")
                return types.SimpleNamespace(
                    set_flag=lambda flag: None, create_timing_cache=lambda raw: cache,
                    set_timing_cache=lambda cache, ignore: True, get_timing_cache=lambda: cache,
                    add_optimization_profile=lambda profile: 0,
                )  # fmt: skip

            def create_optimization_profile(self) -> Any:
                return types.SimpleNamespace(set_shape=lambda *given: None)

            def build_serialized_network(self, network: Network, config: Any) -> bytes:
                return network.model

        def runtime(logger: Any) -> Any:
            return types.SimpleNamespace(deserialize_cuda_engine=lambda plan: Engine(fakes, plan))

        def logger(level: int) -> None:
            return None

        logger.WARNING = 1  # type: ignore[attr-defined]
        return types.SimpleNamespace(
            __version__="10.6.0", Logger=logger, Builder=Builder, OnnxParser=Parser, Runtime=runtime,
            NetworkDefinitionCreationFlag=types.SimpleNamespace(STRONGLY_TYPED=1),
            TensorFormat=types.SimpleNamespace(CHW4=4), BuilderFlag=types.SimpleNamespace(VERSION_COMPATIBLE=1),
        )  # fmt: skip

    def _codec(self) -> Any:
        fakes = self

        class Decoded:
            def __init__(self, picture: bytes) -> None:
                self.pixels = np.ascontiguousarray(np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")))
                self.capacity = self.pixels.nbytes
                self.shape, self.strides = self.pixels.shape, self.pixels.strides
                self.__cuda_array_interface__ = {"data": (self.pixels.ctypes.data, False)}

        class Decoder:
            """Its first batch says how many photographs the hardware is given of every later one."""

            first: int | None = None

            def __init__(self, **given: Any) -> None: ...
            def decode(self, streams: Sequence[Opened], *, images: Any = None, **given: Any) -> list[Any]:
                assert images is None or len(images) == len(streams)
                if self.first is None:
                    self.first = len(streams)
                    return [None] * len(streams)
                assert len(streams) <= self.first, "more than the hardware is given"
                if len(streams) > fakes.most:
                    raise RuntimeError("CUDA Runtime failure: out of memory")
                fakes.decoded.append(len(streams))
                fakes.steps.append("decode")
                return [decoded(stream.picture) for stream in streams]

        def decoded(picture: bytes) -> Decoded | None:
            if picture in fakes.refuses:
                return None
            try:
                return Decoded(picture)
            except OSError:
                return None

        class Opened:
            def __init__(self, picture: bytes) -> None:
                self.picture = picture
                self.width, self.height = Image.open(io.BytesIO(picture)).size

        kinds = types.SimpleNamespace(HW_GPU_ONLY=1, GPU_ONLY=2, HYBRID_CPU_GPU=3)
        codec = types.ModuleType("nvidia.nvimgcodec")
        for name, thing in {
            "BackendKind": kinds, "Backend": lambda kind: kind, "Decoder": Decoder, "CodeStream": Opened,
            "DecodeParams": lambda **given: None, "ColorSpec": types.SimpleNamespace(SRGB=1),
        }.items():  # fmt: skip
            setattr(codec, name, thing)
        return codec


def _number(given: Any) -> Any:
    return ctypes.c_float(float(given)) if isinstance(given, np.float32) else int(given)


class Engine:
    """A plan: the graph that it was built of, in ONNX Runtime."""

    device_memory_size_v2 = 1 << 20

    def __init__(self, fakes: Fakes, model: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(model, options)
        self.fakes = fakes
        self.shapes = {v.name: v.shape for v in (*self.session.get_inputs(), *self.session.get_outputs())}
        self.types = {v.name: v.type for v in (*self.session.get_inputs(), *self.session.get_outputs())}

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, *self.shapes[name][1:])

    def get_tensor_dtype(self, name: str) -> Any:
        named = {"tensor(float)": "FLOAT", "tensor(float16)": "HALF", "tensor(int8)": "INT8"}
        return types.SimpleNamespace(name=named[self.types[name]])

    def create_execution_context(self) -> Context:
        return Context(self)


class Context:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.addresses: dict[str, int] = {}
        self.shape: tuple[int, ...] = ()

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = tuple(shape)
        return True

    def execute_async_v3(self, handle: int) -> bool:
        fakes = self.engine.fakes
        fakes.executed.append(self.shape[0])
        fakes.steps.append("infer")
        kind = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int8)": np.int8}
        dtype = np.dtype(kind[self.engine.types["images"]])
        raw = _at(self.addresses["images"], int(np.prod(self.shape)) * dtype.itemsize).view(dtype)
        n, channels, high, wide = self.shape
        packed = dtype == np.int8
        images = raw.reshape(n, high, wide, channels).transpose(0, 3, 1, 2) if packed else raw.reshape(self.shape)
        names = ("embedding", "patches", "attention")
        outputs = self.engine.session.run(list(names), {"images": np.ascontiguousarray(images)})
        if fakes.nan_above is not None and images.astype(np.float32).mean(axis=(1, 2, 3)).max() > fakes.nan_above:
            outputs[0][:] = np.nan
        for name, array in zip(names, outputs, strict=True):
            _at(self.addresses[name], array.nbytes)[:] = array.view(np.uint8).reshape(-1)
        return True
