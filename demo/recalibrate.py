"""Fits the demo's score calibration anew: `make demo-recalibrate`.

Rendered specimens of SKUs that are in no training set and not in the demo's catalogue are enrolled and labelled, and go
through `assay calibrate` as a user's own would. Forgeries are of the families that training has seen, so that what is
said of the others stays honest. The result is committed beside the encoders it belongs to. Each backend has its own:
`python -m demo.recalibrate --backend tensorrt` fits a GPU's.
"""

from __future__ import annotations

import argparse
import json
import lzma
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from demo.backend import calibration_of
from demo.goods import Sku, heldout_skus
from demo.photographs import CALIBRATION_SPECIMENS, Specimen, cache_folder, labelled, photograph, references
from demo.stand import TENANT, new_stand
from demo.unseen import SEEN_FAMILIES
from devstack import Devstack

SKUS = 72  # of the held-out range, 24 a category; `make evaluate` must use others
GENUINE, FORGED = 7, 14  # specimens a SKU
CALIBRATION = calibration_of("openvino")
BACKENDS = ("openvino", "tensorrt")
PROFILES = Path(__file__).with_name("profiles.toml")


def calibration_skus() -> tuple[Sku, ...]:
    return heldout_skus(SKUS)


def calibration_set() -> list[Specimen]:
    first = CALIBRATION_SPECIMENS.start
    return labelled(calibration_skus(), first_specimen=first, genuine=GENUINE, forged=FORGED, families=SEEN_FAMILIES)


def rendered(title: str, specimens: Sequence[Specimen], console: Console) -> Path:
    """The manifest of a rendered set, with a progress bar for what is not in the cache yet."""
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(f"rendering {title}", total=None)
        manifest = photograph(
            specimens,
            cache_folder() / title,
            progress=lambda done, of: progress.update(task, completed=done, total=of),
        )
    return manifest


def _packed(fitted: Path) -> bytes:
    """The same JSON, packed for the repository: the same bytes for the same content."""
    return lzma.compress(json.dumps(json.loads(fitted.read_text()), separators=(",", ":")).encode(), preset=9)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo.recalibrate", description=__doc__)
    parser.add_argument("--backend", choices=BACKENDS, default=BACKENDS[0])
    backend = parser.parse_args().backend
    calibration, console = calibration_of(backend), Console()
    enrolled = rendered("calibration-references", references(calibration_skus()), console)
    items = rendered("calibration-items", calibration_set(), console)
    with tempfile.TemporaryDirectory() as folder, Devstack(Path(folder) / "stack").session() as addresses:
        stand = new_stand(addresses, Path(folder) / "stand", {"ASSAY_ENGINES__BACKEND": backend})
        by = ("--tenant", TENANT, "--by", "demo")
        console.print("enrolling the references")
        stand.assay("enroll", str(enrolled), *by, "--profiles", str(PROFILES), env=stand.curator)
        console.print("encoding the labelled items and fitting")
        fitted = Path(folder) / "calibration.json"
        fitting = ("calibrate", str(items), "--tenant", TENANT, "--out", str(fitted))
        console.print(stand.assay(*fitting, env=stand.curator, timeout_s=3600))
        calibration.write_bytes(_packed(fitted))
    console.print(f"wrote {calibration}")


if __name__ == "__main__":
    main()
