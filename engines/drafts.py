"""Engines in the making: a folder with the graph, its golden outputs, an unsigned manifest and the record of how it was
made. A folder is written whole or not at all; signing and publishing are apart."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from engines.catalogue import VerifiedEngine
from engines.errors import EngineRefused
from engines.manifest import EngineManifest, golden_path, manifest_path, model_path, sha256_hex
from engines.packing import read_model

Record = Mapping[str, object]

_SUFFIX: Final = ".manifest.json"


class MakingRefused(Exception):
    """What no engine can be made of, or measured with. The message names what was found; `fix` says what to do."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(f"{message}. Fix: {fix}")
        self.fix = fix


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """An engine that nobody has signed yet, and the record of how it was made (JSON values)."""

    manifest: EngineManifest
    model: bytes
    golden: bytes
    record: Record = dataclasses.field(default_factory=dict)

    def unsigned(self) -> VerifiedEngine:
        """For runners that measure it on the machine that made it: its digests hold, a signature there is none."""
        return VerifiedEngine(manifest=self.manifest, model=self.model, golden=self.golden)


def record_path(directory: Path, name: str) -> Path:
    return directory / f"{name}.record.json"


def write_draft(draft: Draft, folder: Path) -> None:
    """Write a new folder. Raises MakingRefused where it exists or cannot be made; nothing is left behind then."""
    name = draft.manifest.name
    with new_folder(folder) as part:
        model_path(part, name).write_bytes(draft.model)
        golden_path(part, name).write_bytes(draft.golden)
        record_path(part, name).write_text(as_json(draft.record), encoding="utf-8")
        manifest_path(part, name).write_bytes(draft.manifest.to_json())


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill that takes its name when the block ends well, and is gone otherwise. Raises MakingRefused."""
    check_new(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise MakingRefused(
            f"{folder} cannot be made ({error.strerror})", "name a folder that you may write"
        ) from error
    try:
        yield part
        part.chmod(0o777 & ~_umask())
        part.rename(folder)
    except OSError as error:
        fix = "name a folder that does not exist yet, on a disk with room"
        raise MakingRefused(f"{folder} cannot be written ({error.strerror})", fix) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def check_new(folder: Path) -> None:
    """Long work must not end at a folder that was there before it began. Raises MakingRefused."""
    if folder.exists():
        raise MakingRefused(f"{folder} exists already", "name a new folder, or move the old one away")


def read_draft(path: Path) -> Draft:
    """A draft or a published engine, by its folder (of one engine) or its manifest's file. Digests are checked, a
    signature is not. Raises MakingRefused."""
    found = [path] if path.name.endswith(_SUFFIX) else sorted(path.glob(f"*{_SUFFIX}"))
    if len(found) != 1:
        names = ", ".join(p.name for p in found) or "no manifest"
        raise MakingRefused(f"{path} holds {names}", "name a folder of one engine, or the file NAME.manifest.json")
    folder, name = found[0].parent, found[0].name.removesuffix(_SUFFIX)
    try:
        manifest = EngineManifest.from_json(found[0].read_bytes(), found[0].name)
        model, golden = read_model(folder, name), golden_path(folder, name).read_bytes()
        record = json.loads(record_path(folder, name).read_bytes()) if record_path(folder, name).exists() else {}
    except (OSError, EngineRefused, ValueError) as error:
        raise MakingRefused(f"{found[0]} is no engine: {error}", "make the draft again") from error
    for what, raw, wanted in (("graph", model, manifest.onnx_sha256), ("golden", golden, manifest.golden_sha256)):
        if sha256_hex(raw) != wanted:
            raise MakingRefused(f"{found[0]}: the {what} file is not the one described", "make the draft again")
    return Draft(manifest=manifest, model=model, golden=golden, record=record)


def as_json(value: object) -> str:
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
