"""A deployment with untrained engines: real services, the real commands, verdicts that are honestly inconclusive."""

from __future__ import annotations

import io
import signal
import subprocess
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from time import monotonic

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from PIL import Image

from demo.stand import TENANT, Stand, WorkerProcess, new_stand, query
from devstack import Addresses
from engines.publish import seeded_model
from schemas.codec import encode_job
from schemas.job import AuthenticationJob, JobView
from schemas.message import InputRecord, OutputRecord
from worker.adapters.kafka_follower import KafkaFollower
from worker.adapters.kafka_sender import KafkaSender

ANSWER_DEADLINE_S = 180.0  # of a machine that is busy with other things


@pytest.fixture(scope="session")
def untrained_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    key = Ed25519PrivateKey.generate()
    for family in ("resnet18", "vit_tiny16"):
        seeded_model(folder, family, 1, key)
    return folder


@pytest.fixture
def deployment(stack: Addresses, untrained_models: Path, tmp_path: Path) -> Iterator[Deployment]:
    settings = {"ASSAY_ENGINES__MODELS_DIR": str(untrained_models), "ASSAY_KAFKA__PARTITIONS": "4"}
    stand = new_stand(stack, tmp_path / "stand", settings)
    stand.assay("topics", "apply")
    made = Deployment(stand=stand, bootstrap=stack.kafka_bootstrap)
    yield made
    for worker in made.workers:
        if worker.process.poll() is None:
            worker.kill()


def photograph(seed: int) -> bytes:
    """A small, noisy, baseline JPEG of its own."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (15, 15, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((480, 480), Image.Resampling.BICUBIC)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=80)
    return out.getvalue()


class Deployment:
    """What a test does with a stand: start workers, send jobs, and read every answer as an outsider would."""

    def __init__(self, *, stand: Stand, bootstrap: str) -> None:
        self.stand = stand
        self.workers: list[WorkerProcess] = []
        self._kafka = {"bootstrap.servers": bootstrap}

    def worker(self, instance: str, *, ready: bool = True, **settings: str) -> WorkerProcess:
        started = self.stand.worker(instance, **settings)
        self.workers.append(started)
        if ready:
            started.wait_ready()
        return started

    def planted(self, entry: str, **environment: str) -> subprocess.Popen[bytes]:
        """A worker process of its own making: `entry` is Python that changes something and then runs `assay worker`."""
        given = {**self.stand.environment, **environment}
        started = WorkerProcess.start(given, self.stand.folder / "workers.log", ("-c", entry))
        self.workers.append(started)
        return started.process

    def topic(self, name: str) -> str:
        return f"{self.stand.topic_prefix}{name}"

    def send(self, jobs: Sequence[AuthenticationJob]) -> None:
        records = [encode_job(job, encoding="avro", source="test") for job in jobs]
        self.send_raw(
            [OutputRecord(topic=self.topic("jobs"), key=r.key, value=r.value, headers=r.headers) for r in records]
        )

    def send_raw(self, records: Sequence[OutputRecord]) -> None:
        KafkaSender(self._kafka).send(records)

    def read(
        self, topic: str, count: int, *, more_s: float = 2.0, within_s: float = ANSWER_DEADLINE_S
    ) -> list[InputRecord]:
        """Read committed records from the beginning until `count` came, and then `more_s` longer for any too many."""
        found: list[InputRecord] = []
        until = monotonic() + within_s
        with KafkaFollower(self._kafka, [self.topic(topic)], from_beginning=True) as follower:
            while monotonic() < until:
                record = follower.poll(0.2)
                if record is not None:
                    found.append(record)
                    if len(found) == count:
                        until = monotonic() + more_s
        return found

    def rows(self, statement: str) -> list[tuple[object, ...]]:
        return query(self.stand.owner_url, statement)

    def number(self, statement: str) -> int:
        return int(str(self.rows(statement)[0][0]))


def jobs(count: int, *, views: Sequence[str] = ("logo",), sku: str = "bag-1") -> list[AuthenticationJob]:
    """Jobs of their own, whose photographs occur nowhere else."""
    return [job(seed * len(views), views, sku) for seed in range(1, count + 1)]


def job(seed: int, views: Sequence[str], sku: str) -> AuthenticationJob:
    images = [photograph(seed + n) for n in range(len(views))]
    return AuthenticationJob(
        job_id=f"job-{uuid.uuid4().hex}",
        tenant=TENANT,
        sku=sku,
        category="bag",
        submitted_at=datetime.now(UTC),
        views=tuple(
            JobView(view=view, sha256=sha256(data).hexdigest(), data=data)
            for view, data in zip(views, images, strict=True)
        ),
        payload_digest="",
    )


def ends_in_order(process: subprocess.Popen[bytes]) -> bool:
    process.send_signal(signal.SIGTERM)
    return process.wait(60) == 0


def assert_each_once(records: Sequence[InputRecord], sent: Sequence[AuthenticationJob]) -> None:
    counted = Counter(record.key for record in records)
    assert {key: n for key, n in counted.items() if n != 1} == {}
    assert set(counted) == {job.key for job in sent}
