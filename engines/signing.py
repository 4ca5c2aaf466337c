"""Ed25519 keys and signatures over a manifest's canonical bytes. A key id is the start of the public key's SHA-256."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from engines.errors import EngineRefused, RefusalCode

TrustedKeys = Mapping[str, Ed25519PublicKey]


def key_id(public: Ed25519PublicKey) -> str:
    """The first 16 hex digits of the SHA-256 of the raw public key."""
    return hashlib.sha256(public.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()[:16]


def public_pem(private: Ed25519PrivateKey) -> bytes:
    """The public half as PEM, for shipping beside the engines."""
    return private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def load_trusted_keys(paths: Iterable[Path]) -> TrustedKeys:
    """Public keys by id from PEM files; raises EngineRefused (key_unknown) for a file that holds none."""
    keys = (_load_public(path) for path in paths)
    return {key_id(key): key for key in keys}


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


def sign(private: Ed25519PrivateKey, payload: bytes) -> str:
    """The signature as base64."""
    return base64.b64encode(private.sign(payload)).decode("ascii")


def verify(trusted: TrustedKeys, key: str, signature: str, payload: bytes) -> None:
    """Raises EngineRefused when the key is not trusted or the signature is not the key's over these bytes."""
    public = trusted.get(key)
    if public is None:
        known = ", ".join(sorted(trusted)) or "none"
        fix = "trust the key that signed this engine, or use an engine signed by a trusted key"
        raise EngineRefused(RefusalCode.KEY_UNKNOWN, f"signed by key {key!r}, trusted are: {known}", fix)
    try:
        public.verify(base64.b64decode(signature, validate=True), payload)
    except (InvalidSignature, ValueError) as error:
        raise EngineRefused(
            RefusalCode.SIGNATURE_INVALID,
            f"the signature is not key {key}'s over this manifest",
            "fetch the engine again from where it was published; it was altered after signing",
        ) from error
