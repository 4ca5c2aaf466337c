"""Puts an engines.session.EncoderSession behind the ViewEncoder port: names become roles, faults become codes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields

from engines.decode import ImageFault
from engines.errors import RunnerFailed
from engines.quality import QualityMeasures
from engines.runner import EngineInfo
from engines.session import EncodeRequest, EncoderSession, LateFeatures, PendingBatch, ViewFeatures
from schemas.codes import ViewCode
from schemas.verdict import EngineUse
from worker.core.evidence import UnusableView, ViewProbe
from worker.errors import Fatal
from worker.ports import EncodeView, LateView

Translate = Callable[[EncodeView, ViewFeatures | ImageFault], ViewProbe | UnusableView]

MEASURES = tuple(field.name for field in fields(QualityMeasures))
EXIT_ENGINE = 74  # EX_IOERR: an engine or its device failed


class SessionEncoder:
    """Implements ports.ViewEncoder over one session. Owned by the thread that calls `start`."""

    def __init__(self, session: EncoderSession) -> None:
        self._session = session
        self.device = session.device  # what the engines run on, where that is a GPU
        self.engines: Mapping[str, EngineUse] = {name: engine_use(i) for name, i in session.engines.items()}

    def start(self, requests: Sequence[EncodeView]) -> SessionPending:
        batch = [EncodeRequest(blob=request.data, encoder=request.encoder) for request in requests]
        return SessionPending(requests, self._session.start(batch), self.engines)

    def self_test(self, goldens: Mapping[str, bytes]) -> None:
        """Run the golden images once more. Raises EngineRefused for an engine that departs from its outputs."""
        with _fatal():
            self._session.self_test(goldens)

    def close(self) -> None:
        self._session.close()


class SessionPending:
    def __init__(self, requests: Sequence[EncodeView], pending: PendingBatch, engines: Mapping[str, EngineUse]) -> None:
        self._requests = requests
        self._pending = pending
        self._engines = engines
        self._started_s = time.monotonic()
        self.took_s = 0.0  # from the start until its results were there; set when they are

    def result(self) -> list[ViewProbe | UnusableView]:
        with _fatal():
            answers = zip(self._requests, self._pending.result(), strict=True)
        self.took_s = time.monotonic() - self._started_s
        return [self._translate(request, answer) for request, answer in answers]

    def prompt(self) -> list[ViewProbe | UnusableView | LateView]:
        with _fatal():
            answers = zip(self._requests, self._pending.prompt(), strict=True)
        self.took_s = time.monotonic() - self._started_s
        return [
            SessionLate(request, answer, self._translate)
            if isinstance(answer, LateFeatures)
            else self._translate(request, answer)
            for request, answer in answers
        ]

    def _translate(self, request: EncodeView, answer: ViewFeatures | ImageFault) -> ViewProbe | UnusableView:
        view = request.view
        if isinstance(answer, ImageFault):
            return UnusableView(view=view.view, sha256=view.sha256, code=ViewCode(answer.code), detail=answer.message)
        return ViewProbe(
            view=view.view,
            sha256=view.sha256,
            engine=self._engines[request.encoder],
            embedding=answer.embedding,
            patches=answer.patches,
            patch_grid=answer.engine.patch_grid,
            attention=answer.attention,
            quality=_quality(answer),
            phash=answer.phash,
            source_size=answer.source_size,
            encode_ms=self.took_s * 1e3,
        )


class SessionLate:
    """Implements ports.LateView."""

    def __init__(self, request: EncodeView, late: LateFeatures, translate: Translate) -> None:
        self._request = request
        self._late = late
        self._translate = translate

    @property
    def done(self) -> bool:
        return self._late.done

    def when_done(self, call: Callable[[], None]) -> None:
        self._late.when_done(call)

    def result(self) -> ViewProbe | UnusableView:
        with _fatal():
            answer = self._late.result()
        return self._translate(self._request, answer)

    def drop(self) -> None:
        self._late.drop()


@contextmanager
def _fatal() -> Iterator[None]:
    """After a fault of a device nothing that this process computes can be trusted: it ends."""
    try:
        yield
    except RunnerFailed as failure:
        raise Fatal(str(failure), exit_code=EXIT_ENGINE) from failure


def _quality(answer: ViewFeatures) -> dict[str, float]:
    """The measures by name; `trailing_bytes` is there where the file goes on behind its photograph."""
    measures: dict[str, float] = {name: getattr(answer.quality, name) for name in MEASURES}
    return {**measures, "trailing_bytes": float(answer.trailing_bytes)} if answer.trailing_bytes else measures


def engine_use(info: EngineInfo) -> EngineUse:
    return EngineUse(
        name=info.name,
        digest=info.digest,
        backend=info.backend,
        precision=info.precision,
        embedding_space=info.embedding_space,
    )
