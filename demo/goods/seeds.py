"""Randomness that depends on nothing but its names: the same parts give the same stream in every process."""

from __future__ import annotations

import hashlib

import numpy as np


def generator(*parts: str | int) -> np.random.Generator:
    """A generator seeded by a BLAKE2b hash of `parts`; never by `hash()`, which differs between processes."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))


def sign(*parts: str | int) -> float:
    """-1.0 or 1.0, fixed by `parts`."""
    return 1.0 if generator(*parts).random() < 0.5 else -1.0
