"""The worker's decoder for a benchmark: blobs in, and back when every square is there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from engines.decode import Decoded
from engines.decoder import PillowDecoder

Decode = Callable[[Sequence[bytes]], None]


@contextmanager
def open_decode(size: int, *, on_device: bool) -> Iterator[Decode]:
    """Raises RuntimeError for a photograph that was not decoded."""
    if on_device:
        raise RuntimeError("the worker decodes on the CPU: there is no device decoder in this tree")
    decoder = PillowDecoder(size, len(os.sched_getaffinity(0)))

    def decode(blobs: Sequence[bytes]) -> None:
        for square in decoder.decode(blobs):
            if not isinstance(square.result(), Decoded):
                raise RuntimeError(f"not decoded: {square.result()}")

    try:
        yield decode
    finally:
        decoder.close()
