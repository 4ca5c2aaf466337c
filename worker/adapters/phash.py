"""Perceptual hashes in the database: a signed number; and bands by which near ones are found in memory, and by builds
before revision 0013 in the database, which has finer pieces of its own (`assay.phash_pairs`).

Two hashes that differ in at most four bits agree in at least one of five bands (pigeonhole), so a search for any equal
band misses none of them; the exact count of bits then decides.
"""

from __future__ import annotations

MOST_BITS = 4
BANDS = MOST_BITS + 1
BAND_BITS = 13  # five bands of 13 bits hold 64
_MASK = (1 << BAND_BITS) - 1


def signed(phash: int) -> int:
    """The 64-bit hash as PostgreSQL's bigint."""
    return phash - (1 << 64) if phash >= 1 << 63 else phash


def unsigned(stored: int) -> int:
    return stored % (1 << 64)


def bands(phash: int) -> list[int]:
    """The five bands, each with its place above its bits: equal numbers are equal bands."""
    return [place << BAND_BITS | (phash >> place * BAND_BITS) & _MASK for place in range(BANDS)]
