"""Released engines that must not be served (F19): tampered, truncated, swapped, expired, revoked, rolled back, signed
by an unknown key, or for another machine. Each is opened as a worker opens what the registry holds."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from engines.catalogue import BackendChoice, EngineFiles, open_session
from engines.errors import RefusalCode
from engines.keyring import EngineSigner
from engines.lifecycle import State, Variant
from engines.manifest import EngineManifest
from engines.matrix import Card, Machine
from engines.publish import released, seeded_engine, signed
from engines.release import Target
from engines.signing import HmacKey, TrustedKey, TrustedKeys, key_id, sign
from engines.store import engine_id, opened

NAME = "resnet18"
SIDE = 64
VERSION = 7
ISSUED = datetime(2026, 11, 1, 12, tzinfo=UTC)
NOW = ISSUED + timedelta(days=10)
H200 = Card(name="NVIDIA H200", capability="9.0", memory_bytes=139 << 30)
MACHINE = Machine(
    versions={"onnx": "1.23.0", "openvino": "2026.1.0", "onnxruntime": "1.23.0", "tensorrt": "10.6.0", "cuda": "13.0"},
    opset=21,
    cards=(H200,),
)
CPU = replace(MACHINE, cards=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A good engine, another one, and the keys: what tamperings are made of."""

    manifest: EngineManifest
    model: bytes
    golden: bytes
    other: EngineFiles  # signed by the same key, under the same name and version
    key: Ed25519PrivateKey
    hmac: HmacKey

    @property
    def keys(self) -> TrustedKeys:
        public = self.key.public_key()
        keys = {key_id(public): TrustedKey(verifier=public), key_id(self.hmac): TrustedKey(verifier=self.hmac)}
        return keys

    def files(self, signer: EngineSigner | None = None, **release: Any) -> EngineFiles:
        """The good engine as a release with these changes."""
        made = released(self.manifest, **{"version": VERSION, "machine": CPU, "now": ISSUED} | release)
        raw = signed(made, signer or self.key).to_json()
        return EngineFiles(manifest=raw, model=self.model, golden=self.golden)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What lies in the registry under an engine's id, and the machine that wants to load it."""

    files: EngineFiles
    published: EngineFiles  # what was published under that id
    keys: TrustedKeys
    codes: tuple[RefusalCode, ...]
    now: datetime = NOW
    machine: Machine = CPU
    backend: BackendChoice = "openvino"

    def load(self) -> None:
        """As a worker does. Raises EngineRefused."""
        variant = Variant(id=engine_id(self.published), name=NAME, version=VERSION, slot="any", state=State.CURRENT)
        engine = opened(self.files, variant, self.keys, now=self.now)
        open_session([engine], self.backend, machine=self.machine).close()


Tampering = Callable[[Made, random.Random], Attempt]


def made() -> Made:
    key = Ed25519PrivateKey.generate()
    good, other = (seeded_engine(NAME, seed, image_size=SIDE) for seed in (1, 2))
    manifest = signed(released(other.manifest, version=VERSION, machine=CPU, now=ISSUED), key)
    return Made(
        manifest=good.manifest,
        model=good.model,
        golden=good.golden,
        other=EngineFiles(manifest=manifest.to_json(), model=other.model, golden=other.golden),
        key=key,
        hmac=HmacKey(bytes(range(32))),
    )


def good(made: Made) -> Attempt:
    files = made.files(valid_days=30)
    return Attempt(files=files, published=files, keys=made.keys, codes=())


def bits_flipped(made: Made, chance: random.Random) -> Attempt:
    return _damaged(made, chance, lambda raw: _flipped(raw, chance))


def truncated(made: Made, chance: random.Random) -> Attempt:
    return _damaged(made, chance, lambda raw: raw[: chance.randrange(len(raw) - 1)])


def lengthened(made: Made, chance: random.Random) -> Attempt:
    return _damaged(made, chance, lambda raw: raw + b"x" + chance.randbytes(chance.randrange(1, 99)))


