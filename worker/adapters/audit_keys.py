"""The ledger's Ed25519 keys: the private one is the sealer's alone, public ones are for everybody who verifies."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from engines.signing import key_id, public_pem
from worker.core.ledger import Head, SignedHead
from worker.errors import AssayError, ConfigurationError


@dataclass(frozen=True, slots=True)
class SealingKey:
    """Signs heads."""

    private: Ed25519PrivateKey = field(repr=False)

    @property
    def key_id(self) -> str:
        return key_id(self.private.public_key())

    def sign(self, head: Head) -> SignedHead:
        return SignedHead(head=head, key_id=self.key_id, signature=self.private.sign(head.to_sign))


@dataclass(frozen=True, slots=True)
class TrustedKeys:
    """The public keys whose heads are believed, by id."""

    keys: Mapping[str, Ed25519PublicKey]

    def fault(self, signed: SignedHead) -> str | None:
        """What is wrong with the signature; None where it is a trusted key's over this head."""
        public = self.keys.get(signed.key_id)
        if public is None:
            return f"it is signed by key {signed.key_id!r}, and trusted are {', '.join(sorted(self.keys)) or 'none'}"
        try:
            public.verify(signed.signature, signed.head.to_sign)
        except InvalidSignature:
            return f"its signature is not key {signed.key_id}'s over this head"
        return None


def load_sealing_key(path: Path) -> SealingKey:
    """Raises ConfigurationError for a file that holds no Ed25519 private key."""
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise _no_key("audit.key_file", path, f"holds no private key ({type(error).__name__})") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _no_key("audit.key_file", path, f"holds a {type(key).__name__}")
    return SealingKey(key)


def load_public_keys(paths: Iterable[Path]) -> TrustedKeys:
    """Raises ConfigurationError for a file that holds no Ed25519 public key."""
    keys = [_public(path) for path in paths]
    return TrustedKeys({key_id(key): key for key in keys})


def trusting(*keys: SealingKey) -> TrustedKeys:
    """Believe the public halves of these."""
    return TrustedKeys({key.key_id: key.private.public_key() for key in keys})


def make_keys(private_file: Path, public_file: Path) -> SealingKey:
    """Write a new pair; the private file is for its owner's eyes alone. Raises AssayError: nothing is overwritten."""
    key = SealingKey(Ed25519PrivateKey.generate())
    secret = key.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for path, data, mode in ((private_file, secret, 0o600), (public_file, public_pem(key.private), 0o644)):
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(data)
        except OSError as error:
            raise AssayError(f"{path}: {error.strerror}; name files that do not exist yet") from error
    return key


def _public(path: Path) -> Ed25519PublicKey:
    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _no_key("audit.public_keys", path, f"holds no public key ({type(error).__name__})") from error
    if not isinstance(key, Ed25519PublicKey):
        raise _no_key("audit.public_keys", path, f"holds a {type(key).__name__}")
    return key


def _no_key(setting: str, path: Path, fault: str) -> ConfigurationError:
    return ConfigurationError(f"{setting}: {path} {fault}; make a pair with `assay audit keygen`")
