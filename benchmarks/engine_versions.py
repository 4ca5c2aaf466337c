"""A registry to measure: many versions of one encoder, each a graph of its own digest, that compute the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from engines.catalogue import EngineFiles, VerifiedEngine
from engines.keyring import read_keys
from engines.lifecycle import Verb
from engines.machine import this_machine
from engines.manifest import sha256_hex
from engines.proof import Proof
from engines.publish import released, signed, write_public_key
from engines.store import FolderStore
from worker.adapters.database import connect
from worker.adapters.engine_index import EngineIndex
from worker.adapters.engine_registry import EngineRegistry

BY: Final = {"by": "bench", "why": "a measurement"}
_DOC_STRING: Final = b"\x32"  # ModelProto's field 6, a text; fields that are appended to a message belong to it


@dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    """The registry lies in `folder`, and its keys do."""

    registry: EngineRegistry
    key: Ed25519PrivateKey
    folder: Path

    @property
    def settings(self) -> dict[str, str]:
        return {
            "ASSAY_ENGINES__REGISTRY": str(self.folder / "registry"),
            "ASSAY_ENGINES__KEYS_DIR": str(self.folder / "keys"),
            "ASSAY_ENGINES__PLANS_DIR": str(self.folder / "plans"),
        }

    def publish(self, engine: VerifiedEngine, version: int) -> str:
        """A verified version of an engine; the first is the very same graph, later ones have another digest. Returns
        its id."""
        model = engine.model if version == 1 else _retold(engine.model, f"version {version}")
        manifest = replace(engine.manifest, onnx_sha256=sha256_hex(model))
        release = released(manifest, version=version, machine=this_machine(), proof=Proof(without="a measurement"))
        files = EngineFiles(manifest=signed(release, self.key).to_json(), model=model, golden=engine.golden)
        engine_id, _ = self.registry.publish(files, manifest.name, **BY)
        self.move("verify", manifest.name, engine_id)
        return engine_id

    def move(self, verb: Verb, name: str, engine_id: str) -> None:
        self.registry.index.move(verb, name, lambda known: [one for one in known if one.id == engine_id], **BY)


@contextmanager
def versions(curator_url: str, folder: Path) -> Iterator[Versions]:
    """An empty registry, beside a key of its own."""
    key = Ed25519PrivateKey.generate()
    write_public_key(folder / "keys", "bench", key)
    database = connect(curator_url)
    index, store = EngineIndex(database), FolderStore(folder / "registry")
    try:
        registry = EngineRegistry(index=index, store=store, keys=read_keys(folder / "keys"))
        yield Versions(registry=registry, key=key, folder=folder)
    finally:
        database.dispose()


def _retold(model: bytes, words: str) -> bytes:
    """The same graph with other words about it."""
    told = words.encode()
    return model + _DOC_STRING + bytes([len(told)]) + told
