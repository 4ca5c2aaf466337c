"""The folder of keys that engines must be signed with, and making and loading keys.

*.pub    Ed25519 public keys, PEM
*.hmac   HMAC keys, 64 hex digits: secrets, so readable by their owner alone
keys.toml  what has changed for a key since, by its id; keys that it does not name are active:

    [keys.558dedf290a20c0e]
    state = "retiring"                  # active, retiring or revoked
    expires_at = 2027-06-30T00:00:00Z   # optional
    why = "the curator left"            # optional

At most two keys are active: the present one, and the next one while engines are signed anew.
"""

from __future__ import annotations

import os
import re
import secrets
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast, get_args

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from engines.errors import EngineRefused, RefusalCode
from engines.signing import (
    HmacKey,
    KeyState,
    TrustedKey,
    TrustedKeys,
    key_id,
    load_trusted_keys,
    public_pem,
    signer_id,
)

KEYS_FILE: Final = "keys.toml"
MOST_ACTIVE: Final = 2
_SECRET_BYTES: Final = 32
_HEX = re.compile(rb"[0-9a-f]{64}\n?")
_OTHERS: Final = 0o077
EngineSigner = Ed25519PrivateKey | HmacKey


def read_keys(folder: Path) -> TrustedKeys:
    """The folder's keys, in the state that its keys.toml gives them. Raises EngineRefused."""
    keys = dict(load_trusted_keys(sorted(folder.glob("*.pub"))))
    for path in sorted(folder.glob("*.hmac")):
        secret = _hmac_key(path)
        keys[key_id(secret)] = TrustedKey(verifier=secret)
    path = folder / KEYS_FILE
    if not path.exists():
        return keys
    changed = _changes(path)
    if unknown := changed.keys() - keys.keys():
        raise _invalid(f"{path} names the keys {sorted(unknown)}, which lie not beside it", "correct the id")
    keys |= {name: _changed(path, name, keys[name], fields) for name, fields in changed.items()}
    return _at_most_two(path, keys)


def load_signer(path: Path) -> EngineSigner:
    """The key that signs: a PEM file with an Ed25519 private key, or an HMAC key. Raises EngineRefused."""
    if path.suffix == ".hmac":
        return _hmac_key(path)
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        fix = "make a pair with `assay engine keygen`"
        raise _invalid(f"{path} holds no private key ({type(error).__name__})", fix) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _invalid(f"{path} holds a {type(key).__name__}", "sign engines with Ed25519")
    return key


def make_pair(private: Path, public: Path) -> str:
    """Write a new Ed25519 pair, and return its id. Raises EngineRefused: nothing is overwritten."""
    key = Ed25519PrivateKey.generate()
    _write_new(private, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
    _write_new(public, public_pem(key), 0o644)
    return signer_id(key)


def make_hmac(path: Path) -> str:
    """Write a new HMAC key (NAME.hmac), and return its id. Raises EngineRefused: nothing is overwritten."""
    if path.suffix != ".hmac":
        raise _invalid(f"{path} would not be found as an HMAC key", "name it *.hmac")
    key = HmacKey(secrets.token_bytes(_SECRET_BYTES))
    _write_new(path, key.secret.hex().encode() + b"\n", 0o600)
    return key_id(key)


def refuse_retiring(keys: TrustedKeys, signed_with: str) -> None:
    """Nothing new is signed with a key that is on its way out. Raises EngineRefused (key_retiring)."""
    found = keys.get(signed_with)
    if found is not None and found.state == "retiring":
        active = ", ".join(sorted(name for name, key in keys.items() if key.state == "active")) or "none"
        message = f"key {signed_with} is retiring"
        raise EngineRefused(RefusalCode.KEY_RETIRING, message, f"sign with an active key; they are: {active}")


def _hmac_key(path: Path) -> HmacKey:
    try:
        with path.open("rb") as file:
            mode, raw = os.fstat(file.fileno()).st_mode, file.read()
    except OSError as error:
        raise _invalid(f"{path} cannot be read ({error.strerror})", "let the worker's user read it") from error
    if mode & _OTHERS:
        raise _invalid(f"{path} can be read by others (mode {mode & 0o777:o}), who could sign with it", "chmod 600 it")
    if not _HEX.fullmatch(raw):
        raise _invalid(f"{path} is not 64 hex digits", "make it with `assay engine keygen --hmac`")
    return HmacKey(bytes.fromhex(raw.decode().strip()))


def _changes(path: Path) -> Mapping[str, Any]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _invalid(f"{path} cannot be read ({error})", "correct it; nothing is trusted meanwhile") from error
    keys = table.get("keys", {})
    if table.keys() - {"keys"} or not isinstance(keys, dict) or not all(isinstance(k, dict) for k in keys.values()):
        raise _invalid(f"{path} holds more than tables [keys.ID]", "name each key in a table of its own")
    return keys


def _changed(path: Path, name: str, key: TrustedKey, fields: Mapping[str, Any]) -> TrustedKey:
    state, expires, why = fields.get("state", "active"), fields.get("expires_at"), fields.get("why", "")
    known = not fields.keys() - {"state", "expires_at", "why"} and state in get_args(KeyState)
    aware = expires is None or (isinstance(expires, datetime) and expires.tzinfo is not None)
    if not (known and aware and isinstance(why, str)):
        fix = f"state is one of {', '.join(get_args(KeyState))}; expires_at is written as 2027-06-30T00:00:00Z"
        raise _invalid(f"{path}, key {name}: {dict(fields)}", fix)
    until = None if expires is None else expires.astimezone(UTC)
    return TrustedKey(verifier=key.verifier, state=cast(KeyState, state), expires_at=until, why=why)


def _at_most_two(path: Path, keys: TrustedKeys) -> TrustedKeys:
    active = sorted(name for name, key in keys.items() if key.state == "active")
    if len(active) > MOST_ACTIVE:
        fix = f"let at most {MOST_ACTIVE} be active, the present one and the next one; the others are retiring"
        raise _invalid(f"{path.parent} has {len(active)} active keys: {', '.join(active)}", fix)
    return keys


def _write_new(path: Path, data: bytes, mode: int) -> None:
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
    except OSError as error:
        raise _invalid(f"{path}: {error.strerror}", "name files that do not exist yet") from error


def _invalid(message: str, fix: str) -> EngineRefused:
    return EngineRefused(RefusalCode.KEYS_INVALID, message, fix)
