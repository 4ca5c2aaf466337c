"""A deployment whose engines come from a registry: publishing untrained ones of 64 pixels, and moving them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from devstack import Addresses
from engines.catalogue import EngineFiles
from engines.keyring import read_keys
from engines.lifecycle import Verb
from engines.machine import this_machine
from engines.proof import Proof
from engines.publish import released, seeded_engine, signed, write_public_key
from engines.store import FolderStore
from tests.acceptance.conftest import Deployment
from tests.acceptance.small import small_deployment
from worker.adapters.database import connect
from worker.adapters.engine_index import EngineIndex
from worker.adapters.engine_registry import EngineRegistry

NAME = "resnet18"
DID = {"by": "ada", "why": "a test"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    deployment: Deployment
    folder: Path
    key: Ed25519PrivateKey
    registry: EngineRegistry

    def engine(self, *arguments: str) -> str:
        """`assay engine ...` as a curator."""
        stand = self.deployment.stand
        return stand.assay("engine", *arguments, "--by", DID["by"], "--why", DID["why"], env=stand.curator)

    def verified(self, seed: int) -> str:
        """Publish an engine of its own and call it verified; returns its id."""
        made = seeded_engine(NAME, seed, image_size=64)
        version = self.registry.index.highest_version(NAME) + 1
        proof = Proof(without="a test")
        release = released(made.manifest, version=version, machine=this_machine(), proof=proof)
        manifest = signed(release, self.key)
        files = EngineFiles(manifest=manifest.to_json(), model=made.model, golden=made.golden)
        engine_id, _ = self.registry.publish(files, NAME, **DID)
        self.move("verify", engine_id)
        return engine_id

    def serve(self, seed: int) -> str:
        """Publish, verify and promote, without a word to workers; returns the id."""
        made = self.verified(seed)
        self.move("promote", made)
        return made

    def move(self, verb: Verb, engine_id: str) -> None:
        self.registry.index.move(verb, NAME, lambda known: [o for o in known if o.id == engine_id], **DID)

    def model(self, engine_id: str) -> Path:
        return self.folder / "registry" / engine_id / "model.onnx"

    def digest(self, engine_id: str) -> str:
        (found,) = [one for one in self.registry.index.published(NAME) if one.id == engine_id]
        return found.digest


@contextmanager
def registered_deployment(stack: Addresses, folder: Path, **settings: str) -> Iterator[Registered]:
    """With a registry and no engine in it."""
    key, keys = Ed25519PrivateKey.generate(), folder / "keys"
    write_public_key(keys, "own", key)
    place = {"ASSAY_ENGINES__REGISTRY": str(folder / "registry"), "ASSAY_ENGINES__KEYS_DIR": str(keys)}
    with small_deployment(stack, folder, models=False, **place, **settings) as made:
        database = connect(made.stand.curator_url)
        registry = EngineRegistry(
            index=EngineIndex(database), store=FolderStore(folder / "registry"), keys=read_keys(keys)
        )
        yield Registered(deployment=made, folder=folder, key=key, registry=registry)
        database.dispose()
