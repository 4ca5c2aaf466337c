"""`assay engine drill` on a folder of models with a small engine: all as expected, and what it says where it is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import engine_goods as goods
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner, Result

from engines import store
from engines.catalogue import EngineFiles, VerifiedEngine, verified_manifest
from engines.export import ExportedEngine
from engines.publish import publish, write_public_key
from worker.cli import engine_drill
from worker.cli.engine_drill import tried
from worker.cli.engine_drill_cases import Case, Scratch, Seen, altered_graph, cases, wrong_version
from worker.cli.main import app
from worker.errors import AssayError


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder, key = tmp_path / "models", Ed25519PrivateKey.generate()
    exact, _ = goods.twins(tmp_path / "drafts")
    publish(ExportedEngine(manifest=exact.manifest, model=exact.model, golden=exact.golden), folder, key)
    write_public_key(folder, "own", key)
    settings = {"MODELS_DIR": str(folder), "DEFAULT_ENCODER": "small", "ENCODERS": "{}"}
    for name, value in settings.items():
        monkeypatch.setenv(f"ASSAY_ENGINES__{name}", value)
    return folder


def drill(*more: str) -> Result:
    return CliRunner().invoke(app, ["engine", "drill", "--json", *more])


def lines_of(result: Result) -> dict[str, dict[str, Any]]:
    return {line["case"]: line for line in json.loads(result.stdout)["cases"]}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.timeout(180)
def test_every_bad_engine_is_refused_or_survived_and_nothing_served_changes(models: Path) -> None:
    before = contents(models)
    result = drill("--deadline-s", "1")
    assert result.exit_code == 0, (result.output, result.exception)
    lines = lines_of(result)
    assert len(lines) == len(cases("openvino")) + 1
    assert all(line["as_expected"] for line in lines.values())
    assert lines["what is served"]["seen"] == "untouched"
    assert lines["slow engine"]["ms"] > 1000
    assert contents(models) == before


def only(monkeypatch: pytest.MonkeyPatch, *chosen: Case) -> None:
    monkeypatch.setattr(engine_drill, "cases", lambda _backend: chosen)


def test_what_is_taken_that_should_not_be_is_told_and_exits_1(monkeypatch: pytest.MonkeyPatch) -> None:
    altered = Case(name="altered graph", expected="digest_mismatch", run=altered_graph)
    older = Case(name="wrong version", expected="wrong_gpu", run=wrong_version)
    only(monkeypatch, altered, older)

    def credulous(files: EngineFiles, name: str, keys: Any, **more: Any) -> VerifiedEngine:
        manifest = verified_manifest(files.manifest, name, keys, **more)
        return VerifiedEngine(manifest=manifest, model=files.model, golden=files.golden)

    monkeypatch.setattr(store, "verified_engine", credulous)
    result = drill()
    assert result.exit_code == 1
    lines = lines_of(result)
    assert (lines["altered graph"]["seen"], lines["altered graph"]["as_expected"]) == ("taken", False)
    assert (lines["wrong version"]["code"], lines["wrong version"]["as_expected"]) == ("wrong_version", False)


def test_served_engines_that_change_meanwhile_are_told(monkeypatch: pytest.MonkeyPatch, models: Path) -> None:
    def meddles(_scratch: Scratch) -> Seen:
        key = Ed25519PrivateKey.generate()
        exact = goods.twins(models.parent / "others")[1]
        publish(ExportedEngine(manifest=exact.manifest, model=exact.model, golden=exact.golden), models, key)
        write_public_key(models, "another", key)
        return Seen(how="done")

    only(monkeypatch, Case(name="meddles", expected="done", run=meddles))
    result = drill()
    assert result.exit_code == 1
    assert lines_of(result)["what is served"]["seen"] == "changed meanwhile"


def test_a_case_that_raises_is_not_as_expected() -> None:
    def raises(_scratch: Scratch) -> Seen:
        raise RuntimeError("boom")

    line = tried(Case(name="x", expected="wrong_gpu", run=raises), None)  # type: ignore[arg-type]
    assert (line.seen, line.as_expected) == ("raised RuntimeError: boom", False)


def test_only_what_is_served_can_be_drilled() -> None:
    result = drill("--name", "other")
    assert isinstance(result.exception, AssayError)
    assert "no engine other is served; there is small" in str(result.exception)
