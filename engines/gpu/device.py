"""One thread owns the GPU. PyCUDA, TensorRT and the decoder share the device's primary context, and everything that
touches it runs here: several threads with decoders of their own crashed the libraries together. A second thread does
nothing but wait for events and read what was copied to the host."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from engines.errors import EngineRefused, RefusalCode

T = TypeVar("T")

_KERNELS: Final = Path(__file__).with_name("kernels.fatbin")
LEFT_FREE: Final = 0.2  # of the GPU's memory, whatever is asked for


class Device:
    """GPU number `ordinal`. Calls run one after another in its thread; any thread may submit. Raises EngineRefused
    (backend_unavailable) where there is no GPU, driver or PyCUDA."""

    def __init__(self, ordinal: int = 0) -> None:
        self.ordinal = ordinal
        self._owner = ThreadPoolExecutor(1, thread_name_prefix=f"gpu-{ordinal}")
        self._waiter = ThreadPoolExecutor(1, thread_name_prefix=f"gpu-{ordinal}-wait")
        try:
            self._context, self.name, self.capability, module = self.run(lambda: _opened(ordinal))
            self._waiters_context = self._waiter.submit(lambda: _entered(ordinal)).result()
        except BaseException:
            self._owner.shutdown()
            self._waiter.shutdown()
            raise
        self._modules = {_KERNELS: module}

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Queue `call` for the device's thread."""
        return self._owner.submit(call)

    def run(self, call: Callable[[], T]) -> T:
        """Run `call` in the device's thread and wait for it."""
        return self.submit(call).result()

    def collect(self, call: Callable[[], T]) -> Future[T]:
        """Queue `call` for the thread that waits for events, in which it may do nothing else to the device."""
        return self._waiter.submit(call)

    def kernel(self, name: str, fatbin: Path = _KERNELS) -> Any:
        """A function of kernels.cu, or of another file beside it. In the device's thread."""
        if fatbin not in self._modules:
            self._modules[fatbin] = _module(fatbin)
        return self._modules[fatbin].get_function(name)

    def memory_bytes(self) -> tuple[int, int]:
        """What is free and what there is, over all processes. In the device's thread."""
        import pycuda.driver as cuda

        free, total = cuda.mem_get_info()
        return int(free), int(total)

    def processors(self) -> int:
        """Multiprocessors. In the device's thread."""
        import pycuda.driver as cuda

        number = cuda.device_attribute.MULTIPROCESSOR_COUNT
        return int(cuda.Context.get_device().get_attribute(number))

    def close(self) -> None:
        """Let queued calls end, then leave the context."""
        self._owner.submit(self._leave)
        self._owner.shutdown(wait=True)

    def _leave(self) -> None:
        self._waiter.submit(self._waiters_context.pop)
        self._waiter.shutdown(wait=True)
        self._modules.clear()
        self._context.pop()


def memory() -> tuple[int, int]:
    """Bytes of the device's memory that may still be taken, and all there are. In the device's thread."""
    import pycuda.driver as cuda

    free, total = cuda.mem_get_info()
    return max(0, free - int(total * LEFT_FREE)), total


def _opened(ordinal: int) -> tuple[Any, str, tuple[int, int], Any]:
    try:
        import pycuda.driver as cuda

        cuda.init()
        device = cuda.Device(ordinal)
    except Exception as error:  # a missing package, driver or card: each is its own exception, and all mean the same
        fix = "install the gpu extra and an NVIDIA driver, or choose the openvino backend"
        message = f"GPU {ordinal} cannot be used: {error}"
        raise EngineRefused(RefusalCode.BACKEND_UNAVAILABLE, message, fix) from error
    return _entered(ordinal), device.name(), device.compute_capability(), _module(_KERNELS)


def _entered(ordinal: int) -> Any:
    """The primary context, made this thread's own."""
    import pycuda.driver as cuda

    context = cuda.Device(ordinal).retain_primary_context()
    context.push()
    return context


def _module(fatbin: Path) -> Any:
    import pycuda.driver as cuda

    return cuda.module_from_buffer(fatbin.read_bytes())
