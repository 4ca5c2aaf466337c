"""Hostile photographs at the size that real ones have: bombs, slow decoders, and mutants of good photographs."""

from __future__ import annotations

import io
import itertools
import random
from collections.abc import Sequence

from PIL import Image

from tests.fuzz.bombs import bombs
from tests.fuzz.mutants import mutants

LARGEST_BYTES = 4 << 20  # a job holds one, inline
SLOW = (
    "png of 40 megapixels",
    "png of 25 megapixels with transparency",
    "progressive jpeg of 40 megapixels and 15 passes",
    "progressive jpeg of 1 megapixel and 60 passes",
    "webp of 24 megapixels",
)
MUTANTS = 300
SOURCES = 8


def hostile_photographs(good: Sequence[bytes], seed: int) -> list[tuple[str, bytes]]:
    """Name and bytes: a bomb, a slow one and a mutant in turn; equal for equal arguments."""
    kept = {name: blob for name, blob in bombs() if len(blob) <= LARGEST_BYTES}
    slow = [(name, kept[name]) for name in SLOW]
    mutated = list(mutants(_forms(good[:SOURCES]), MUTANTS, seed))
    turns = zip(itertools.cycle(kept.items()), itertools.cycle(slow), mutated, strict=False)
    mixed = [entry for turn in turns for entry in turn]
    random.Random(seed).shuffle(mixed)
    return mixed


def _forms(good: Sequence[bytes]) -> dict[str, bytes]:
    """Photographs in each form that is accepted, so that their mutants come to every decoder."""
    forms: dict[str, bytes] = {}
    for number, blob in enumerate(good):
        forms[f"baseline {number}"] = blob
        photo = Image.open(io.BytesIO(blob)).convert("RGB").resize((512, 512))
        for kind, options in (("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {})):
            out = io.BytesIO()
            photo.save(out, kind, **options)
            forms[f"{kind} {number}"] = out.getvalue()
    return forms
