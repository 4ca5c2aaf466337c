"""The built wheel: our five packages and nothing else, names that no other distribution owns, all data files."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from architecture.sources import ROOT

OURS = {"worker", "schemas", "engines", "migrations", "devstack"}
DISTRIBUTION = "assay-worker"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built with the locked build tools, without a network."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return zipfile.ZipFile(next(out.glob("*.whl")))


def top_level(wheel: zipfile.ZipFile) -> set[str]:
    return {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" not in name}


def test_the_wheel_holds_our_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    assert top_level(wheel) == OURS


def test_no_other_distribution_owns_our_names(wheel: zipfile.ZipFile) -> None:
    owners = packages_distributions()
    others = {name: set(owners.get(name, ())) - {DISTRIBUTION} for name in top_level(wheel)}
    assert not any(others.values()), others


def test_every_file_of_a_package_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    listing = subprocess.run(["git", "ls-files", *sorted(OURS)], cwd=ROOT, capture_output=True, text=True, check=True)
    tracked = {name for name in listing.stdout.splitlines() if (ROOT / name).is_file()}
    assert tracked - set(wheel.namelist()) == set()


def test_the_wheel_cannot_be_uploaded_and_brings_the_command(wheel: zipfile.ZipFile) -> None:
    info = next(Path(name).parent for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    assert "Classifier: Private :: Do Not Upload" in wheel.read(f"{info}/METADATA").decode()
    assert "assay = worker.cli.main:main" in wheel.read(f"{info}/entry_points.txt").decode()
