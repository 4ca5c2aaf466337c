"""nvImageCodec: batches of JPEGs from bytes to RGB on the device. Its buffers are used again. Two stages take turns, so
that one batch is decoded while the one before is still read.

The decoder's hardware engines get as many photographs of a batch as its very first batch had, and the rest goes to the
processor's cores and the kernels, at half the rate. So the first batch is one of blanks, as many as may ever come.

Whatever Python does in the device's thread comes on top of a decoding that blocks it, and each call that lets go of the
interpreter's lock may wait long to have it again. So photographs are opened by whoever hands them in, and a decoded
image is asked for little more than its size.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Sequence
from typing import Any, Final

from PIL import Image

from engines.decode import DecodeLimits
from engines.errors import EngineRefused, RefusalCode
from engines.gpu.device import own_stream
from engines.gpu.photographs import Photograph

_STAGES: Final = 2
_AT_ONCE: Final = 256  # photographs that the hardware is given at once
_log = logging.getLogger(__name__)


class Stage:
    """Pixels of one batch on their way: images that are used again, the kernels' weights, and the event after which
    all of it is free. In the device's thread."""

    def __init__(self, cuda: Any, kept_bytes: int) -> None:
        self._cuda = cuda
        self._kept_bytes = kept_bytes
        self._weights: Any = None
        self._integers = 0
        self._places: dict[int, tuple[int, int]] = {}  # by an image's id: its capacity, and where that lies
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

    def address(self, image: Any) -> int:
        """Where the pixels of one of `images` lie. It stays there until it grows, and to ask it takes as long as all
        the rest of a photograph's way here."""
        capacity = int(image.capacity)
        known = self._places.get(id(image))
        if known is None or known[0] != capacity:
            known = self._places[id(image)] = capacity, int(image.__cuda_array_interface__["data"][0])
        return known[1]

    def begin(self, stream: Any) -> None:
        """Behind all that reads what is here, let go of what is above the budget, the largest first: one huge
        photograph must not stay. Before that nothing may be let go, for its memory would be used again."""
        stream.wait_for_event(self.free)
        self.images.sort(key=lambda image: int(image.capacity), reverse=True)
        over = sum(int(image.capacity) for image in self.images) - self._kept_bytes
        first = 0
        while over > 0 and first < len(self.images):
            over -= int(self.images[first].capacity)
            first += 1
        if first:
            self.keep(self.images[first:])

    def keep(self, images: list[Any]) -> None:
        """Have these, and believe nothing of others, whose ids may be another's tomorrow."""
        self.images = images
        self._places = {id(image): self._places[id(image)] for image in images if id(image) in self._places}


class Jpegs:
    """A decoder of the device. In the device's thread. Raises EngineRefused (backend_unavailable)."""

    def __init__(self, ordinal: int, limits: DecodeLimits, stage_bytes: int) -> None:
        import pycuda.driver as cuda

        codec = _nvimgcodec(limits)
        kinds = codec.BackendKind
        # what the device cannot decode comes back as None: the CPU's decoders have limits of their own
        backends = [codec.Backend(kind) for kind in (kinds.HW_GPU_ONLY, kinds.HYBRID_CPU_GPU)]
        self._codec = codec
        self._decoder = codec.Decoder(device_id=ordinal, backends=backends)
        self._params = codec.DecodeParams(apply_exif_orientation=False, color_spec=codec.ColorSpec.SRGB)
        self._stream = own_stream()
        self._stages = [Stage(cuda, stage_bytes) for _ in range(_STAGES)]
        self._turn = 0
        self.stage_bytes = stage_bytes
        self._prime()

    def _prime(self) -> None:
        out = io.BytesIO()
        Image.new("RGB", (64, 64)).save(out, "JPEG")
        blanks = [self._codec.CodeStream(out.getvalue()) for _ in range(_AT_ONCE)]
        self._decoder.decode(blanks, params=self._params, cuda_stream=self._stream.handle)
        self._stream.synchronize()

    def opened(self, picture: bytes) -> Any | None:
        """What `decode` wants of a photograph: its header, read; None where the decoder makes nothing of it. In any
        thread."""
        try:
            stream = self._codec.CodeStream(picture)
            return stream if stream.width and stream.height else None  # asking makes it read the header
        except Exception as error:  # RuntimeErrors without a type of their own; a bad file costs no batch
            _log.info("the device's decoder does not take a photograph: %s", error)
            return None

    def decode(self, photographs: Sequence[Photograph]) -> tuple[Stage, list[Any | None]]:
        """RGB images on the device, None where it cannot decode one. They may be read by what is queued behind the
        stage's `decoded` event; its `free` event must be recorded behind that."""
        stage = self._stages[self._turn]
        self._turn = (self._turn + 1) % _STAGES
        stage.begin(self._stream)
        good = [photograph for photograph in photographs if photograph.stream is not None]
        images = iter(self._decoded(stage, good) if good else [])
        stage.decoded.record(self._stream)
        return stage, [next(images) if photograph.stream is not None else None for photograph in photographs]

    def close(self) -> None:
        """Let go of everything on the device."""
        self._stages.clear()
        self._decoder = None
        del self._stream

    def _decoded(self, stage: Stage, photographs: Sequence[Photograph]) -> list[Any | None]:
        """The largest buffers go to the largest photographs, so that they seldom grow."""
        streams = [photograph.stream for photograph in photographs]
        sizes = [photograph.decoded_bytes for photograph in photographs]
        order = sorted(range(len(sizes)), key=sizes.__getitem__, reverse=True)
        given: list[Any] = [None] * len(streams)
        for at, image in zip(order, stage.images, strict=False):
            given[at] = image
        images = self._decoder.decode(streams, images=given, params=self._params, cuda_stream=self._stream.handle)
        # a buffer whose photograph was refused stays, for what was queued may still write to it
        kept = [image if image is not None else lent for image, lent in zip(images, given, strict=True)]
        stage.keep([*(image for image in kept if image is not None), *stage.images[len(streams) :]])
        return list(images)


def _nvimgcodec(limits: DecodeLimits) -> Any:
    """The library, with what it reads from the environment when it is loaded: a limit, and that it writes nothing to
    stderr, where it has a line or two for every file that it refuses. The photographs' own answers tell of those."""
    os.environ["NVIMGCODEC_MAX_JPEG_SCANS"] = str(limits.max_scans)
    os.environ.setdefault("PYNVIMGCODEC_VERBOSITY", "0")
    try:
        from nvidia import nvimgcodec
    except ImportError as error:
        fix = "pip install nvidia-nvimgcodec-cu13 (the gpu extra), or choose the openvino backend"
        raise EngineRefused(RefusalCode.BACKEND_UNAVAILABLE, f"nvImageCodec cannot be used: {error}", fix) from error
    return nvimgcodec
