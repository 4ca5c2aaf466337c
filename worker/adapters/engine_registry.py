"""The registry: engines' files in a store, and their states in the index. Nothing of a file is believed before its
signature, its digests and its place in the index were checked, on the very bytes that are then loaded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from engines.catalogue import EngineFiles, VerifiedEngine, verified_engine
from engines.gate import refuse_unproven
from engines.keyring import refuse_retiring
from engines.lifecycle import State
from engines.matrix import Machine, best
from engines.runner import Backend
from engines.signing import TrustedKeys
from engines.store import EngineStore, opened
from worker.adapters.engine_index import EngineIndex, Published, exempted


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRegistry:
    """Raises EngineRefused, and ServiceUnavailable where the store or Postgres is away."""

    index: EngineIndex
    store: EngineStore
    keys: TrustedKeys

    def publish(
        self, files: EngineFiles, name: str, *, by: str, why: str, without_report: str = ""
    ) -> tuple[str, bool]:
        """Verify an engine's files, keep them, then enter them as a draft. Its release proves its accuracy, or says
        why not, or `without_report` does. Returns the id, and whether it is new."""
        manifest = verified_engine(files, name, self.keys).manifest
        refuse_retiring(self.keys, manifest.key_id)
        if not without_report:
            refuse_unproven(manifest)
        engine_id = self.store.put(files)
        return engine_id, self.index.add(engine_id, manifest, by=by, why=exempted(why, without_report))

    def read(self, published: Published, *, now: datetime | None = None) -> VerifiedEngine:
        """The engine, verified anew."""
        return opened(self.store.get(published.id), published.variant, self.keys, now=now)

    def current(
        self, names: Iterable[str], machine: Machine, backend: Backend
    ) -> list[tuple[Published, VerifiedEngine]]:
        """For each name the current variant that is most closely made for this machine, verified."""
        chosen = [self._current(name, machine, backend) for name in dict.fromkeys(names)]
        return [(one, self.read(one)) for one in chosen]

    def _current(self, name: str, machine: Machine, backend: Backend) -> Published:
        offered = [(one.manifest, one) for one in self.index.published(name, (State.CURRENT,))]
        return best(name, offered, machine, backend)[1]
