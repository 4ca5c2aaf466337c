"""Every way in which a released engine must not be served, once; `make fuzz` tries hundreds."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest

from engines import catalogue
from engines.errors import EngineRefused, RefusalCode
from engines.release import Target
from tests.fuzz import tampered_releases
from tests.fuzz.tampered import Spy, spying
from tests.fuzz.tampered_releases import TAMPERINGS, Attempt, Made, Tampering


@pytest.fixture(scope="module")
def made() -> Made:
    return tampered_releases.made()


def load(attempt: tampered_releases.Attempt) -> tuple[EngineRefused, Spy]:
    with spying() as spy, pytest.raises(EngineRefused) as refused:
        attempt.load()
    return refused.value, spy


def test_the_good_one_reaches_its_loader(made: Made) -> None:
    refusal, spy = load(tampered_releases.good(made))
    assert "an engine reached its loader" in str(refusal)
    assert spy.calls == [len(made.model)]


def test_the_gpu_that_was_opened_counts_not_the_one_that_was_listed(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = made.files(target=Target(backend="tensorrt", capability="9.0"))
    closed: list[str] = []
    gpu = SimpleNamespace(
        device=SimpleNamespace(name="NVIDIA A10", capability=(8, 6)), close=lambda: closed.append("closed")
    )
    monkeypatch.setattr(catalogue.Gpu, "opened", lambda *_how: gpu)
    attempt = Attempt(
        files=files, published=files, keys=made.keys, codes=(), machine=tampered_releases.MACHINE, backend="tensorrt"
    )
    refusal, spy = load(attempt)
    assert (refusal.code, spy.calls, closed) == (RefusalCode.WRONG_GPU, [], ["closed"])
    assert "NVIDIA A10 has 8.6" in str(refusal)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("tampering", TAMPERINGS, ids=lambda tampering: tampering.__name__)
def test_it_is_refused_with_a_code_and_a_fix_and_never_deserialised(
    made: Made, tampering: Tampering, seed: int
) -> None:
    attempt = tampering(made, random.Random(seed))
    refusal, spy = load(attempt)
    assert refusal.code in attempt.codes, str(refusal)
    assert refusal.fix
    assert spy.calls == []
