"""`assay doctor` without services: what it says of a machine, of engines and of what does not answer; and no secret."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from engines.machine import Processor
from engines.matrix import Card, Machine
from engines.plan_files import PlanHeader
from engines.publish import released, seeded_engine, seeded_model
from engines.release import Target
from engines.signing import TrustedKey
from worker.cli import doctor_services
from worker.cli.doctor_engines import of_engine, of_keys
from worker.cli.doctor_machine import of_backend, of_gpu, of_memory, of_processor
from worker.cli.doctor_plans import of_plan
from worker.cli.findings import fail, without_secrets
from worker.cli.main import app
from worker.settings import load_settings

CANARY = "c4n4ry-secret"
NOW = datetime(2026, 11, 28, tzinfo=UTC)
GPU = Machine(
    versions={"tensorrt": "10.6.0", "pycuda": "2026.1", "driver": "580.65.06", "cuda": "13.0"},
    opset=21,
    cards=(Card(name="NVIDIA H200", capability="9.0", memory_bytes=139 << 30),),
)


def states(findings: Any) -> list[str]:
    return [finding.state for finding in findings]


def test_a_gpu_is_needed_by_tensorrt_alone() -> None:
    bare = replace(GPU, cards=())
    assert states(of_gpu(bare, "openvino")) == ["ok"]
    assert states(of_gpu(bare, "tensorrt")) == ["fail", "ok"]
    card, driver = of_gpu(GPU, "tensorrt")
    assert card.found == "NVIDIA H200, compute capability 9.0, 139 GiB"
    assert driver.found == "driver 580.65.06, CUDA up to 13.0"


def test_a_backend_that_is_not_installed_fails_with_its_fix() -> None:
    assert states(of_backend(GPU, "tensorrt")) == ["ok"]
    (missing,) = of_backend(GPU, "onnxruntime")
    assert (missing.state, missing.fix) == ("fail", "install onnxruntime>=1.23")


@pytest.mark.parametrize(
    ("sets", "backend", "state"),
    [
        (("avx2", "avx512_vnni"), "openvino", "ok"),
        (("avx2",), "openvino", "warn"),
        ((), "onnxruntime", "warn"),
        ((), "tensorrt", "ok"),
    ],
)
def test_a_processor_without_fast_int8_is_told(sets: tuple[str, ...], backend: Any, state: str) -> None:
    assert of_processor(Processor(model="A Processor", cores=2, sets=sets), backend).state == state


def test_little_memory_is_told() -> None:
    assert [of_memory(size).state for size in (8 << 30, 1 << 30, None)] == ["ok", "warn", "warn"]


class TestKeys:
    def finding(self, **changes: Any) -> str:
        return of_keys({"k": TrustedKey(verifier=Ed25519PrivateKey.generate().public_key(), **changes)}, NOW).state

    def test_one_must_be_able_to_sign_what_comes_next(self) -> None:
        assert self.finding() == "ok"
        assert self.finding(expires_at=NOW + timedelta(days=31)) == "ok"
        assert self.finding(expires_at=NOW + timedelta(days=29)) == "warn"
        assert self.finding(expires_at=NOW) == "warn"
        assert self.finding(state="retiring") == "warn"
        assert of_keys({}, NOW).state == "warn"


def test_an_engine_that_ends_soon_or_is_for_another_machine() -> None:
    made = seeded_engine("resnet18", 1, image_size=64).manifest
    settings = load_settings()

    def finding(**release: Any) -> str:
        given = {"version": 1, "machine": GPU, "now": NOW} | release
        return of_engine(settings, released(made, **given), NOW).state

    assert of_engine(settings, made, NOW).state == "ok"
    assert finding(valid_days=365) == "ok"
    assert finding(valid_days=29) == "warn"
    assert finding(target=Target(backend="tensorrt")) == "fail"


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], tuple[int, str, dict[str, Any]]]:
    """Run it against services that nobody started, with secrets."""
    seeded_model(tmp_path / "models", "resnet18", 1, image_size=64)
    monkeypatch.setattr(doctor_services, "ANSWER_S", 0.5)
    settings = {
        "ASSAY_ENGINES__MODELS_DIR": str(tmp_path / "models"),
        "ASSAY_ENGINES__ENCODERS": "{}",
        "ASSAY_ENGINES__BACKEND": "openvino",
        "ASSAY_KAFKA__BOOTSTRAP": "127.0.0.1:1",
        "ASSAY_DATABASE__URL": f"postgresql+psycopg://assay_worker:{CANARY}@127.0.0.1:1/assay",
        "ASSAY_REDIS__URL": f"redis://:{CANARY}@127.0.0.1:1/0",
        "ASSAY_REDIS__MAC_KEY": f"{CANARY}-of-the-mac",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)

    def run() -> tuple[int, str, dict[str, Any]]:
        table = CliRunner().invoke(app, ["doctor"])
        result = CliRunner().invoke(app, ["doctor", "--json"])
        told = json.loads(result.stdout)
        assert told["can_run"] is (result.exit_code == 0)
        said = table.output + result.output
        return result.exit_code, said, {f"{one['area']}/{one['what']}": one for one in told["findings"]}

    return run


def test_what_does_not_answer_fails_with_the_fix_and_without_a_secret(
    doctor: Callable[[], tuple[int, str, dict[str, Any]]],
) -> None:
    code, said, found = doctor()
    assert code == 1
    assert {name: one["state"] for name, one in found.items() if one["state"] != "ok"}.items() >= {
        ("kafka/brokers", "fail"),
        ("postgres/server", "fail"),
        ("redis/server", "warn"),
    }
    assert found["engines/resnet18"]["state"] == "ok"
    assert "verified: int8, opset 17" in found["engines/resnet18"]["found"]
    assert all(one["fix"] for one in found.values() if one["state"] != "ok")
    assert "127.0.0.1:1/assay" in found["postgres/server"]["found"]
    assert found["kafka/brokers"]["found"].endswith("Broker transport failure")
    assert CANARY not in said


def test_a_tampered_engine_fails(doctor: Callable[[], tuple[int, str, dict[str, Any]]], tmp_path: Path) -> None:
    model = tmp_path / "models" / "resnet18.onnx"
    model.write_bytes(model.read_bytes()[:-1])
    _, _, found = doctor()
    finding = found[f"engines/{tmp_path / 'models'}"]
    assert finding["state"] == "fail"
    assert finding["found"].startswith("digest_mismatch")
    assert finding["fix"].startswith("fetch the engine again")


def test_wrong_settings_are_told_as_the_one_thing_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_KAFKA__PARTITIONS", "many")
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 1
    (finding,) = json.loads(result.stdout)["findings"]
    assert "ASSAY_KAFKA__PARTITIONS" in finding["found"]


def test_a_secret_in_a_librarys_words_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_DATABASE__URL", f"postgresql+psycopg://h/d?password={CANARY}")
    told = without_secrets([fail("a", "b", f"cannot log in with {CANARY}", f"change {CANARY}")], load_settings())
    (finding,) = told
    assert (finding.found, finding.fix) == ("cannot log in with ***", "change ***")


def test_plans_that_lie_ready_and_those_of_other_machines_are_told(tmp_path: Path) -> None:
    here = PlanHeader(backend="tensorrt", name="x", onnx_sha256="a" * 64, profiles=(1,), version="10.6", machine="9.0")
    there = replace(here, machine="8.6")
    assert of_plan(here, [there, here]).state == "ok"
    found = of_plan(here, [there, replace(here, onnx_sha256="b" * 64)])
    assert (found.state, found.fix) == ("warn", "assay engine build RECIPE")
    assert "none for tensorrt 10.6 on 9.0, only for tensorrt 10.6 on 8.6" in found.found
    assert of_plan(replace(here, backend="openvino"), []).state == "ok"
