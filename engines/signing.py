"""Keys and signatures over a manifest's canonical bytes: Ed25519, or HMAC-SHA256 where one site signs and serves.

A key id is the start of the SHA-256 of the key; an HMAC key's has a prefix. What a signature is checked with follows
from the trusted key alone, never from what the manifest says. Who may verify with an HMAC key may also sign with it.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import hmac
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from engines.errors import EngineRefused, RefusalCode

HMAC_PREFIX: Final = "hmac-"
KeyState = Literal["active", "retiring", "revoked"]


class Signer(Protocol):
    """What signs manifests: an Ed25519 private key or an HMAC key."""

    def sign(self, data: bytes, /) -> bytes: ...


class Verifier(Protocol):
    """Raises InvalidSignature."""

    def verify(self, signature: bytes, data: bytes, /) -> None: ...


@dataclasses.dataclass(frozen=True, slots=True)
class HmacKey:
    """Signs and verifies; a secret."""

    secret: bytes = dataclasses.field(repr=False)

    def sign(self, data: bytes) -> bytes:
        return hmac.digest(self.secret, data, "sha256")

    def verify(self, signature: bytes, data: bytes) -> None:
        if not hmac.compare_digest(self.sign(data), signature):
            raise InvalidSignature


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrustedKey:
    """A key that engines may be signed with. Active ones sign and verify; a retiring one verifies what it signed until
    it is taken away or expires; a revoked one verifies nothing."""

    verifier: Verifier
    state: KeyState = "active"
    expires_at: datetime | None = None
    why: str = ""


TrustedKeys = Mapping[str, TrustedKey]


def key_id(key: Ed25519PublicKey | HmacKey) -> str:
    """The first 16 hex digits of the SHA-256 of the raw public key; `hmac-` and those of the secret of an HMAC key."""
    if isinstance(key, HmacKey):
        return HMAC_PREFIX + hashlib.sha256(key.secret).hexdigest()[:16]
    return hashlib.sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()[:16]


def signer_id(signer: Ed25519PrivateKey | HmacKey) -> str:
    """The id of the key that verifies what `signer` signs."""
    return key_id(signer if isinstance(signer, HmacKey) else signer.public_key())


def public_pem(private: Ed25519PrivateKey) -> bytes:
    """The public half as PEM, for shipping beside the engines."""
    return private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def load_trusted_keys(paths: Iterable[Path]) -> TrustedKeys:
    """Public keys by id from PEM files, all active; raises EngineRefused (key_unknown) for a file that holds none."""
    keys = (_load_public(path) for path in paths)
    return {key_id(key): TrustedKey(verifier=key) for key in keys}


def _load_public(path: Path) -> Ed25519PublicKey:
    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError) as error:
        raise EngineRefused(
            RefusalCode.KEY_UNKNOWN, f"{path} holds no public key ({error})", "name a PEM file with an Ed25519 key"
        ) from error
    if not isinstance(key, Ed25519PublicKey):
        fix = "sign engines with Ed25519 and name that public key"
        raise EngineRefused(RefusalCode.KEY_UNKNOWN, f"{path} holds a {type(key).__name__}", fix)
    return key


def sign(signer: Signer, payload: bytes) -> str:
    """The signature as base64."""
    return base64.b64encode(signer.sign(payload)).decode("ascii")


def verify(trusted: TrustedKeys, key: str, signature: str, payload: bytes, now: datetime | None = None) -> None:
    """Raises EngineRefused when the key is not trusted at `now` (by default this moment), or the signature is not the
    key's over these bytes."""
    found = trusted.get(key)
    if found is None:
        known = ", ".join(sorted(trusted)) or "none"
        fix = "trust the key that signed this engine, or use an engine signed by a trusted key"
        raise EngineRefused(RefusalCode.KEY_UNKNOWN, f"signed by key {key!r}, trusted are: {known}", fix)
    _refuse_dead(key, found, now or datetime.now(UTC))
    try:
        found.verifier.verify(base64.b64decode(signature, validate=True), payload)
    except (InvalidSignature, ValueError) as error:
        raise EngineRefused(
            RefusalCode.SIGNATURE_INVALID,
            f"the signature is not key {key}'s over this manifest",
            "fetch the engine again from where it was published; it was altered after signing",
        ) from error


def _refuse_dead(key: str, found: TrustedKey, now: datetime) -> None:
    fix = "sign the engine again with a key that is active, and publish it as a new version"
    if found.state == "revoked":
        told = f" ({found.why})" if found.why else ""
        raise EngineRefused(RefusalCode.KEY_REVOKED, f"signed by key {key}, which was revoked{told}", fix)
    if found.expires_at is not None and now >= found.expires_at:
        message = f"signed by key {key}, which expired at {found.expires_at:%Y-%m-%d %H:%M} UTC"
        raise EngineRefused(RefusalCode.KEY_EXPIRED, message, fix)
