"""Photographs of references, found again by what they are."""

from __future__ import annotations

import hashlib
from pathlib import Path

from worker.reembed import photograph_at, photographs_in


def test_photographs_are_found_by_their_bytes_and_not_taken_once_they_changed(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    place = tmp_path / "below" / "logo.JPG"
    place.write_bytes(b"as enrolled")
    (tmp_path / "notes.txt").write_bytes(b"no photograph")
    digest = hashlib.sha256(b"as enrolled").hexdigest()
    assert photographs_in(tmp_path) == {digest: place}
    assert photograph_at(place, digest) == b"as enrolled"
    place.write_bytes(b"edited since")
    assert photograph_at(place, digest) is None
    place.unlink()
    assert photograph_at(place, digest) is None
