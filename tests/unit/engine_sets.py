"""Sets of engines in memory, for the tests of swaps: probes follow from the photograph and from the engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256

from test_pipeline import probe

from engines.errors import EngineRefused, RefusalCode
from schemas.codes import ViewCode
from schemas.verdict import EngineUse
from worker.adapters.switching import OpenSet
from worker.core.evidence import UnusableView, ViewProbe
from worker.core.fallback import Step
from worker.errors import Fatal
from worker.ports import EncodeView, LateView

NAME = "fake"


def engine_use(engine: str, backend: str = "test") -> EngineUse:
    digest = sha256(engine.encode()).hexdigest()
    return EngineUse(name=NAME, digest=digest, backend=backend, precision="fp32", embedding_space=f"space-{engine}")


@dataclass
class FakeSession:
    """Of one engine. `broken`: it gives no finite numbers; `dead`: it ends the process; `departed`: its golden images
    are others."""

    engine: str
    backend: str = "test"
    broken: bool = False
    dead: bool = False
    departed: bool = False
    closed: bool = False
    seen: int = 0
    tested: int = 0
    device: None = None
    engines: Mapping[str, EngineUse] = field(init=False)

    def __post_init__(self) -> None:
        self.engines = {NAME: engine_use(self.engine, self.backend)}

    def start(self, requests: Sequence[EncodeView]) -> FakeSessionPending:
        assert not self.closed, f"{self.engine} was closed while a job needed it"
        assert {request.encoder for request in requests} <= self.engines.keys()
        self.seen += len(requests)
        return FakeSessionPending(self, requests)

    def self_test(self, goldens: Mapping[str, bytes]) -> None:
        self.tested += 1
        if self.departed:
            raise EngineRefused(RefusalCode.GOLDEN_MISMATCH, f"{self.engine} departs", "another")

    def close(self) -> None:
        assert not self.closed
        self.closed = True


@dataclass
class FakeSessionPending:
    session: FakeSession
    requests: Sequence[EncodeView]

    def result(self) -> list[ViewProbe | UnusableView]:
        assert not self.session.closed
        if self.session.dead:
            raise Fatal(f"{self.session.engine} hangs", exit_code=74)
        return [self._answer(request) for request in self.requests]

    def prompt(self) -> Sequence[ViewProbe | UnusableView | LateView]:
        return self.result()

    def _answer(self, request: EncodeView) -> ViewProbe | UnusableView:
        found = probe(request)
        if isinstance(found, UnusableView):
            return found
        if self.session.broken:
            return UnusableView(view=found.view, sha256=found.sha256, code=ViewCode.ENCODER_FAILED)
        return replace(found, engine=self.session.engines[request.encoder], encode_ms=2.0)


def open_set(engine: str, backend: str = "test", **faults: bool) -> OpenSet:
    step = Step.of({NAME: engine}, backend)
    return OpenSet(step=step, session=FakeSession(engine, backend, **faults))


def session_of(opened: OpenSet) -> FakeSession:
    assert isinstance(opened.session, FakeSession)
    return opened.session
