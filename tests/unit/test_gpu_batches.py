"""How batches for a device are cut and filled up, and which photographs it is given."""

from __future__ import annotations

import io
import types

import numpy as np
import pytest
from PIL import Image

from engines.container import examined
from engines.gpu.graphs import bucket_for, buckets
from engines.gpu.jpegs import Stage
from engines.gpu.photographs import Photograph, for_device, parts, photograph
from engines.gpu.resample import Source, described, taps


@pytest.mark.parametrize("largest", [1, 2, 8, 9, 32, 100, 128, 256])
def test_filling_a_batch_up_adds_a_quarter_at_most(largest: int) -> None:
    sizes = buckets(largest)
    assert sizes[0] == 1 and sizes[-1] == largest and list(sizes) == sorted(set(sizes))
    for count in range(1, largest + 1):
        assert count <= bucket_for(count, sizes) <= max(count * 1.25, count)


def sized(*megapixels: float) -> list[Photograph]:
    return [
        Photograph(picture=b"", stream=None, width=int(m * 1000), height=1000, orientation=1, refused=lambda: None)
        for m in megapixels
    ]


@pytest.mark.parametrize(
    ("megapixels", "counts"),
    [
        ([], []),
        ([1.0], [1]),
        ([1.0] * 10, [10]),
        ([1.0] * 11, [6, 5]),
        ([50.0, 1.0, 1.0], [1, 2]),
        ([1.0, 50.0, 1.0], [1, 1, 1]),
    ],
)
def test_a_batch_is_cut_evenly_where_its_pixels_do_not_fit(megapixels: list[float], counts: list[int]) -> None:
    batch = sized(*megapixels)
    cut = list(parts(batch, 30_000_000))
    assert [len(part) for part in cut] == counts
    assert [p for part in cut for p in part] == batch


def jpeg(mode: str = "RGB", **how: object) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(1).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(out, "JPEG", **how)
    return out.getvalue()


def adobe(blob: bytes, transform: int) -> bytes:
    """With Adobe's segment, which says how the components are to be understood."""
    return blob[:2] + b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform]) + blob[2:]


@pytest.mark.parametrize(
    ("blob", "taken"),
    [
        (jpeg(), True),
        (jpeg("L"), True),
        (adobe(jpeg(), 1), True),
        (jpeg(subsampling=0) + b"something behind", True),
        (adobe(jpeg(), 0), False),
        (jpeg(keep_rgb=True), False),
        (jpeg("CMYK"), False),
        (jpeg(progressive=True), False),
        (jpeg()[:-2], False),
        (jpeg()[:-300], False),
        (jpeg(icc_profile=b"a profile"), False),
    ],
)
def test_the_device_is_given_only_what_every_decoder_understands_alike(blob: bytes, taken: bool) -> None:
    container = examined(blob)
    assert container is not None
    assert for_device(container) is taken


@pytest.mark.parametrize(("orientation", "size"), [(1, (120, 90)), (3, (120, 90)), (6, (90, 120)), (9, (120, 90))])
def test_a_photograph_tells_its_size_upright(orientation: int, size: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    blob = jpeg(exif=exif)
    container = examined(blob)
    assert container is not None
    found = photograph(blob, container, bytes.upper, lambda: None)
    assert found.source_size == size
    assert b"Exif" not in found.picture and found.stream == found.picture.upper()


def test_tables_of_a_ragged_batch_do_not_overlap() -> None:
    sizes = [(64, 64), (1000, 700), (65, 300)]
    sources = [
        Source(address=1, pitch=w * 3, width=w, height=h, orientation=1, row=row) for row, (w, h) in enumerate(sizes)
    ]
    table, integers = described(sources, 64)
    lengths = [2 * 64 * (taps(source, 64) + 2) for source in sources]
    assert list(table[:, 5]) == [0, lengths[0], lengths[0] + lengths[1]]
    assert integers == sum(lengths)


class Pixels:
    """An image of the decoder's, whose address is asked for with a cost."""

    def __init__(self, capacity: int, address: int) -> None:
        self.capacity, self.at, self.asked = capacity, address, 0

    @property
    def __cuda_array_interface__(self) -> dict[str, tuple[int, bool]]:
        self.asked += 1
        return {"data": (self.at, False)}


def test_an_image_s_address_is_asked_for_when_it_is_new_or_has_grown() -> None:
    events = types.SimpleNamespace(Event=lambda flags: None, event_flags=types.SimpleNamespace(DISABLE_TIMING=2))
    stage, image = Stage(events, kept_bytes=100), Pixels(60, 0x1000)
    stage.keep([image])
    assert [stage.address(image) for _ in range(3)] == [0x1000] * 3 and image.asked == 1
    image.capacity, image.at = 90, 0x2000
    assert stage.address(image) == 0x2000 and image.asked == 2
    stage.keep([image, Pixels(70, 0x3000)])
    assert stage.address(image) == 0x2000 and image.asked == 2
    stage.begin(types.SimpleNamespace(wait_for_event=lambda event: None))
    assert [kept.capacity for kept in stage.images] == [70], "the largest goes where there is too much"
    stage.address(image)
    assert image.asked == 3, "nothing is believed of images that are gone"
