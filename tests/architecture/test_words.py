"""Words that say nothing name no module; a registry's host or a machine's path stands in no file that is committed."""

from __future__ import annotations

import subprocess

import pytest
from architecture.sources import ROOT

EMPTY_WORDS = {"util", "utils", "helper", "helpers", "common", "base", "manager", "managers", "misc", "stuff"}
LARGEST_TREE_BYTES = 22_000_000  # a checkout travels to a GPU host in one piece


def committed() -> list[str]:
    """Paths that git knows, or would add; files deleted in the work tree are left out."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [name for name in listing.stdout.splitlines() if (ROOT / name).is_file()]


def empty_words(path: str) -> set[str]:
    stem = path.rpartition(".")[0] or path
    return {word for part in stem.split("/") for word in part.lower().split("_")} & EMPTY_WORDS


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert [path for path in committed() if path.endswith(".py") and empty_words(path)] == []


@pytest.mark.parametrize("path", ["worker/utils.py", "worker/core/base.py", "engines/image_helpers.py", "common/x.py"])
def test_such_a_name_would_be_noticed(path: str) -> None:
    assert empty_words(path)


def test_the_locks_name_no_index() -> None:
    for lock in ROOT.glob("requirements*.lock"):
        assert "://" not in lock.read_text(), f"{lock.name}: lock with --no-emit-index-url"


def test_the_tree_stays_small() -> None:
    assert sum((ROOT / path).stat().st_size for path in committed()) < LARGEST_TREE_BYTES
