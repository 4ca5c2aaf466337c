"""A session whose photographs a device decodes where it can; everything else comes from the CPU's decoders, whose
squares are copied to the device."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial

from engines.container import Container
from engines.decode import ImageFault
from engines.decoder import PillowDecoder
from engines.errors import RunnerFailed
from engines.gpu.device import Device
from engines.gpu.photographs import Photograph, for_device, photograph
from engines.gpu.tensorrt_runner import PhotographRunner
from engines.guard import GuardedBatch, GuardedRunner
from engines.runner import EngineInfo, Runner
from engines.session import (
    GPU_DEADLINE_S,
    EncodeRequest,
    EncoderSession,
    PendingBatch,
    Slot,
    Square,
    ViewFeatures,
    settled,
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Taken:
    """A photograph for the device: where its answer belongs, and what becomes of it where the device refuses it."""

    photograph: Photograph
    slot: Slot
    fallback: _Fallback
    trailing_bytes: int


class _Fallback:
    """Decodes a photograph on the CPU after all, once."""

    def __init__(self, begin: Callable[[], Slot]) -> None:
        self._begin = begin
        self.slot: Slot | None = None

    def __call__(self) -> None:
        if self.slot is None:
            self.slot = self._begin()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Running:
    """A photograph that is row `row` of a running group."""

    taken: _Taken
    group: GuardedBatch[Sequence[Photograph]]
    row: int
    engine: EngineInfo

    def features(self, timeout_s: float) -> ViewFeatures | ImageFault:
        outputs = self.group.result(timeout_s)
        if (other := self.taken.fallback.slot) is not None:
            return settled(other, Future(), timeout_s)
        if self.group.broken[self.row]:
            return ImageFault(code="encoder_failed", message=f"{self.engine.name} gives no finite numbers for it")
        found = self.taken.photograph
        if found.look is None:
            raise RunnerFailed(f"{self.engine.name}: a photograph was encoded and never seen")
        return ViewFeatures(
            engine=self.engine,
            embedding=outputs.embedding[self.row],
            patches=outputs.patches[self.row],
            attention=outputs.attention[self.row],
            quality=found.look.quality,
            phash=found.look.phash,
            source_size=found.source_size,
            trailing_bytes=self.taken.trailing_bytes,
        )


class DeviceSession(EncoderSession):
    """An EncoderSession that also owns what encodes photographs, by encoder name."""

    def __init__(
        self,
        runners: Mapping[str, Runner],
        photographs: Mapping[str, PhotographRunner],
        decoder: PillowDecoder,
        closing: ExitStack | None = None,
        *,
        deadline_s: float = GPU_DEADLINE_S,
        device: Device | None = None,
    ) -> None:
        super().__init__(runners, decoder, closing, deadline_s=deadline_s, device=device)
        self._examining = decoder
        self._largest = {name: runner.largest for name, runner in photographs.items()}
        self._opened = {name: runner.opened for name, runner in photographs.items()}
        self._photographs = {name: GuardedRunner[Sequence[Photograph]](r) for name, r in photographs.items()}

    def start(self, batch: Sequence[EncodeRequest]) -> PendingBatch:
        """See EncoderSession. The device begins with its photographs at once."""
        self.refuse_unknown(batch)
        slots: list[Slot] = []
        squares: list[Square] = []
        taken: dict[str, list[_Taken]] = {}
        for request in batch:
            container = self._examining.examine(request.blob)
            if isinstance(container, Container) and for_device(container):
                found = self._taken(request, container)
                taken.setdefault(request.encoder, []).append(found)
                slots.append(found.slot)
                squares.append(Future())  # nobody waits for it
                continue
            square = self._examining.begin(request.blob, container)
            slots.append(self.follow(request.encoder, square))
            squares.append(square)
        for encoder, some in taken.items():
            for first in range(0, len(some), self._largest[encoder]):
                self._encode(encoder, some[first : first + self._largest[encoder]])
        return PendingBatch(slots, squares, self.deadline_s)

    def _taken(self, request: EncodeRequest, container: Container) -> _Taken:
        fallback = _Fallback(partial(self._on_cpu, request, container))
        found = photograph(request.blob, container, self._opened[request.encoder], fallback)
        return _Taken(photograph=found, slot=Future(), fallback=fallback, trailing_bytes=container.trailing_bytes)

    def _on_cpu(self, request: EncodeRequest, container: Container) -> Slot:
        return self.follow(request.encoder, self._examining.begin(request.blob, container))

    def _encode(self, encoder: str, group: Sequence[_Taken]) -> None:
        runner = self._photographs[encoder]
        pending = runner.start([taken.photograph for taken in group])
        for row, taken in enumerate(group):
            taken.slot.set_result(_Running(taken=taken, group=pending, row=row, engine=runner.info))
