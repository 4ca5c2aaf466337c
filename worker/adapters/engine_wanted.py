"""What the registry wants a worker to serve on this machine: the steps of its ladder, and the release that is tried."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy import Engine, select

from engines.errors import EngineRefused
from engines.lifecycle import State
from engines.matrix import Machine, best, misfits
from engines.runner import Backend
from migrations.tables import engine_releases
from worker.adapters.database import retrying
from worker.adapters.engine_index import EngineIndex, Published
from worker.core.fallback import Step, ladder

CPU_BACKENDS: Final[tuple[Backend, ...]] = ("openvino", "onnxruntime")


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedTrial:
    """A running release whose candidate is for this machine."""

    release: UUID
    candidate: Published
    replaces: str  # the id of the engine that it is compared with
    share: float
    publishes: bool

    @property
    def encoder(self) -> str:
        return self.candidate.variant.name

    def step(self, backend: str) -> Step:
        return Step.of({self.encoder: self.candidate.id}, backend)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """`steps`: what may serve, best first; `published` holds their engines and the candidate, by id."""

    steps: tuple[Step, ...]
    published: Mapping[str, Published]
    trial: WantedTrial | None = None


def other_backend(backend: Backend) -> Backend | None:
    """The CPU's way of running an engine where this one fails: the fastest that is installed and is not this one."""
    others = (other for other in CPU_BACKENDS if other != backend)
    return next((other for other in others if importlib.util.find_spec(other)), None)


def read_wanted(index: EngineIndex, names: Sequence[str], machine: Machine, backend: Backend) -> Wanted:
    """Raises EngineRefused where a name has nothing current for this machine, and ServiceUnavailable."""
    known = {name: index.published(name, (State.CURRENT, State.PREVIOUS, State.CANARY)) for name in names}
    current = {name: _best(name, one, State.CURRENT, machine, backend) for name, one in known.items()}
    previous = current | _fitting(known, State.PREVIOUS, machine, backend)
    rungs = [(current, backend), (previous, backend)]
    cpu = other_backend(backend)
    if cpu is not None and (lowest := _fitting(known, State.CURRENT, machine, cpu)).keys() == known.keys():
        rungs.append((lowest, cpu))
    return Wanted(
        steps=ladder((_ids(engines), runs) for engines, runs in rungs),
        published={one.id: one for of in known.values() for one in of},
        trial=_trial(index.database, [one for of in known.values() for one in of], machine, backend),
    )


def _ids(chosen: Mapping[str, Published]) -> dict[str, str]:
    return {name: one.id for name, one in chosen.items()}


def _best(name: str, known: Sequence[Published], state: State, machine: Machine, backend: Backend) -> Published:
    return best(name, [(one.manifest, one) for one in known if one.state is state], machine, backend)[1]


def _fitting(
    known: Mapping[str, Sequence[Published]], state: State, machine: Machine, backend: Backend
) -> dict[str, Published]:
    """By name, where there is one for this machine."""
    found: dict[str, Published] = {}
    for name, of in known.items():
        with suppress(EngineRefused):
            found[name] = _best(name, of, state, machine, backend)
    return found


def _trial(database: Engine, known: Sequence[Published], machine: Machine, backend: Backend) -> WantedTrial | None:
    """The oldest running release whose candidate is canary and for this machine: one takes traffic at a time."""
    candidates = {one.id: one for one in known if one.state is State.CANARY}
    if not candidates:
        return None
    columns = engine_releases.c
    wanted = select(engine_releases).where(columns.state == "running", columns.candidate.in_(candidates))

    def read() -> WantedTrial | None:
        with database.connect() as connection:
            for row in connection.execute(wanted.order_by(columns.started_at, columns.id)):
                candidate = candidates[row.candidate]
                if not misfits(candidate.manifest, machine, backend):
                    return WantedTrial(
                        release=row.id,
                        candidate=candidate,
                        replaces=row.current,
                        share=row.share,
                        publishes=row.mode == "canary",
                    )
        return None

    return retrying(read)
