"""`assay calibrate` through an untrained engine and PostgreSQL: fitted, told, written and active for the workers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from engines.publish import seeded_model
from worker.adapters.database import connect
from worker.adapters.gallery import PostgresGallery
from worker.cli.main import app
from worker.core.policy_json import from_json, to_json
from worker.errors import AssayError

Assay = Callable[..., Result]
GENUINE_ITEMS = COUNTERFEIT_ITEMS = 25
BUDGETS = ("--alpha-accept", "0.2", "--alpha-reject", "0.1")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    seeded_model(folder, "resnet18", 1)
    return folder


@pytest.fixture
def assay(database_url: str, models: Path, monkeypatch: pytest.MonkeyPatch) -> Assay:
    monkeypatch.setenv("ASSAY_DATABASE__URL", database_url)
    monkeypatch.setenv("ASSAY_ENGINES__MODELS_DIR", str(models))
    monkeypatch.setenv("ASSAY_ENGINES__ENCODERS", "{}")
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def goods(tmp_path: Path) -> Path:
    """References, and labelled specimens whose counterfeits have another pattern in one corner."""
    specimens = [("references", n, "genuine") for n in range(3)]
    specimens += [("labelled", 100 + n, "genuine") for n in range(GENUINE_ITEMS)]
    specimens += [("labelled", 200 + n, "counterfeit") for n in range(COUNTERFEIT_ITEMS)]
    for group, number, label in specimens:
        folder = tmp_path / group / "BAG-1" / str(number)
        folder.mkdir(parents=True)
        pattern(number, forged=label == "counterfeit").save(folder / "logo.jpg")
        facts = {"category": "bag", "label": label, "meta": {"family": "corner"} if label == "counterfeit" else {}}
        (folder / "item.json").write_text(json.dumps(facts))
    (tmp_path / "profiles.toml").write_text("[[bag.views]]\nview = 'logo'\n")
    return tmp_path


def pattern(number: int, *, forged: bool) -> Image.Image:
    cells = np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8).astype(np.int16)
    own = np.random.default_rng(number)
    if forged:
        cells[:10, :10] = own.integers(0, 256, (10, 10, 3))
    worn = (cells + own.integers(-12, 13, cells.shape)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(worn).resize((480, 480), Image.Resampling.BICUBIC)


def enrolled(assay: Assay, goods: Path) -> None:
    profiles = ("--profiles", goods / "profiles.toml")
    done = assay("enroll", goods / "references", "--tenant", "acme", "--by", "ada", *profiles)
    assert done.exit_code == 0, done.output


def test_a_calibration_is_fitted_written_and_active(assay: Assay, goods: Path, database_url: str) -> None:
    enrolled(assay, goods)
    out = goods / "calibration.json"
    publish = ("--publish", "--by", "ada", "--out", out, "--json")
    done = assay("calibrate", goods / "labelled", "--tenant", "acme", *BUDGETS, *publish)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    (bag,) = told["categories"]
    assert (bag["genuine"]["items"], bag["counterfeit"]["items"]) == (15, 15)
    assert bag["supported"] and list(bag["families"]) == ["corner"]
    written = from_json(json.loads(out.read_text()))
    assert written.calibration_id == told["calibration_id"]
    database = connect(database_url)
    policy = PostgresGallery(database).snapshot("acme").policy
    database.dispose()
    assert [to_json(one) for one in policy.calibrations] == [to_json(written)]
    assert (policy.profiles["bag"].alpha_accept, policy.profiles["bag"].alpha_reject) == (0.2, 0.1)


def test_a_table_says_what_a_budget_needs(assay: Assay, goods: Path) -> None:
    enrolled(assay, goods)
    page = goods / "calibration.html"
    done = assay("calibrate", goods / "labelled", "--tenant", "acme", "--page", page)
    assert done.exit_code == 0, done.output
    assert "refused: too few items" in done.stdout
    assert "Refused: too few items" in page.read_text() and "corner" in page.read_text()
    assert "99" in done.stdout and "counterfeit: corner" in done.stdout


def test_what_cannot_be_fitted_is_one_line(assay: Assay, goods: Path) -> None:
    """The references themselves, and items before anything is enrolled."""
    unknown = assay("calibrate", goods / "labelled", "--tenant", "acme")
    assert isinstance(unknown.exception, AssayError)
    assert "no profile for category bag" in str(unknown.exception)
    enrolled(assay, goods)
    same = assay("calibrate", goods / "references", "--tenant", "acme")
    assert isinstance(same.exception, AssayError)
    assert "both classes are needed" in str(same.exception)
    alone = assay("calibrate", goods / "labelled", "--tenant", "acme", "--candidate", "resnet18")
    assert "no candidate resnet18 beside what serves: set engines.registry" in str(alone.exception)
    nobody = assay("calibrate", goods / "labelled", "--tenant", "acme", "--publish")
    assert "--by NAME" in str(nobody.exception)
