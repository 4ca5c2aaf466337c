"""Signing engines and laying them where workers load them; and the untrained encoder for tests and first light."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from engines.architectures import architecture_of, seeded_weights
from engines.export import ExportedEngine, export_int8, observed
from engines.golden import golden_pixels
from engines.manifest import EngineManifest, golden_path, manifest_path, model_path
from engines.signing import key_id, public_pem, sign


def signed(manifest: EngineManifest, key: Ed25519PrivateKey) -> EngineManifest:
    """The manifest with this key's id and signature."""
    named = dataclasses.replace(manifest, key_id=key_id(key.public_key()), signature="")
    return dataclasses.replace(named, signature=sign(key, named.signed_bytes()))


def publish(engine: ExportedEngine, directory: Path, key: Ed25519PrivateKey) -> EngineManifest:
    """Sign an engine and write its three files; the manifest last, so that no reader sees half an engine."""
    manifest = signed(engine.manifest, key)
    directory.mkdir(parents=True, exist_ok=True)
    model_path(directory, manifest.name).write_bytes(engine.model)
    golden_path(directory, manifest.name).write_bytes(engine.golden)
    manifest_path(directory, manifest.name).write_bytes(manifest.to_json())
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