def swapped(made: Made, chance: random.Random) -> Attempt:
    """Signed by a trusted key, and still not what was published; or some of its files alone."""
    files = made.files()
    if chance.random() < 0.5:
        return Attempt(files=made.other, published=files, keys=made.keys, codes=(RefusalCode.NOT_THE_PUBLISHED,))
    part = chance.choice(("model", "golden"))
    changed = replace(files, **{part: getattr(made.other, part)})
    return Attempt(files=changed, published=files, keys=made.keys, codes=(RefusalCode.DIGEST_MISMATCH,))


def rolled_back(made: Made, chance: random.Random) -> Attempt:
    """An old version of the very engine, whose signature holds."""
    old = made.files(version=chance.randrange(1, VERSION))
    return Attempt(files=old, published=made.files(), keys=made.keys, codes=(RefusalCode.ROLLED_BACK,))


def without_version(made: Made, chance: random.Random) -> Attempt:
    """A manifest from before releases, whose signature holds."""
    old = EngineFiles(manifest=signed(made.manifest, made.key).to_json(), model=made.model, golden=made.golden)
    return Attempt(files=old, published=made.files(), keys=made.keys, codes=(RefusalCode.ROLLED_BACK,))


def expired(made: Made, chance: random.Random) -> Attempt:
    days = chance.randrange(1, 10)
    return _kept(made.files(valid_days=days), made.keys, RefusalCode.EXPIRED)


def key_revoked(made: Made, chance: random.Random) -> Attempt:
    return _kept(made.files(), _changed(made, state="revoked"), RefusalCode.KEY_REVOKED)


def key_expired(made: Made, chance: random.Random) -> Attempt:
    until = NOW - timedelta(seconds=chance.randrange(100_000))
    return _kept(made.files(), _changed(made, expires_at=until), RefusalCode.KEY_EXPIRED)


def key_unknown(made: Made, chance: random.Random) -> Attempt:
    stranger = chance.choice((Ed25519PrivateKey.generate(), HmacKey(chance.randbytes(32))))
    return _kept(made.files(stranger), made.keys, RefusalCode.KEY_UNKNOWN)


def strangers_signature(made: Made, chance: random.Random) -> Attempt:
    """A stranger says that the trusted key signed it."""
    forged = {"signature": sign(Ed25519PrivateKey.generate(), chance.randbytes(64))}
    return _kept(_rewritten(made.files(), forged), made.keys, RefusalCode.SIGNATURE_INVALID)


def public_key_as_secret(made: Made, chance: random.Random) -> Attempt:
    """What everybody knows, the public key, taken for the secret of an HMAC: the key decides what is checked, not the
    manifest."""
    public = made.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    manifest = EngineManifest.from_json(made.files().manifest, NAME)
    forged = {"signature": sign(HmacKey(public), manifest.signed_bytes())}
    return _kept(_rewritten(made.files(), forged), made.keys, RefusalCode.SIGNATURE_INVALID)


def hmac_altered(made: Made, chance: random.Random) -> Attempt:
    altered = _rewritten(made.files(made.hmac), {"patch_dim": chance.randrange(1, 9)})
    return _kept(altered, made.keys, RefusalCode.SIGNATURE_INVALID)


def release_altered(made: Made, chance: random.Random) -> Attempt:
    """More than was signed: a later end, a higher version, any machine."""
    files = made.files(valid_days=5, target=Target(backend="tensorrt", capability="8.6"))
    release = json.loads(files.manifest)["release"]
    changed: Mapping[str, object] = chance.choice((
        {"version": VERSION + 1},
        {"expires_at": None},
        {"expires_at": "2099-01-01T00:00:00Z"},
        {"target": {"backend": "any", "capability": "", "requires": {}}},
        {"issued_at": "2026-11-02T12:00:00Z"},
    ))  # fmt: skip
    altered = _rewritten(files, {"release": release | changed})
    return _kept(altered, made.keys, RefusalCode.SIGNATURE_INVALID)


