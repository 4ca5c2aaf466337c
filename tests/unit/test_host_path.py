"""How the benchmark of the host's path reads a profile, and that its photographs tell their kind."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gpu.photographs import jpeg_of
from benchmarks.held import RATE, Sampler, samples_of
from benchmarks.host_path.answers import KINDS, kind_of, told_kind
from benchmarks.worker_run import RunFailed
from engines.container import examined

RAW = """\
thread (0x7F01): embed;run (threading.py:9);EmbedStage.run (worker/embedding.py:90);sort (numpy/core.py:4) 30
thread (12): fetch-3;run (threading.py:9);FetchStage.run (worker/fetching.py:7) 10
thread (13): fetch-11;run (threading.py:9);FetchStage.run (worker/fetching.py:9) 5
thread (14): ;poll (library.py:1) 5
"""


def test_a_profile_is_summed_by_thread_and_by_the_innermost_function_of_ours() -> None:
    found = samples_of(RAW, seconds=1)
    assert found.share == pytest.approx(50 / RATE)
    assert found.by_thread() == {"embed": 30 / RATE, "fetch": 15 / RATE, "a library's": 5 / RATE}
    assert list(found.by_function()) == [
        "EmbedStage.run (worker/embedding.py)",
        "FetchStage.run (worker/fetching.py)",
        "none of ours",
    ]


def test_a_missing_sampler_is_named_with_its_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(RunFailed, match="pip install py-spy"):
        Sampler(1, tmp_path / "samples", 1)


@pytest.mark.parametrize("kind", [0, 127, 128, KINDS - 1])
def test_a_photograph_keeps_its_kind_through_the_walk(kind: int) -> None:
    blob = told_kind(jpeg_of(np.zeros((64, 64, 3), np.uint8), 1.0), kind)
    found = examined(blob)
    assert found is not None and found.whole and found.baseline
    assert kind_of(found.picture(blob)) == kind
