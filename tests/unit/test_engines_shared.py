"""Runners that sessions share: opened once, closed by the last, and a session's own failures are its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from engines import catalogue
from engines.catalogue import SessionOptions, VerifiedEngine, open_session, read_engine, shipped_keys
from engines.golden import golden_pixels
from engines.publish import seeded_model
from engines.runner import Runner
from engines.shared_runners import SharedRunners

FAMILIES = ("resnet18", "vit_tiny16")


def runner(closed: list[str], name: str) -> Callable[[], Runner]:
    return lambda: cast(Any, SimpleNamespace(close=lambda: closed.append(name)))


def test_a_runner_is_opened_once_and_closed_by_its_last_user() -> None:
    shared, closed = SharedRunners(), list[str]()
    first, leave_first = shared.take(("a", "openvino"), runner(closed, "a"))
    same, leave_second = shared.take(("a", "openvino"), pytest.fail)
    other, leave_other = shared.take(("a", "onnxruntime"), runner(closed, "a on another backend"))
    assert same is first
    assert other is not first
    leave_first()
    assert closed == []
    leave_second()
    leave_other()
    assert closed == ["a", "a on another backend"]
    again, _ = shared.take(("a", "openvino"), runner(closed, "a"))
    assert again is not first


def test_what_cannot_be_opened_is_not_kept() -> None:
    shared = SharedRunners()
    with pytest.raises(ZeroDivisionError):
        shared.take(("a", "openvino"), lambda: cast(Any, 1 / 0))
    shared.take(("a", "openvino"), runner([], "a"))


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> list[VerifiedEngine]:
    """Two of one family, and one of another."""
    found = []
    for number, (family, seed) in enumerate((("resnet18", 1), ("resnet18", 2), ("vit_tiny16", 1))):
        folder: Path = tmp_path_factory.mktemp(str(number))
        seeded_model(folder, family, seed, Ed25519PrivateKey.generate(), image_size=64)
        found.append(read_engine(folder, family, shipped_keys(folder)))
    return found


def test_a_session_loads_only_what_no_other_has_open(
    engines: list[VerifiedEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    real = catalogue.open_runner

    def counted(engine: VerifiedEngine, *given: Any) -> Runner:
        opened.append(engine.manifest.onnx_sha256)
        return real(engine, *given)

    monkeypatch.setattr(catalogue, "open_runner", counted)
    old, new, other = engines
    shared, options = SharedRunners(), SessionOptions(decode_threads=1)
    before = open_session([old, other], "onnxruntime", options, shared=shared)
    after = open_session([new, other], "onnxruntime", options, shared=shared)
    assert opened == [one.manifest.onnx_sha256 for one in (old, other, new)]
    before.close()
    after.self_test({"resnet18": new.golden, "vit_tiny16": other.golden})
    after.close()
    open_session([other], "onnxruntime", options, shared=shared).close()
    assert opened[-1] == other.manifest.onnx_sha256, "the last session closed it"


def test_golden_images_may_be_written_by_whoever_asked_for_them() -> None:
    golden_pixels(32)[:] = 0
    assert golden_pixels(32).any()
