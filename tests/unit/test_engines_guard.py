"""The guard over every runner: memory that does not suffice, numbers that are broken, and neighbours of both."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.decode import Apart, ImageFault
from engines.errors import OutOfMemory, RunnerFailed
from engines.guard import GuardedRunner
from engines.runner import EncoderOutputs, EngineInfo
from engines.session import EncodeRequest, EncoderSession

INFO = EngineInfo(
    name="planted", digest="0" * 64, backend="onnxruntime", precision="int8", embedding_space="planted-1",
    embedding_dim=2, patch_dim=2, patch_grid=(1, 1), attention_grid=(1, 1), input_size=1,
)  # fmt: skip
POISON = 7


class Planted:
    """Answers a photograph of one pixel with its brightness. `spreads`: a poisoned one breaks its whole batch."""

    info = INFO

    def __init__(self, *, most: int = 100, spreads: bool = False, poison_alone: bool = True) -> None:
        self.sizes: list[int] = []
        self.most, self.spreads, self.poison_alone = most, spreads, poison_alone

    def start(self, pixels: NDArray[np.uint8]) -> Planted.Batch:
        self.sizes.append(len(pixels))
        if len(pixels) > 2 * self.most:
            raise OutOfMemory("not even begun")
        return Planted.Batch(self, pixels)

    def close(self) -> None:
        pass

    class Batch:
        def __init__(self, runner: Planted, pixels: NDArray[np.uint8]) -> None:
            self._runner, self._pixels = runner, pixels

        def result(self, timeout_s: float | None = None) -> EncoderOutputs:
            if len(self._pixels) > self._runner.most:
                raise OutOfMemory(f"{len(self._pixels)} photographs do not fit")
            bright = self._pixels.reshape(-1).astype(np.float32)
            poisoned = bright == POISON
            if len(bright) == 1 and not self._runner.poison_alone:
                poisoned[:] = False
            if self._runner.spreads and poisoned.any():
                poisoned[:] = True
            bright[poisoned] = np.nan
            rows = np.repeat(bright[:, None], 2, axis=1)
            return EncoderOutputs(embedding=rows, patches=rows[:, None], attention=rows[:, :1, None])


def pixels(values: Sequence[int]) -> NDArray[np.uint8]:
    return np.array(values, np.uint8).reshape(-1, 1, 1, 1)


def brightness(outputs: EncoderOutputs) -> list[float]:
    assert np.array_equal(outputs.embedding[:, 0], outputs.patches[:, 0, 0], equal_nan=True)
    assert np.array_equal(outputs.embedding[:, 0], outputs.attention[:, 0, 0], equal_nan=True)
    return [float(value) for value in outputs.embedding[:, 0]]


def test_finite_numbers_pass_unchanged_in_one_run() -> None:
    runner = Planted()
    batch = GuardedRunner(runner).start(pixels([1, 2, 3]))
    assert brightness(batch.result()) == [1.0, 2.0, 3.0]
    assert batch.result() is batch.result()
    assert (runner.sizes, list(batch.broken)) == ([3], [False] * 3)


@pytest.mark.parametrize("most", [1, 2, 3, 5])
def test_a_batch_too_large_for_the_memory_runs_in_halves_in_order(most: int) -> None:
    runner = Planted(most=most)
    values = list(range(20, 31))
    assert brightness(GuardedRunner(runner).start(pixels(values)).result()) == [float(v) for v in values]
    assert max(runner.sizes) == len(values)


def test_one_photograph_without_memory_fails() -> None:
    with pytest.raises(OutOfMemory, match="no memory for a batch of 1"):
        GuardedRunner(Planted(most=0)).start(pixels([1])).result()


@pytest.mark.parametrize("spreads", [False, True])
def test_neighbours_of_a_poisoned_photograph_get_their_own_numbers(spreads: bool) -> None:
    runner = Planted(spreads=spreads)
    batch = GuardedRunner(runner).start(pixels([1, POISON, 3]))
    outputs = batch.result()
    assert list(batch.broken) == [False, True, False]
    assert [value for value, is_broken in zip(brightness(outputs), batch.broken, strict=True) if not is_broken] == [
        1,
        3,
    ]
    assert runner.sizes == [3, 1, 1, 1]


def test_numbers_broken_once_are_computed_again() -> None:
    batch = GuardedRunner(Planted(poison_alone=False)).start(pixels([1, POISON]))
    assert brightness(batch.result()) == [1.0, float(POISON)]
    assert not batch.broken.any()


def test_an_engine_that_gives_nothing_else_has_failed() -> None:
    guarded = GuardedRunner(Planted())
    guarded.start(pixels([POISON] * 7 + [1])).result()
    guarded.start(pixels([POISON] * 7)).result()
    with pytest.raises(RunnerFailed, match="last 8 photographs"):
        guarded.start(pixels([POISON])).result()


class Slow:
    """A decoder whose helper process gives a photograph up after a while."""

    fault = ImageFault(code="decoder_crashed", message="it took its time")

    def decode(self, blobs: Sequence[bytes]) -> list[Apart]:
        square = Apart()
        threading.Timer(0.5, square.set_result, (self.fault,)).start()
        return [square]

    def close(self) -> None:
        pass


def test_the_deadline_of_an_engine_is_not_that_of_a_decoder() -> None:
    session = EncoderSession({"planted": Planted()}, Slow(), deadline_s=0.05)  # type: ignore[arg-type]
    batch = [EncodeRequest(blob=b"", encoder="planted")]
    assert session.start(batch).result() == [Slow.fault]
    (late,) = session.start(batch).prompt()
    assert late.result() == Slow.fault  # type: ignore[union-attr]
    session.close()