def release_malformed(made: Made, chance: random.Random) -> Attempt:
    release = json.loads(made.files().manifest)["release"]
    changed: object = chance.choice((
        release | {"version": chance.choice((0, -1, 1.5, "7", True, None, 2**31))},
        release | {"issued_at": chance.choice(("yesterday", 7, None, "2026-11-01 12:00:00"))},
        release | {"target": chance.choice((None, [], {}, {"backend": "cuda", "capability": "", "requires": {}}))},
        release | {"target": {"backend": "any", "capability": "9.0", "requires": {}}},
        release | {"target": {"backend": "any", "capability": "", "requires": {"tensorrt": "newest"}}},
        release | {"plugins": ["/lib/evil.so"]},
        None,
        [],
    ))  # fmt: skip
    return _kept(_rewritten(made.files(), {"release": changed}), made.keys, RefusalCode.MANIFEST_INVALID)


def release_removed(made: Made, chance: random.Random) -> Attempt:
    plain = json.loads(made.files().manifest)
    del plain["release"]
    raw = json.dumps({**plain, "schema": 1}).encode()
    files = replace(made.files(), manifest=raw)
    return _kept(files, made.keys, RefusalCode.SIGNATURE_INVALID)


def wrong_gpu(made: Made, chance: random.Random) -> Attempt:
    capability = chance.choice(("7.5", "8.0", "8.6", "8.9", "10.0"))
    files = made.files(target=Target(backend="tensorrt", capability=capability))
    machine = chance.choice((MACHINE, CPU))
    return replace(_kept(files, made.keys, RefusalCode.WRONG_GPU), machine=machine, backend="tensorrt")


def wrong_version(made: Made, chance: random.Random) -> Attempt:
    name, wanted = chance.choice(
        (
            ("tensorrt", "==10.13.*"),
            ("tensorrt", ">=11"),
            ("cuda", "<12"),
            ("driver", ">=550"),
            ("openvino", "==2025.4"),
        )
    )
    files = made.files(target=Target(backend="tensorrt", requires=((name, wanted),)))
    return replace(_kept(files, made.keys, RefusalCode.WRONG_VERSION), machine=MACHINE, backend="tensorrt")


def wrong_opset(made: Made, chance: random.Random) -> Attempt:
    manifest = replace(made.manifest, opset=chance.choice((1, 9, 12, 22, 99)))
    return _kept(replace(made, manifest=manifest).files(), made.keys, RefusalCode.WRONG_VERSION)


def wrong_backend(made: Made, chance: random.Random) -> Attempt:
    files = made.files(target=Target(backend=chance.choice(("tensorrt", "onnxruntime"))))
    return _kept(files, made.keys, RefusalCode.WRONG_BACKEND)


TAMPERINGS: tuple[Tampering, ...] = (
    bits_flipped,
    truncated,
    lengthened,
    swapped,
    rolled_back,
    without_version,
    expired,
    key_revoked,
    key_expired,
    key_unknown,
    strangers_signature,
    public_key_as_secret,
    hmac_altered,
    release_altered,
    release_malformed,
    release_removed,
    wrong_gpu,
    wrong_version,
    wrong_opset,
    wrong_backend,
)


def _kept(files: EngineFiles, keys: TrustedKeys, code: RefusalCode) -> Attempt:
    """It was published like this: the index vouches for it, and nothing else does."""
    return Attempt(files=files, published=files, keys=keys, codes=(code,))


def _damaged(made: Made, chance: random.Random, change: Callable[[bytes], bytes]) -> Attempt:
    """One file is not what was published. A changed manifest may still parse, or be the same but for its spelling."""
    files = made.files()
    part = chance.choice(("manifest", "model", "golden"))
    changed = replace(files, **{part: change(getattr(files, part))})
    spoiled = {RefusalCode.MANIFEST_INVALID, RefusalCode.KEY_UNKNOWN, RefusalCode.SIGNATURE_INVALID}
    spelt = {RefusalCode.NOT_THE_PUBLISHED}
    codes = spoiled | spelt if part == "manifest" else {RefusalCode.DIGEST_MISMATCH}
    return Attempt(files=changed, published=files, keys=made.keys, codes=tuple(codes))


def _flipped(raw: bytes, chance: random.Random) -> bytes:
    changed = bytearray(raw)
    changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _rewritten(files: EngineFiles, fields: Mapping[str, object]) -> EngineFiles:
    return replace(files, manifest=json.dumps({**json.loads(files.manifest), **fields}).encode())


def _changed(made: Made, **changes: Any) -> TrustedKeys:
    return {name: replace(key, **changes) for name, key in made.keys.items()}
