"""Pinned blocks: whose they are, and when they come back."""

from __future__ import annotations

import gc
import types

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.errors import OutOfMemory, RunnerFailed
from engines.gpu import lending
from engines.gpu.lending import Lender, Pinned

SHAPES = {"embedding": ((4, 7), np.dtype(np.float32)), "attention": ((4, 3, 3), np.dtype(np.float16))}


@pytest.fixture
def made() -> list[NDArray[np.uint8]]:
    return []


@pytest.fixture
def unpinned() -> list[int]:
    return []


@pytest.fixture
def lender(made: list[NDArray[np.uint8]], unpinned: list[int]) -> Lender:
    def pinned(size: int) -> Pinned:
        number, array = len(made), np.zeros(size, np.uint8)
        made.append(array)
        return Pinned(array=array, unpin=lambda: unpinned.append(number))

    return Lender(SHAPES, 2, pinned)


def test_arrays_of_one_block_lie_apart(lender: Lender, made: list[NDArray[np.uint8]]) -> None:
    taken, _ = lender.take()
    for number, (name, (shape, dtype)) in enumerate(SHAPES.items(), 1):
        assert (taken[name].shape, taken[name].dtype) == (shape, dtype)
        taken[name][:] = number
    assert (taken["embedding"] == 1).all() and (taken["attention"] == 2).all()
    assert len(made) == 1 and np.shares_memory(made[0], taken["attention"])


def test_a_block_is_lent_again_when_nobody_has_a_part_of_it(lender: Lender, made: list[NDArray[np.uint8]]) -> None:
    row = lender.take()[0]["embedding"][1:].T[:2]
    row[:] = 5
    for _ in range(3):
        assert not np.shares_memory(lender.take()[0]["embedding"], row)
    assert (row == 5).all() and len(made) == 2
    del row
    gc.collect()
    kept = [lender.take()[0], lender.take()[0]]
    assert len(made) == 2
    assert not np.shares_memory(kept[0]["embedding"], kept[1]["embedding"])


def test_when_all_are_lent_memory_that_is_not_pinned_is_given(lender: Lender, made: list[NDArray[np.uint8]]) -> None:
    kept, pinned = zip(*[lender.take() for _ in range(3)], strict=True)
    assert pinned == (True, True, False)
    assert len(made) == 2
    assert not any(np.shares_memory(block, kept[2]["embedding"]) for block in made)


def test_what_is_lent_at_the_end_is_unpinned_and_lives_on(
    lender: Lender, made: list[NDArray[np.uint8]], unpinned: list[int]
) -> None:
    kept = lender.take()[0]["embedding"]
    lender.take()
    gc.collect()
    kept[:] = 3
    lender.close()
    assert sorted(unpinned) == [0, 1]
    assert (kept == 3).all() and np.shares_memory(made[0], kept)


@pytest.mark.parametrize(("code", "kind"), [(2, OutOfMemory), (1, RunnerFailed)])
def test_what_the_driver_does_not_pin_is_told(
    code: int, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lending, "cuda_driver", lambda: types.SimpleNamespace(cuMemHostRegister_v2=lambda *given: code))
    with pytest.raises(kind, match=f"^4096 bytes of the host's memory could not be pinned: CUDA error {code}$"):
        lending.pinned(4096)
