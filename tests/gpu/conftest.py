"""Plans are built once for all of these tests: in $PLANS where it is set, else in a folder that goes away."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_LATE = "default:.* in out-of-thread context could not be cleaned up:UserWarning"  # told, but it fails no other test


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.filterwarnings(_LATE))


@pytest.fixture(scope="session")
def plans_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    kept = os.environ.get("PLANS")
    return Path(kept) if kept else tmp_path_factory.mktemp("plans")
