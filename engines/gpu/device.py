"""One thread owns the GPU. PyCUDA, TensorRT and the decoder share the device's primary context, and everything that
touches it runs here: several threads with contexts of their own crashed the libraries together."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from engines.errors import EngineRefused, RefusalCode

T = TypeVar("T")

_KERNELS: Final = Path(__file__).with_name("kernels.fatbin")


class Device:
    """GPU number `ordinal`. Calls run one after another in its thread; any thread may submit. Raises EngineRefused
    (backend_unavailable) where there is no GPU, driver or PyCUDA."""

    def __init__(self, ordinal: int = 0) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=f"gpu-{ordinal}")
        try:
            self._context, self.name, self.capability, self._module = self.run(lambda: _opened(ordinal))
        except BaseException:
            self._pool.shutdown()
            raise

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Queue `call` for the device's thread."""
        return self._pool.submit(call)

    def run(self, call: Callable[[], T]) -> T:
        """Run `call` in the device's thread and wait for it."""
        return self.submit(call).result()

    def kernel(self, name: str) -> Any:
        """A function of kernels.cu. In the device's thread."""
        return self._module.get_function(name)

    def close(self) -> None:
        """Let queued calls end, then leave the context."""
        self._pool.submit(self._leave)
        self._pool.shutdown(wait=True)

    def _leave(self) -> None:
        del self._module
        self._context.pop()


def _opened(ordinal: int) -> tuple[Any, str, tuple[int, int], Any]:
    try:
        import pycuda.driver as cuda

        cuda.init()
        device = cuda.Device(ordinal)
    except Exception as error:  # a missing package, driver or card: each is its own exception, and all mean the same
        fix = "install the gpu extra and an NVIDIA driver, or choose the openvino backend"
        message = f"GPU {ordinal} cannot be used: {error}"
        raise EngineRefused(RefusalCode.BACKEND_UNAVAILABLE, message, fix) from error
    context = device.retain_primary_context()
    context.push()
    module = cuda.module_from_buffer(_KERNELS.read_bytes())
    return context, device.name(), device.compute_capability(), module
