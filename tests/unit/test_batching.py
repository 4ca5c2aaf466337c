from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st

from worker.batching import Batcher, BatchLimits, Flush


@dataclass(frozen=True)
class Image:
    name: int
    data: bytes


LIMITS = BatchLimits(max_images=4, max_bytes=100, window_s=1.0)


def images(sizes: list[int]) -> list[Image]:
    return [Image(n, bytes(size)) for n, size in enumerate(sizes)]


def test_flush_reasons() -> None:
    batcher: Batcher[Image] = Batcher(LIMITS)
    assert batcher.wait_s(0.0) is None
    batcher.add(images([10, 10]), 0.0)
    assert batcher.cut(0.5) is None
    assert batcher.wait_s(0.25) == 0.75
    window = batcher.cut(1.0)
    assert window is not None
    assert window.flush is Flush.WINDOW
    batcher.add(images([10] * 4), 2.0)
    full = batcher.cut(2.0)
    assert full is not None
    assert full.flush is Flush.IMAGES
    batcher.add(images([60, 60]), 3.0)
    big = batcher.cut(3.0)
    assert big is not None
    assert (big.flush, len(big.images)) == (Flush.BYTES, 1)
    last = batcher.cut(3.1, closing=True)
    assert last is not None
    assert (last.flush, len(batcher)) == (Flush.CLOSING, 0)


def test_an_idle_encoder_is_given_what_is_there_where_it_is_eager() -> None:
    patient: Batcher[Image] = Batcher(replace(LIMITS, eager=False))
    eager: Batcher[Image] = Batcher(LIMITS)
    assert eager.cut(0.0, idle=True) is None
    for batcher in (patient, eager):
        batcher.add(images([10]), 0.0)
    assert eager.cut(0.0, idle=False) is None
    cut = eager.cut(0.0, idle=True)
    assert cut is not None
    assert (cut.flush, len(cut.images)) == (Flush.IDLE, 1)
    assert patient.cut(0.0, idle=True) is None
    eager.add(images([10] * 4), 1.0)
    full = eager.cut(1.0, idle=True)
    assert full is not None
    assert full.flush is Flush.IMAGES


@given(st.lists(st.lists(st.integers(0, 150), max_size=7), max_size=12))
def test_every_image_leaves_once_in_order_within_the_limits(arrivals: list[list[int]]) -> None:
    batcher: Batcher[Image] = Batcher(LIMITS)
    sent: list[int] = []
    got: list[int] = []
    for step, sizes in enumerate(arrivals):
        arrived = [Image(len(sent) + n, bytes(size)) for n, size in enumerate(sizes)]
        sent += [image.name for image in arrived]
        batcher.add(arrived, step * 0.3)
        while batch := batcher.cut(step * 0.3):
            assert 0 < len(batch.images) <= LIMITS.max_images
            assert len(batch.images) == 1 or sum(len(i.data) for i in batch.images) <= LIMITS.max_bytes
            got += [image.name for image in batch.images]
    while batch := batcher.cut(0.0, closing=True):
        got += [image.name for image in batch.images]
    assert got == sent


@given(st.floats(0, 10), st.floats(0, 10))
def test_no_image_waits_longer_than_the_window(arrival_s: float, later_s: float) -> None:
    batcher: Batcher[Image] = Batcher(LIMITS)
    batcher.add(images([1]), arrival_s)
    due = arrival_s + LIMITS.window_s
    assert (batcher.cut(due + later_s)) is not None
