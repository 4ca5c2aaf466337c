"""Tampered engines (F19): every one is refused, and before any of its bytes reach a loader, which a spy counts."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from engines import catalogue
from engines.catalogue import load_session
from engines.errors import EngineRefused
from engines.manifest import EngineManifest, golden_path, manifest_path, model_path
from engines.publish import seeded_model, signed
from engines.signing import TrustedKeys, load_trusted_keys
from tests.fuzz import tampered_releases
from tests.fuzz.findings import Findings

NAME = "resnet18"
SIDE = 64
FILES = (model_path, golden_path, manifest_path)
Tampering = Callable[[Path, Path, random.Random], None]


@dataclass(slots=True)
class Spy:
    """Stands where a backend deserialises an engine's bytes."""

    calls: list[int] = field(default_factory=list)

    def __call__(self, model: bytes, *_: object, **__: object) -> object:
        self.calls.append(len(model))
        raise RuntimeError("an engine reached its loader")


def run(count: int, seed: int) -> list[Findings]:
    """Half of them lie in a folder of models, half in a registry."""
    return [in_a_folder(count // 2, seed), in_a_registry(count - count // 2, seed)]


def in_a_registry(count: int, seed: int) -> Findings:
    found = Findings(part=f"released engines that must not be served, seed {seed}")
    made, chance = tampered_releases.made(), random.Random(seed)
    with spying() as spy:
        _attempt(Findings(part=""), tampered_releases.good(made), "untouched")
        found.expect(len(spy.calls) == 1, "the good engine did not reach its loader: the spy is blind")
        spy.calls.clear()
        for number in range(count):
            tampering = tampered_releases.TAMPERINGS[number % len(tampered_releases.TAMPERINGS)]
            _attempt(found, tampering(made, chance), f"{number} {tampering.__name__}")
        found.expect(not spy.calls, f"{len(spy.calls)} engines reached a loader")
        found.facts["calls of a loader"] = str(len(spy.calls))
    return found


def _attempt(found: Findings, attempt: tampered_releases.Attempt, what: str) -> None:
    try:
        attempt.load()
    except EngineRefused as refusal:
        found.ended(refusal.code)
        found.expect(refusal.code in attempt.codes, f"{what}: {refusal}, expected {attempt.codes}")
    except Exception as error:
        found.ended(f"raised {type(error).__name__}")
        found.faults.append(f"{what}: {type(error).__name__}: {error}")
    else:
        found.ended("accepted")
        found.faults.append(f"{what}: accepted")


def in_a_folder(count: int, seed: int) -> Findings:
    found = Findings(part=f"tampered engines, seed {seed}")
    with tempfile.TemporaryDirectory() as folder, spying() as spy:
        good, other = _published(Path(folder))
        keys = load_trusted_keys([good / "seeded.pub"])
        _try(found, good, keys)
        found.expect(len(spy.calls) == 1, "the good engine did not reach its loader: the spy is blind")
        found.codes.clear()
        found.faults = [fault for fault in found.faults if "untouched" not in fault]
        spy.calls.clear()
        chance = random.Random(seed)
        for number in range(count):
            tampering = TAMPERINGS[number % len(TAMPERINGS)]
            target = Path(folder) / f"tampered-{number}"
            shutil.copytree(good, target)
            tampering(target, other, chance)
            _try(found, target, keys, f"{number} {tampering.__name__}")
            shutil.rmtree(target)
        found.expect(not spy.calls, f"{len(spy.calls)} tampered engines reached a loader")
        found.facts["calls of a loader"] = str(len(spy.calls))
    return found


def _published(folder: Path) -> tuple[Path, Path]:
    """An engine whose key is trusted, and another one whose key is not."""
    for name, seed in (("good", 1), ("other", 2)):
        seeded_model(folder / name, NAME, seed, image_size=SIDE)
    return folder / "good", folder / "other"


@contextmanager
def spying() -> Iterator[Spy]:
    spy = Spy()
    loaders = [name for name in ("OpenVinoRunner", "OnnxRuntimeRunner") if hasattr(catalogue, name)]
    assert loaders, "the catalogue names its loaders otherwise: point the spy at them"
    on_gpu = mock.patch.object(catalogue.Gpu, "runner", spy)
    with mock.patch.multiple(catalogue, **dict.fromkeys(loaders, spy)), on_gpu:
        yield spy


def _try(found: Findings, models: Path, keys: TrustedKeys, what: str = "untouched") -> None:
    try:
        load_session(models, [NAME], "auto", keys).close()
    except EngineRefused as refusal:
        found.ended(refusal.code)
        found.expect("reached its loader" not in str(refusal), f"{what}: {refusal}")
    except Exception as error:
        found.ended(f"raised {type(error).__name__}")
        found.faults.append(f"{what}: {type(error).__name__}: {error}")
    else:
        found.ended("accepted")
        found.faults.append(f"{what}: accepted")


def bit_flipped(target: Path, other: Path, chance: random.Random) -> None:
    path = chance.choice(FILES)(target, NAME)
    raw = bytearray(path.read_bytes())
    raw[chance.randrange(len(raw) - 1)] ^= 1 << chance.randrange(8)  # the manifest's last byte is a line's end
    path.write_bytes(raw)


def cut(target: Path, other: Path, chance: random.Random) -> None:
    path = chance.choice(FILES)(target, NAME)
    raw = path.read_bytes()
    path.write_bytes(raw[: chance.randrange(len(raw) - 1)])


def bytes_added(target: Path, other: Path, chance: random.Random) -> None:
    path = chance.choice((model_path, golden_path))(target, NAME)
    path.write_bytes(path.read_bytes() + chance.randbytes(chance.randrange(1, 100)))


def another_engines_file(target: Path, other: Path, chance: random.Random) -> None:
    """One or two of the three files are those of an engine that somebody else signed."""
    for path in chance.sample(FILES, chance.randrange(1, 3)):
        shutil.copy(path(other, NAME), path(target, NAME))


def another_engine(target: Path, other: Path, chance: random.Random) -> None:
    for path in FILES:
        shutil.copy(path(other, NAME), path(target, NAME))


def signed_by_a_stranger(target: Path, other: Path, chance: random.Random) -> None:
    """Altered and signed anew, by a key that says it is its own, or that it is the trusted one."""
    manifest = _manifest(target)
    stranger = Ed25519PrivateKey.generate()
    forged = signed(manifest, stranger)
    _write(target, {"key_id": chance.choice((forged.key_id, manifest.key_id)), "signature": forged.signature})


def field_altered(target: Path, other: Path, chance: random.Random) -> None:
    altered: dict[str, object] = {
        "onnx_sha256": "0" * 64,
        "golden_sha256": "0" * 64,
        "embedding_space": "f" * 64,
        "precision": "fp32",
        "opset": 1,
        "patch_dim": 7,
        "profiles": [],
        "calibration": None,
        "name": "vit_tiny16",
        "report": {"accuracy": 1.0},
    }
    name = chance.choice(sorted(altered))
    _write(target, {name: altered[name]})


def signature_spoiled(target: Path, other: Path, chance: random.Random) -> None:
    spoiled = ("", "A" * 88, "not base64", _manifest(other).signature, _manifest(target).signature[::-1], None, 7)
    _write(target, {"signature": chance.choice(spoiled)})


def manifest_replaced(target: Path, other: Path, chance: random.Random) -> None:
    rubbish = (b"", b"{}", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"schema": 1}', chance.randbytes(500))
    manifest_path(target, NAME).write_bytes(chance.choice(rubbish))


def file_removed(target: Path, other: Path, chance: random.Random) -> None:
    chance.choice(FILES)(target, NAME).unlink()


def field_removed_or_added(target: Path, other: Path, chance: random.Random) -> None:
    path = manifest_path(target, NAME)
    plain = json.loads(path.read_bytes())
    if chance.random() < 0.5:
        plain.pop(chance.choice(sorted(plain)))
    else:
        plain["plugins"] = ["/lib/evil.so"]
    path.write_bytes(json.dumps(plain).encode())


TAMPERINGS: tuple[Tampering, ...] = (
    bit_flipped,
    cut,
    bytes_added,
    another_engines_file,
    another_engine,
    signed_by_a_stranger,
    field_altered,
    signature_spoiled,
    manifest_replaced,
    file_removed,
    field_removed_or_added,
)


def _manifest(folder: Path) -> EngineManifest:
    return EngineManifest.from_json(manifest_path(folder, NAME).read_bytes(), NAME)


def _write(folder: Path, fields: dict[str, object]) -> None:
    path = manifest_path(folder, NAME)
    path.write_bytes(json.dumps({**json.loads(path.read_bytes()), **fields}).encode())
