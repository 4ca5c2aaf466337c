"""One thread owns the GPU. PyCUDA, TensorRT and the decoder share the device's primary context, and everything that
touches it runs here: several threads with decoders of their own crashed the libraries together. A second thread does
nothing but wait for events and read what was copied to the host.

The context is a thread's own during a call only: PyCUDA aborts the process where a thread ends inside of one, whatever
the process was ending for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from engines.errors import EngineRefused, RefusalCode

T = TypeVar("T")

_log = logging.getLogger(__name__)
_KERNELS: Final = Path(__file__).with_name("kernels.fatbin")
_NON_BLOCKING: Final = 1


class Device:
    """GPU number `ordinal`. Calls run one after another in its thread; any thread may submit. Raises EngineRefused
    (backend_unavailable) where there is no GPU, driver or PyCUDA."""

    def __init__(self, ordinal: int = 0) -> None:
        self.ordinal = ordinal
        self._owner = ThreadPoolExecutor(1, thread_name_prefix=f"gpu-{ordinal}")
        self._waiter = ThreadPoolExecutor(1, thread_name_prefix=f"gpu-{ordinal}-wait")
        try:
            self._context, self.name, self.capability, module = self._owner.submit(_opened, ordinal).result()
            self._waiters_context = self._waiter.submit(_retained, ordinal).result()
        except BaseException:
            self._owner.shutdown()
            self._waiter.shutdown()
            raise
        self._modules = {_KERNELS: module}

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Queue `call` for the device's thread."""
        return self._owner.submit(_inside, self._context, call)

    def run(self, call: Callable[[], T]) -> T:
        """Run `call` in the device's thread and wait for it."""
        return self.submit(call).result()

    def collect(self, call: Callable[[], T]) -> Future[T]:
        """Queue `call` for the thread that waits for events, in which it may do nothing else to the device."""
        return self._waiter.submit(_inside, self._waiters_context, call)

    def kernel(self, name: str, fatbin: Path = _KERNELS) -> Any:
        """A function of kernels.cu, or of another file beside it. In the device's thread."""
        if fatbin not in self._modules:
            self._modules[fatbin] = _module(fatbin)
        return self._modules[fatbin].get_function(name)

    def memory_bytes(self) -> tuple[int, int]:
        """What is free and what there is, over all processes. In the device's thread; `allowance` of engines.gpu.memory
        tells how much of it may be taken."""
        import pycuda.driver as cuda

        free, total = cuda.mem_get_info()
        return int(free), int(total)

    def processors(self) -> int:
        """Multiprocessors. In the device's thread."""
        import pycuda.driver as cuda

        number = cuda.device_attribute.MULTIPROCESSOR_COUNT
        return int(cuda.Context.get_device().get_attribute(number))

    def close(self) -> None:
        """Let queued calls end, then let go of the kernels."""
        self.submit(self._modules.clear)
        self._owner.shutdown(wait=True)
        self._waiter.shutdown(wait=True)


def own_stream() -> Any:
    """A stream that waits for no other. Ordinary ones wait for CUDA's default stream, on which every plain copy runs,
    and it for them: a copy for the gallery would hold up decoding and inference. In the device's thread."""
    import pycuda.driver as cuda

    return cuda.Stream(_NON_BLOCKING)


def _opened(ordinal: int) -> tuple[Any, str, tuple[int, int], Any]:
    try:
        import pycuda.driver as cuda

        cuda.init()
        device = cuda.Device(ordinal)
    except Exception as error:  # a missing package, driver or card: each is its own exception, and all mean the same
        fix = "install the gpu extra and an NVIDIA driver, or choose the openvino backend"
        message = f"GPU {ordinal} cannot be used: {error}"
        raise EngineRefused(RefusalCode.BACKEND_UNAVAILABLE, message, fix) from error
    context = _retained(ordinal)
    module = _inside(context, lambda: _module(_KERNELS))
    return context, device.name(), device.compute_capability(), module


def _retained(ordinal: int) -> Any:
    """The primary context; PyCUDA wants an object of its own for every thread."""
    import pycuda.driver as cuda

    return cuda.Device(ordinal).retain_primary_context()


def _inside(context: Any, call: Callable[[], T]) -> T:
    """Where the device is lost, `call` runs all the same, for it tells its waiters so."""
    entered = _entered(context)
    try:
        return call()
    finally:
        if entered:
            context.pop()


def _entered(context: Any) -> bool:
    try:
        context.push()
    except Exception as error:  # PyCUDA's own
        _log.error("the GPU's context cannot be entered any more: %s", error)
        return False
    return True


def _module(fatbin: Path) -> Any:
    import pycuda.driver as cuda

    return cuda.module_from_buffer(fatbin.read_bytes())
