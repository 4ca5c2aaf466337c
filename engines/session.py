"""Photographs in, features out: decoding and inference of many photographs at once. A batch's photographs go to their
encoder as they come out of the decoder, so that two batches in flight keep decoder and encoders busy at the same time.
The device path offers this same interface."""

from __future__ import annotations

import dataclasses
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future, wait
from contextlib import ExitStack
from functools import partial
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from engines.decode import Apart, Decoded, Decoder, ImageFault
from engines.errors import EngineRefused, RefusalCode, RunnerFailed
from engines.golden import self_test
from engines.gpu.device import Device
from engines.guard import GuardedBatch, GuardedRunner
from engines.quality import QualityMeasures
from engines.runner import EngineInfo, Runner

_WAITING_SQUARES: Final = 32  # decoded photographs that wait for an encoder; then the decoder's threads wait
_GROUP: Final = 8  # photographs handed to a runner at once
CPU_DEADLINE_S: Final = 60.0  # a batch takes a second; two cores that fifty processes want make it half a minute
GPU_DEADLINE_S: Final = 10.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EncodeRequest:
    """One photograph's bytes and the encoder that is to look at it."""

    blob: bytes
    encoder: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ViewFeatures:
    """What an encoder made of one photograph. `embedding` float32 [D] and `patches` float32 [P,d], L2-normalised,
    patches row by row on `engine.patch_grid`; `attention` float32 [h,w], sum 1; `source_size` (width, height) after
    orientation; `phash` 64 bits, unsigned; `trailing_bytes` what hung behind the photograph. Arrays lie on the host and
    are not shared with anything that writes."""

    engine: EngineInfo
    embedding: NDArray[np.float32]
    patches: NDArray[np.float32]
    attention: NDArray[np.float32]
    quality: QualityMeasures
    phash: int
    source_size: tuple[int, int]
    trailing_bytes: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Running:
    """A decoded photograph that is row `row` of a running group."""

    decoded: Decoded
    group: GuardedBatch[NDArray[np.uint8]]
    row: int
    engine: EngineInfo

    def features(self, timeout_s: float) -> ViewFeatures | ImageFault:
        outputs = self.group.result(timeout_s)
        if self.group.broken[self.row]:
            return ImageFault(code="encoder_failed", message=f"{self.engine.name} gives no finite numbers for it")
        return ViewFeatures(
            engine=self.engine,
            embedding=outputs.embedding[self.row],
            patches=outputs.patches[self.row],
            attention=outputs.attention[self.row],
            quality=self.decoded.quality,
            phash=self.decoded.phash,
            trailing_bytes=self.decoded.trailing_bytes,
            source_size=self.decoded.source_size,
        )


class Running(Protocol):
    """A photograph that is on its way through an encoder. `features` waits, and raises RunnerFailed."""

    def features(self, timeout_s: float) -> ViewFeatures | ImageFault: ...


Slot = Future[Running | ImageFault]
Square = Future[Decoded | ImageFault]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    decoded: Decoded
    encoder: str
    slot: Slot


class LateFeatures:
    """A photograph that a helper process still decodes, while the rest of its batch is done."""

    def __init__(self, slot: Slot, square: Apart, deadline_s: float) -> None:
        self._slot = slot
        self._square = square
        self._deadline_s = deadline_s

    @property
    def done(self) -> bool:
        return self._slot.done()

    def when_done(self, call: Callable[[], None]) -> None:
        """`call` runs once, in some thread, when `result` waits for an encoder at most."""
        self._slot.add_done_callback(lambda _: call())

    def result(self) -> ViewFeatures | ImageFault:
        """Waits. Raises RunnerFailed."""
        return settled(self._slot, self._square, self._deadline_s)

    def drop(self) -> None:
        """Nobody wants it any more: unless a helper is at it already, it is not decoded."""
        self._square.cancel()


class PendingBatch:
    """A batch on its way. Of a photograph that a device decodes there is no square, and what runs is known at once."""

    def __init__(self, slots: Sequence[Slot | Running], squares: Sequence[Square | None], deadline_s: float) -> None:
        self._slots = slots
        self._squares = squares
        self._deadline_s = deadline_s

    def result(self) -> list[ViewFeatures | ImageFault]:
        """Features or fault of every photograph, in the order of the requests. Raises RunnerFailed."""
        pairs = zip(self._slots, self._squares, strict=True)
        return [settled(slot, square, self._deadline_s) for slot, square in pairs]

    def prompt(self) -> list[ViewFeatures | ImageFault | LateFeatures]:
        """The same, without waiting for what helper processes still decode. Raises RunnerFailed."""
        pairs = list(zip(self._slots, self._squares, strict=True))
        for slot, square in pairs:
            if not isinstance(square, Apart):
                settled(slot, square, self._deadline_s)
        return [
            LateFeatures(slot, square, self._deadline_s)
            if isinstance(square, Apart) and isinstance(slot, Future) and not slot.done()
            else settled(slot, square, self._deadline_s)
            for slot, square in pairs
        ]


