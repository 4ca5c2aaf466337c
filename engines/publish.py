"""Signing engines and laying them where workers load them; and the untrained encoder for tests and first light."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from engines.architectures import architecture_of, seeded_weights
from engines.export import ExportedEngine, export_int8, observed
from engines.golden import golden_pixels
from engines.keyring import EngineSigner
from engines.machine import made_with
from engines.manifest import EngineManifest, golden_path, manifest_path, model_path
from engines.matrix import Machine
from engines.proof import Proof
from engines.release import Release, Target, whole_seconds
from engines.signing import public_pem, sign, signer_id
from engines.whole_files import replace_file

_READABLE: Final = 0o644  # whoever publishes, workers are other users


def signed(manifest: EngineManifest, key: EngineSigner) -> EngineManifest:
    """The manifest with this key's id and signature."""
    named = dataclasses.replace(manifest, key_id=signer_id(key), signature="")
    return dataclasses.replace(named, signature=sign(key, named.signed_bytes()))


def released(
    manifest: EngineManifest,
    *,
    version: int,
    machine: Machine,
    target: Target | None = None,
    valid_days: int | None = None,
    proof: Proof | None = None,
    now: datetime | None = None,
) -> EngineManifest:
    """The manifest as a release, to be signed: it begins now and ends after `valid_days`, or never. Raises ValueError
    for what it cannot mean."""
    issued = whole_seconds(now or datetime.now(UTC))
    release = Release(
        version=version,
        issued_at=issued,
        expires_at=issued + timedelta(days=valid_days) if valid_days is not None else None,
        target=target or Target(),
        made_with=made_with(machine),
        proof=proof,
    )
    return dataclasses.replace(manifest, release=release)


def publish(engine: ExportedEngine, directory: Path, key: EngineSigner) -> EngineManifest:
    """Sign an engine and write its three files, each whole or not at all, the manifest last: a reader that comes
    between finds the engine that was there, or files whose digests do not agree, which it refuses."""
    manifest = signed(engine.manifest, key)
    directory.mkdir(parents=True, exist_ok=True)
    replace_file(model_path(directory, manifest.name), engine.model, _READABLE)
    replace_file(golden_path(directory, manifest.name), engine.golden, _READABLE)
    replace_file(manifest_path(directory, manifest.name), manifest.to_json(), _READABLE)
    return manifest


def write_public_key(directory: Path, name: str, key: Ed25519PrivateKey) -> Path:
    """The public half beside the engines, as NAME.pub."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.pub"
    path.write_bytes(public_pem(key))
    return path


def seeded_engine(family: str, seed: int, *, name: str | None = None, image_size: int = 448) -> ExportedEngine:
    """An untrained encoder with random weights, calibrated on the golden images; equal for equal arguments."""
    architecture = architecture_of(family, image_size)
    seen = observed(architecture, seeded_weights(architecture, seed), golden_pixels(image_size))
    return export_int8(seen, name=name or family, method="min-max")


def seeded_model(
    directory: Path,
    family: str,
    seed: int,
    key: Ed25519PrivateKey | None = None,
    *,
    name: str | None = None,
    image_size: int = 448,
) -> EngineManifest:
    """Publish an untrained encoder into `directory` with its public key beside it (`seeded.pub`). Without a key a
    fresh one is made and forgotten."""
    own = key or Ed25519PrivateKey.generate()
    if key is None and (directory / "seeded.pub").exists():
        raise ValueError(f"{directory} holds a seeded engine signed by a key that was not kept: pass one key for all")
    write_public_key(directory, "seeded", own)
    return publish(seeded_engine(family, seed, name=name, image_size=image_size), directory, own)
