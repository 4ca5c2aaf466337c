"""A session whose photographs a device decodes where it can; everything else comes from the CPU's decoders, whose
squares are copied to the device."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Final

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
    Running,
    Slot,
    Square,
    ViewFeatures,
    settled,
)


class _Fallback:
    """Decodes a photograph on the CPU after all, once."""

    __slots__ = ("_container", "_request", "_session", "slot")

    def __init__(self, session: DeviceSession, request: EncodeRequest, container: Container) -> None:
        self._session = session
        self._request = request
        self._container = container
        self.slot: Slot | None = None

    def __call__(self) -> None:
        if self.slot is None:
            self.slot = self._session.on_cpu(self._request, self._container)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Taken:
    """A photograph for the device: the place of its answer, and what becomes of it where the device refuses it."""

    photograph: Photograph
    place: int
    fallback: _Fallback
    trailing_bytes: int


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
            return settled(other, None, timeout_s)
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
        slots: list[Slot | Running] = []
        squares: list[Square | None] = []
        taken: dict[str, list[_Taken]] = {}
        for place, request in enumerate(batch):
            container = self._examining.examine(request.blob)
            if isinstance(container, Container) and for_device(container):
                taken.setdefault(request.encoder, []).append(self._taken(place, request, container))
                slots.append(_NOT_BEGUN)
                squares.append(None)
                continue
            square = self._examining.begin(request.blob, container)
            slots.append(self.follow(request.encoder, square))
            squares.append(square)
        for encoder, some in taken.items():
            for first in range(0, len(some), self._largest[encoder]):
                for running in self._encoded(encoder, some[first : first + self._largest[encoder]]):
                    slots[running.taken.place] = running
        return PendingBatch(slots, squares, self.deadline_s)

    def on_cpu(self, request: EncodeRequest, container: Container) -> Slot:
        """Decode a photograph here that the device refused."""
        return self.follow(request.encoder, self._examining.begin(request.blob, container))

    def _taken(self, place: int, request: EncodeRequest, container: Container) -> _Taken:
        fallback = _Fallback(self, request, container)
        found = photograph(request.blob, container, self._opened[request.encoder], fallback)
        return _Taken(photograph=found, place=place, fallback=fallback, trailing_bytes=container.trailing_bytes)

    def _encoded(self, encoder: str, group: Sequence[_Taken]) -> list[_Running]:
        """Nothing that is running is known to its photograph: the photographs' bytes must go when their answers do."""
        runner = self._photographs[encoder]
        pending, engine = runner.start([taken.photograph for taken in group]), runner.info
        return [_Running(taken=taken, group=pending, row=row, engine=engine) for row, taken in enumerate(group)]


_NOT_BEGUN: Final[Slot] = Future()  # what stands in a photograph's place until its group is started
