from __future__ import annotations

from pathlib import Path

import pytest

from engines.errors import EngineRefused
from engines.gpu.plans import PlanFolder


def test_a_plan_is_kept_whole_and_a_damaged_one_is_none(tmp_path: Path) -> None:
    plans = PlanFolder(tmp_path / "plans")
    assert plans.read("key") is None
    plans.write("key", b"plan")
    assert plans.read("key") == b"plan"
    (file,) = (tmp_path / "plans").iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    assert plans.read("key") is None


def test_a_folder_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans").chmod(0o777)
    with pytest.raises(EngineRefused, match="chmod 700"):
        PlanFolder(tmp_path / "plans")
