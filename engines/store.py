"""Where published engines lie: one folder an engine, named by its id, which is the SHA-256 of its manifest's file. The
manifest holds the digests of the other two, so the id names every byte, and nothing under an id ever changes."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

from engines.catalogue import EngineFiles, VerifiedEngine, verified_engine, verified_manifest
from engines.errors import EngineRefused, RefusalCode
from engines.lifecycle import Variant
from engines.manifest import sha256_hex
from engines.signing import TrustedKeys

MANIFEST, MODEL, GOLDEN = "manifest.json", "model.onnx", "golden.npz"
_INCOMING: Final = ".incoming-"
_ABANDONED_S: Final = 3600.0
ENGINE_ID = re.compile(r"[0-9a-f]{64}")


class EngineStore(Protocol):
    """`put` is given files whose engine is signed, `get` an id; raise EngineRefused for what is not there, and whatever
    the store's service raises where that is away."""

    def put(self, files: EngineFiles) -> str: ...
    def get(self, engine_id: str) -> EngineFiles: ...


def engine_id(files: EngineFiles) -> str:
    """The id that these files are published under."""
    return sha256_hex(files.manifest)


def checked_id(value: str) -> str:
    """Raises ValueError for what is no id: it becomes a path."""
    if not ENGINE_ID.fullmatch(value):
        raise ValueError(f"no engine's id: {value!r}")
    return value


def opened(
    files: EngineFiles, published: Variant, trusted_keys: TrustedKeys, *, now: datetime | None = None
) -> VerifiedEngine:
    """The engine of files that lay under a published one's id. Raises EngineRefused: not_the_published where they are
    another's, rolled_back where they are an older version of it that was signed just as well."""
    if (found := engine_id(files)) == published.id:
        return verified_engine(files, published.name, trusted_keys, now=now)
    manifest = verified_manifest(files.manifest, published.name, trusted_keys, now=now)
    fix = "find out who changed the registry's files, and publish the engine again"
    version = manifest.release.version if manifest.release is not None else 0
    if version < published.version:
        message = f"under {published.name} version {published.version} lie the files of version {version or 'none'}"
        raise EngineRefused(RefusalCode.ROLLED_BACK, message, fix)
    message = f"what lies under engine {published.id[:12]} is another engine's manifest, {found[:12]}"
    raise EngineRefused(RefusalCode.NOT_THE_PUBLISHED, message, fix)


class FolderStore:
    """Under `root`/id. An engine appears whole or not at all: it is written beside its place, synced and renamed, and
    so survives the loss of power once `put` has returned."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, files: EngineFiles) -> str:
        """Keep an engine; one that is there stays as it is. Raises OSError, EngineRefused (not_the_published)."""
        name = engine_id(files)
        self._root.mkdir(parents=True, exist_ok=True)
        self._sweep()
        place = self._root / name
        if not place.exists():
            self._write(place, files)
        if self.get(name) != files:
            fix = f"remove the folder {place} and publish again; somebody changed what lies there"
            raise EngineRefused(RefusalCode.NOT_THE_PUBLISHED, f"{place} holds other files", fix)
        return name

    def get(self, engine_id: str) -> EngineFiles:
        """Each file read once. Raises EngineRefused (model_missing)."""
        place = self._root / checked_id(engine_id)
        try:
            manifest, model, golden = ((place / part).read_bytes() for part in (MANIFEST, MODEL, GOLDEN))
        except OSError as error:
            fix = "publish the engine again, or restore the registry's folder from a copy"
            message = f"{error.filename} cannot be read ({error.strerror})"
            raise EngineRefused(RefusalCode.MODEL_MISSING, message, fix) from error
        return EngineFiles(manifest=manifest, model=model, golden=golden)

    def _write(self, place: Path, files: EngineFiles) -> None:
        building = Path(tempfile.mkdtemp(prefix=_INCOMING, dir=self._root))
        try:
            for part, data in ((MODEL, files.model), (GOLDEN, files.golden), (MANIFEST, files.manifest)):
                _write_synced(building / part, data)
            building.chmod(0o755)
            _sync(building)
            try:
                building.rename(place)
            except OSError:
                if not place.exists():  # else another publisher was faster, with the same bytes
                    raise
            _sync(self._root)
        finally:
            shutil.rmtree(building, ignore_errors=True)

    def _sweep(self) -> None:
        """Remove what publishers left that died; none takes as long as this."""
        oldest_s = time.time() - _ABANDONED_S
        for left in self._root.glob(f"{_INCOMING}*"):
            with suppress(FileNotFoundError):
                if left.stat().st_mtime < oldest_s:
                    shutil.rmtree(left, ignore_errors=True)


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
