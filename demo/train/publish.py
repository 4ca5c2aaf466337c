"""Signing of what the training brought back."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from engines.export import ExportedEngine
from engines.manifest import EngineManifest, golden_path, model_path
from engines.packing import packed, packed_path
from engines.publish import publish, write_public_key


def publish_all(source: Path, to: Path, key: Ed25519PrivateKey) -> list[EngineManifest]:
    """Sign every engine of `source` and write it into `to` beside the public key, `demo.pub`."""
    engines = [_read(source, path) for path in sorted(source.glob("*.manifest.json"))]
    if not engines:
        raise FileNotFoundError(f"{source} holds no *.manifest.json: run fit or ship with --out there first")
    write_public_key(to, "demo", key)
    published = [publish(engine, to, key) for engine in engines]
    for manifest in published:
        _pack(to, manifest.name)
    return published


def _pack(folder: Path, name: str) -> None:
    graph = model_path(folder, name)
    packed_path(folder, name).write_bytes(packed(graph.read_bytes()))
    graph.unlink()


def _read(source: Path, path: Path) -> ExportedEngine:
    manifest = EngineManifest.from_json(path.read_bytes(), path.name)
    return ExportedEngine(
        manifest=manifest,
        model=model_path(source, manifest.name).read_bytes(),
        golden=golden_path(source, manifest.name).read_bytes(),
    )
