"""Pinned blocks: whose they are, and when they come back."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.gpu.lending import Lender

SHAPES = {"embedding": ((4, 7), np.dtype(np.float32)), "attention": ((4, 3, 3), np.dtype(np.float16))}


@pytest.fixture
def made() -> list[NDArray[np.uint8]]:
    return []


@pytest.fixture
def lender(made: list[NDArray[np.uint8]]) -> Lender:
    def pinned(size: int) -> NDArray[np.uint8]:
        made.append(np.zeros(size, np.uint8))
        return made[-1]

    return Lender(SHAPES, pinned, 2)


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