def settled(slot: Slot | Running, square: Square | None, deadline_s: float) -> ViewFeatures | ImageFault:
    """Wait for a photograph. The deadline is the engine's: decoding in a helper process has its own, which may be
    longer. Raises RunnerFailed."""
    if not isinstance(slot, Future):
        return slot.features(deadline_s)
    if isinstance(square, Apart):
        wait([square])
    try:
        running = slot.result(deadline_s)
    except TimeoutError as error:
        raise RunnerFailed(f"a photograph was not encoded within {deadline_s:g} s") from error
    except CancelledError as error:
        raise RunnerFailed("the session was closed while a batch was on its way") from error
    return running if isinstance(running, ImageFault) else running.features(deadline_s)


class EncoderSession:
    """Owns a decoder and the runners, by encoder name. Any thread may start batches, one reads them, one closes.
    `closing` releases the runners and what they share, where that is more than the runners themselves. What takes
    longer than `deadline_s` hangs."""

    def __init__(
        self,
        runners: Mapping[str, Runner],
        decoder: Decoder,
        closing: ExitStack | None = None,
        *,
        deadline_s: float = CPU_DEADLINE_S,
        device: Device | None = None,
    ) -> None:
        self.device = device
        self._runners = {name: GuardedRunner[NDArray[np.uint8]](runner) for name, runner in runners.items()}
        self.deadline_s = deadline_s
        self._closing = closing
        self._decoder = decoder
        self._waiting: queue.Queue[_Waiting | None] = queue.Queue(_WAITING_SQUARES)
        self._feeder = threading.Thread(target=self._feed, name="encoder-feed", daemon=True)
        self._feeder.start()

    @property
    def engines(self) -> dict[str, EngineInfo]:
        """The engine behind every encoder."""
        return {name: runner.info for name, runner in self._runners.items()}

    def start(self, batch: Sequence[EncodeRequest]) -> PendingBatch:
        """Start a batch and return at once. Raises EngineRefused (encoder_unknown)."""
        self.refuse_unknown(batch)
        squares = self._decoder.decode([request.blob for request in batch])
        slots = [self.follow(request.encoder, square) for request, square in zip(batch, squares, strict=True)]
        return PendingBatch(slots, squares, self.deadline_s)

    def refuse_unknown(self, batch: Sequence[EncodeRequest]) -> None:
        """Raises EngineRefused (encoder_unknown)."""
        if unknown := {r.encoder for r in batch} - self._runners.keys():
            known = ", ".join(sorted(self._runners))
            fix = "name one of the loaded encoders in the view's setting"
            message = f"no encoder {sorted(unknown)}, loaded are: {known}"
            raise EngineRefused(RefusalCode.ENCODER_UNKNOWN, message, fix)

    def follow(self, encoder: str, square: Square) -> Slot:
        """What becomes of a photograph once the CPU has decoded it."""
        slot: Slot = Future()
        square.add_done_callback(partial(self._decoded, encoder, slot))
        return slot

    def self_test(self, goldens: Mapping[str, bytes]) -> None:
        """Run the engines' golden images again, by encoder name; in the thread that reads batches. Raises
        EngineRefused (golden_mismatch) and RunnerFailed."""
        for name, golden in goldens.items():
            self_test(self._runners[name], golden)

    def close(self) -> None:
        """Stop decoding, let running groups end, release the runners. Batches not yet decoded raise RunnerFailed."""
        self._decoder.close()
        self._waiting.put(None)
        self._feeder.join()
        if self._closing is not None:
            self._closing.close()
            return
        for runner in self._runners.values():
            runner.close()

    def _decoded(self, encoder: str, slot: Slot, square: Future[Decoded | ImageFault]) -> None:
        if square.cancelled():
            slot.cancel()
            return
        if (error := square.exception()) is not None:
            slot.set_exception(error)
            return
        decoded = square.result()
        if isinstance(decoded, ImageFault):
            slot.set_result(decoded)
        else:
            self._waiting.put(_Waiting(decoded=decoded, encoder=encoder, slot=slot))

    def _feed(self) -> None:
        while (first := self._waiting.get()) is not None:
            group, last = [first], False
            while len(group) < _GROUP and not self._waiting.empty():
                following = self._waiting.get()
                if following is None:
                    last = True
                    break
                group.append(following)
            for encoder in dict.fromkeys(w.encoder for w in group):
                self._run(encoder, [w for w in group if w.encoder == encoder])
            if last:
                return

    def _run(self, encoder: str, group: Sequence[_Waiting]) -> None:
        runner = self._runners[encoder]
        try:
            pending = runner.start(np.stack([w.decoded.pixels for w in group]))
        except Exception as error:  # the batch's owner raises it; this thread lives on
            for waiting in group:
                waiting.slot.set_exception(error)
            return
        for row, waiting in enumerate(group):
            running = _Running(decoded=waiting.decoded, group=pending, row=row, engine=runner.info)
            waiting.slot.set_result(running)
