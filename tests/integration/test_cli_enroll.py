"""`assay enroll` through untrained engines and PostgreSQL: what is enrolled, what is not, and states."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from PIL import Image
from sqlalchemy import Engine, text
from typer.testing import CliRunner, Result

from engines.publish import seeded_model
from worker.adapters.database import connect
from worker.cli.main import app
from worker.errors import AssayError

Assay = Callable[..., Result]
WHO = ("--tenant", "acme", "--by", "ada")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    key = Ed25519PrivateKey.generate()
    for family in ("resnet18", "vit_tiny16"):
        seeded_model(folder, family, 1, key)
    return folder


@pytest.fixture
def assay(database_url: str, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Assay:
    monkeypatch.setenv("ASSAY_DATABASE__URL", database_url)
    monkeypatch.setenv("ASSAY_ENGINES__MODELS_DIR", str(models))
    monkeypatch.setenv("ASSAY_EVIDENCE__KEEP", "all")
    monkeypatch.setenv("ASSAY_EVIDENCE__ROOT", str(tmp_path / "evidence"))
    return lambda *arguments: CliRunner().invoke(app, ["enroll", *arguments])


@pytest.fixture
def database(database_url: str) -> Iterator[Engine]:
    database = connect(database_url)
    yield database
    database.dispose()


@pytest.fixture
def goods(tmp_path: Path) -> Path:
    """Two genuine specimens and a counterfeit of one SKU, each with one view."""
    folder = tmp_path / "goods"
    for number, label in enumerate(("genuine", "genuine", "counterfeit")):
        specimen = folder / "BAG-1" / str(number)
        specimen.mkdir(parents=True)
        noise = np.random.default_rng(number).integers(0, 256, (15, 15, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((480, 480), Image.Resampling.BICUBIC).save(specimen / "logo.jpg")
        (specimen / "item.json").write_text(json.dumps({"category": "bag", "label": label}))
    (tmp_path / "profiles.toml").write_text("[[bag.views]]\nview = 'logo'\n")
    return folder


def told(result: Result) -> dict[str, object]:
    found: dict[str, object] = json.loads(result.stdout)
    return found


def states(database: Engine) -> list[tuple[object, ...]]:
    query = "SELECT state, genuine, approved_by FROM assay.reference_images ORDER BY genuine DESC"
    with database.connect() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def test_references_are_enrolled_once_and_kept(assay: Assay, goods: Path, tmp_path: Path, database: Engine) -> None:
    unprofiled = assay(str(goods), *WHO)
    assert isinstance(unprofiled.exception, AssayError)
    assert "--profiles" in str(unprofiled.exception)
    first = assay(str(goods), *WHO, "--profiles", str(tmp_path / "profiles.toml"), "--json")
    assert first.exit_code == 0, first.output
    assert (told(first)["added"], told(first)["activated"], told(first)["skipped"]) == (3, 3, [])
    assert states(database) == [("active", True, "ada"), ("active", True, "ada"), ("active", False, "ada")]
    assert len([path for path in (tmp_path / "evidence").rglob("*") if path.is_file()]) == 3
    again = told(assay(str(goods), *WHO, "--json"))
    assert (again["added"], again["already_enrolled"], again["gallery_revision"]) == (0, 3, None)


def test_bad_photographs_are_listed_and_passed_over(
    assay: Assay, goods: Path, tmp_path: Path, database: Engine
) -> None:
    (goods / "BAG-1" / "0" / "logo.jpg").write_bytes(b"\xff\xd8\xff no photograph")
    shutil.rmtree(goods / "BAG-1" / "2")
    result = assay(str(goods), *WHO, "--profiles", str(tmp_path / "profiles.toml"), "--json")
    assert result.exit_code == 1
    assert told(result)["added"] == 1
    (skipped,) = json.loads(result.stdout)["skipped"]
    assert skipped["item"] == "BAG-1/0"
    assert len(states(database)) == 1


def test_drafts_are_approved_and_states_change(assay: Assay, goods: Path, tmp_path: Path, database: Engine) -> None:
    profiles = ("--profiles", str(tmp_path / "profiles.toml"))
    assert told(assay(str(goods), *WHO, *profiles, "--state", "draft", "--json"))["activated"] == 0
    assert {state for state, *_ in states(database)} == {"draft"}
    assert told(assay(str(goods), *WHO, "--json"))["activated"] == 3
    with database.connect() as connection:
        reference = str(connection.scalar(text("SELECT id FROM assay.reference_images WHERE NOT genuine")))
    given = ("--by", "bob", "--why", "doubtful")
    assert assay("state", reference, "--to", "quarantined", *given).exit_code == 0
    assert states(database)[-1][0] == "quarantined"
    assay(str(goods), *WHO)
    assert states(database)[-1][0] == "quarantined"  # enrolling again overrules nobody
    assert assay("state", reference, "--to", "retired", *given).exit_code == 0
    refused = assay("state", reference, "--to", "active", *given)
    assert "cannot become active" in str(refused.exception)
    assert "no reference" in str(assay("state", "nothing", "--to", "active", *given).exception)
