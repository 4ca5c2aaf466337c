"""The registry: engines' files in a store, and their states in the index. Nothing of a file is believed before its
signature, its digests and its place in the index were checked, on the very bytes that are then loaded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from engines.catalogue import EngineFiles, VerifiedEngine, verified_engine
from engines.errors import EngineRefused, RefusalCode
from engines.gate import refuse_unproven
from engines.keyring import refuse_retiring
from engines.lifecycle import State
from engines.matrix import Machine, best
from engines.runner import Backend
from engines.signing import TrustedKeys
from engines.store import EngineStore, opened
from worker.adapters.engine_index import EngineIndex, Published, exempted

_TO_VERIFY: Final = "publish one, and verify it: assay engine list tells what there is"


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

    def candidate(self, name: str, machine: Machine, backend: Backend) -> tuple[Published, VerifiedEngine]:
        """The newest variant that is verified or canary and for this machine, verified anew."""
        offered = self.index.published(name, (State.VERIFIED, State.CANARY))
        if not offered:
            raise EngineRefused(RefusalCode.NOT_PUBLISHED, f"no engine {name} is verified or canary", _TO_VERIFY)
        highest = max(one.variant.version for one in offered)
        newest = [(one.manifest, one) for one in offered if one.variant.version == highest]
        chosen = best(name, newest, machine, backend)[1]
        return chosen, self.read(chosen)

    def _current(self, name: str, machine: Machine, backend: Backend) -> Published:
        offered = [(one.manifest, one) for one in self.index.published(name, (State.CURRENT,))]
        return best(name, offered, machine, backend)[1]
