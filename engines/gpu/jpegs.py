"""nvImageCodec: batches of JPEGs from bytes to RGB on the device. Its buffers are used again. Two stages take turns, so
that one batch is decoded while the one before is still read."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any, Final

from engines.decode import DecodeLimits
from engines.errors import EngineRefused, RefusalCode

_STAGES: Final = 2
_PIXEL_BYTES: Final = 3
_log = logging.getLogger(__name__)


class Stage:
    """Pixels of one batch on their way: images that are used again, the kernels' weights, and the event after which
    all of it is free. In the device's thread."""

    def __init__(self, cuda: Any, kept_bytes: int) -> None:
        self._cuda = cuda
        self._kept_bytes = kept_bytes
        self._weights: Any = None
        self._integers = 0
        self.images: list[Any] = []
        self.decoded = cuda.Event(cuda.event_flags.DISABLE_TIMING)
        self.free = cuda.Event(cuda.event_flags.DISABLE_TIMING)

    def weights(self, integers: int) -> Any:
        """Device memory for at least so many integers of 32 bits."""
        if integers > self._integers:
            self._weights = None  # let go before more is asked for
            self._weights = self._cuda.mem_alloc(integers * 4)
            self._integers = integers
        return self._weights

    def begin(self, stream: Any) -> None:
        """Behind all that reads what is here, let go of what is above the budget, the largest first: one huge
        photograph must not stay. Before that nothing may be let go, for its memory would be used again."""
        stream.wait_for_event(self.free)
        if sum(int(image.capacity) for image in self.images) > self._kept_bytes:
            self.images = _within(self._kept_bytes, self.images)


def _within(budget: int, images: Sequence[Any]) -> list[Any]:
    kept: list[Any] = []
    for image in sorted(images, key=lambda image: int(image.capacity)):
        budget -= int(image.capacity)
        if budget < 0:
            break
        kept.append(image)
    return kept


class Jpegs:
    """A decoder of the device. In the device's thread. Raises EngineRefused (backend_unavailable)."""

    def __init__(self, ordinal: int, limits: DecodeLimits, stage_bytes: int) -> None:
        import pycuda.driver as cuda

        codec = _nvimgcodec(limits)
        kinds = codec.BackendKind
        # what the device cannot decode comes back as None: the CPU's decoders have limits of their own
        backends = [codec.Backend(kind) for kind in (kinds.HW_GPU_ONLY, kinds.GPU_ONLY, kinds.HYBRID_CPU_GPU)]
        self._codec = codec
        self._decoder = codec.Decoder(device_id=ordinal, backends=backends)
        self._params = codec.DecodeParams(apply_exif_orientation=False, color_spec=codec.ColorSpec.SRGB)
        self._stream = cuda.Stream()
        self._stages = [Stage(cuda, stage_bytes) for _ in range(_STAGES)]
        self._turn = 0
        self.stage_bytes = stage_bytes

    def decode(self, pictures: Sequence[bytes]) -> tuple[Stage, list[Any | None]]:
        """RGB images on the device, None where it cannot decode one. They may be read by what is queued behind the
        stage's `decoded` event; its `free` event must be recorded behind that."""
        stage = self._stages[self._turn]
        self._turn = (self._turn + 1) % _STAGES
        stage.begin(self._stream)
        streams = [self._opened(picture) for picture in pictures]
        good = [stream for stream in streams if stream is not None]
        images = iter(self._decoded(stage, good) if good else [])
        stage.decoded.record(self._stream)
        return stage, [next(images) if stream is not None else None for stream in streams]

    def close(self) -> None:
        """Let go of everything on the device."""
        self._stages.clear()
        self._decoder = None

    def _opened(self, picture: bytes) -> Any | None:
        try:
            return self._codec.CodeStream(picture)
        except Exception as error:  # RuntimeErrors without a type of their own; a bad file costs no batch
            _log.info("the device's decoder does not take a photograph: %s", error)
            return None

    def _decoded(self, stage: Stage, streams: Sequence[Any]) -> list[Any | None]:
        # images that are handed in must be as many as the streams; a larger batch makes its own, which then stay
        again = {"images": stage.images[: len(streams)]} if len(stage.images) >= len(streams) else {}
        images = self._decoder.decode(streams, params=self._params, cuda_stream=self._stream.handle, **again)
        made = [image for image in images if image is not None]
        stage.images = [*made, *stage.images[len(streams) :]] if again else made
        return list(images)


def _nvimgcodec(limits: DecodeLimits) -> Any:
    """The library, with the limits set that it reads when it is loaded."""
    os.environ["NVIMGCODEC_MAX_JPEG_SCANS"] = str(limits.max_scans)
    try:
        from nvidia import nvimgcodec
    except ImportError as error:
        fix = "pip install nvidia-nvimgcodec-cu13 (the gpu extra), or choose the openvino backend"
        raise EngineRefused(RefusalCode.BACKEND_UNAVAILABLE, f"nvImageCodec cannot be used: {error}", fix) from error
    return nvimgcodec
