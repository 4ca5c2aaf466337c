"""A deployment whose worker starts within two seconds: one untrained encoder of 64 pixels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from demo.stand import new_stand
from devstack import Addresses
from engines.publish import seeded_model
from tests.acceptance.conftest import Deployment


@contextmanager
def small_deployment(stack: Addresses, folder: Path, *, models: bool = True, **settings: str) -> Iterator[Deployment]:
    """Services' names of its own in `folder`; `settings` are added to its environment. Its workers end with it. Without
    `models` the settings say where its engines come from."""
    if models:
        seeded_model(folder / "models", "resnet18", 1, Ed25519PrivateKey.generate(), image_size=64)
    given = {
        **({"ASSAY_ENGINES__MODELS_DIR": str(folder / "models")} if models else {}),
        "ASSAY_ENGINES__ENCODERS": "{}",
        "ASSAY_KAFKA__PARTITIONS": "2",
        **settings,
    }
    stand = new_stand(stack, folder / "stand", given)
    stand.assay("topics", "apply")
    made = Deployment(stand=stand, bootstrap=stack.kafka_bootstrap)
    try:
        yield made
    finally:
        for worker in made.workers:
            if worker.process.poll() is None:
                worker.kill()
