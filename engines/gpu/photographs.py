"""Which photographs a device decodes, and how a batch of them is cut so that its pixels fit."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from engines.container import Container
from engines.gpu.looks import Look

_PIXEL_BYTES: Final = 3
_UPRIGHT: Final = 1
_TURNS: Final = range(1, 9)
_SWAPPING: Final = range(5, 9)


@dataclasses.dataclass(slots=True, kw_only=True)
class Photograph:
    """A JPEG for the device: `picture` holds the segments that make it, `stream` is what the decoder made of those, or
    None, `width` and `height` are px before `orientation` (1 to 8). The device's threads set `look` once it was seen,
    or call `refused`, once, where they cannot decode it; the batch that it is part of goes on without it."""

    picture: bytes
    stream: Any | None
    width: int
    height: int
    orientation: int
    refused: Callable[[], None]
    look: Look | None = None

    @property
    def source_size(self) -> tuple[int, int]:
        """(width, height) after orientation."""
        swapped = self.orientation in _SWAPPING
        return (self.height, self.width) if swapped else (self.width, self.height)

    @property
    def decoded_bytes(self) -> int:
        return self.width * self.height * _PIXEL_BYTES


def for_device(container: Container) -> bool:
    """Whether a device decodes this photograph as the CPU does: a whole baseline JPEG of grey or YCbCr without a colour
    profile."""
    return container.baseline and container.whole and container.ycc and not container.profile


def photograph(
    blob: bytes, container: Container, opened: Callable[[bytes], Any | None], refused: Callable[[], None]
) -> Photograph:
    """Of a JPEG that is `for_device`; `opened` is the decoder's (engines.gpu.jpegs)."""
    assert container.size is not None  # noqa: S101 (the walk of a baseline JPEG always finds it)
    width, height = container.size
    turn = container.orientation if container.orientation in _TURNS else _UPRIGHT
    picture = container.picture(blob)
    return Photograph(
        picture=picture,
        stream=opened(picture),
        width=width,
        height=height,
        orientation=turn or _UPRIGHT,
        refused=refused,
    )


def parts(photographs: Sequence[Photograph], most_bytes: int) -> Iterator[Sequence[Photograph]]:
    """The batch in runs of about equal size whose pixels take `most_bytes` at most; one that takes more goes alone."""
    total = sum(p.decoded_bytes for p in photographs)
    even = total / max(1, math.ceil(total / most_bytes))
    first, held = 0, 0
    for at, found in enumerate(photographs):
        if at > first and (held + found.decoded_bytes > most_bytes or held >= even):
            yield photographs[first:at]
            first, held = at, 0
        held += found.decoded_bytes
    if first < len(photographs):
        yield photographs[first:]
