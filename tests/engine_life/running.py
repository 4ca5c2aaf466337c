"""docs/engine-life.sh on a deployment of its own, with workers beside it and jobs all the time."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from time import monotonic

from demo.stand import TENANT, Stand, WorkerProcess, new_stand, query
from devstack import Addresses
from schemas.codec import encode_job
from schemas.job import AuthenticationJob, JobView
from schemas.message import InputRecord, OutputRecord
from tests.engine_life import goods
from tests.engine_life.encoders import FAMILY, demo_twin, random_encoder
from tests.engine_life.repeating import repeated
from worker.adapters.kafka_follower import KafkaFollower
from worker.adapters.kafka_sender import KafkaSender

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "engine-life.sh"
SIDE_PX = 64
ANSWERED_WITHIN_S = 180.0  # of a machine that is busy with other things
SERVED_WITHIN_S = 300.0
# Rates far apart are told apart by few jobs: a test cannot wait for the thousands that the defaults ask for. Those of
# these goods, each engine with a score calibration of its own (1,800 jobs): 1 % change to or from inconclusive with an
# engine of the same weights and 10 % with the other space's, where 2 % are hard; 53 % and 82 % with the two bad ones.
# How long two engines take beside other work on two cores says nothing.
SOON = {
    "ASSAY_JUDGEMENT__FALSE_PROMOTE": "0.001",
    "ASSAY_JUDGEMENT__HARD_H0": "0.1",
    "ASSAY_JUDGEMENT__HARD_H1": "0.4",
    "ASSAY_JUDGEMENT__ABSTENTION_H0": "0.15",
    "ASSAY_JUDGEMENT__ABSTENTION_H1": "0.4",
    "ASSAY_JUDGEMENT__ERROR_H1": "0.4",
    "ASSAY_JUDGEMENT__GOLDEN_H1": "0.4",
    "ASSAY_JUDGEMENT__LATENCY_H1": "0.99",
    "ASSAY_JUDGEMENT__SLOWER": "1000",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """`jobs` new ones every `every_s`, of genuine and forged goods in turn; their photographs are of `side` px."""

    jobs: int = 2
    every_s: float = 0.5
    side: int = SIDE_PX * 3 // 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """A stand without workers, goods in `folder`, and what was sent."""

    stand: Stand
    bootstrap: str
    folder: Path
    load: Load
    sent: list[AuthenticationJob] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=count)

    @contextmanager
    def script(self, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
        """The script in a process of its own, which ends here if it has not yet; what it says lies in `told`."""
        inputs = (FAMILY, self.folder / "goods", self.folder / "work")
        path = {"PYTHONPATH": os.pathsep.join(sys.path), "ASSAY": f"{sys.executable} -m worker.cli.main"}
        given = {**self.stand.curator, **path, "BY": "ada", "TENANT": TENANT, "SHARE": "100%", **environment}
        with self.told.open("wb") as out:
            process = subprocess.Popen(["bash", str(SCRIPT), *map(str, inputs)], env=given, stdout=out, stderr=out)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    @property
    def told(self) -> Path:
        return self.folder / "script.log"

    def wait_served(self, script: subprocess.Popen[bytes]) -> None:
        """Return once an engine is current. Raises RuntimeError where the script ends before."""
        until = monotonic() + SERVED_WITHIN_S
        while not query(self.stand.owner_url, "SELECT FROM assay.engines WHERE state = 'current'"):
            if script.poll() is not None or monotonic() > until:
                raise RuntimeError(f"no engine came to serve:\n{self.tail()}")
            threading.Event().wait(0.2)

    def tail(self) -> str:
        return self.told.read_text(errors="replace")[-4000:]

    @contextmanager
    def workers(self, number: int, **settings: str) -> Iterator[list[WorkerProcess]]:
        """Ready; they are killed at the end if they run still."""
        started = [self.stand.worker(f"w{n}", **settings) for n in range(1, number + 1)]
        try:
            for worker in started:
                worker.wait_ready()
            yield started
        finally:
            for worker in started:
                if worker.process.poll() is None:
                    worker.kill()

    @contextmanager
    def jobs(self) -> Iterator[None]:
        """The load, in `sent`; all of it is with the broker when this ends."""
        sender = KafkaSender({"bootstrap.servers": self.bootstrap})
        topic = f"{self.stand.topic_prefix}jobs"

        def send() -> None:
            made = [job(next(self.numbers), self.load.side) for _ in range(self.load.jobs)]
            encoded = [encode_job(one, encoding="avro", source="life") for one in made]
            sender.send([OutputRecord(topic=topic, key=r.key, value=r.value, headers=r.headers) for r in encoded])
            self.sent.extend(made)

        with repeated(send, self.load.every_s):
            yield

    def golden(self) -> list[str]:
        """Ids of the golden jobs that the script sent."""
        return [str(row[0]) for row in query(self.stand.owner_url, "SELECT job_id FROM assay.engine_golden")]

    def answers(self, expected: int, *, more_s: float = 2.0) -> list[InputRecord]:
        """Results from the first on until `expected` came, and `more_s` longer for any too many."""
        found: list[InputRecord] = []
        until = monotonic() + ANSWERED_WITHIN_S
        topic = f"{self.stand.topic_prefix}results"
        with KafkaFollower({"bootstrap.servers": self.bootstrap}, [topic], from_beginning=True) as follower:
            while monotonic() < until:
                record = follower.poll(0.2)
                if record is not None:
                    found.append(record)
                    if len(found) == expected:
                        until = monotonic() + more_s
        return found

    def rows(self, statement: str) -> list[tuple[object, ...]]:
        return query(self.stand.owner_url, statement)


def job(number: int, side: int) -> AuthenticationJob:
    """Genuine for an even `number`; its photograph occurs nowhere else."""
    sku, forged = number // 2 % goods.SKUS, number % 2 == 1
    data = goods.photograph(sku, goods.JOBS + number, forged=forged, side=side)
    view = JobView(view=goods.VIEW, sha256=hashlib.sha256(data).hexdigest(), data=data)
    return AuthenticationJob(
        job_id=f"{'forged' if forged else 'genuine'}-{uuid.uuid4().hex}",
        tenant=TENANT,
        sku=goods.sku_of(sku),
        category=goods.CATEGORY,
        submitted_at=datetime.now(UTC),
        views=(view,),
        payload_digest="",
    )


def new_life(stack: Addresses, folder: Path, *, side: int = SIDE_PX, settings: Mapping[str, str] | None = None) -> Life:
    """Goods, encoders that look at `side` px, a stand whose registry is empty, and its topics."""
    place = folder / "goods"
    place.mkdir()
    (place / "encoder.onnx").write_bytes(demo_twin(side))
    (place / "other.onnx").write_bytes(random_encoder(side, 1))
    load = Load(side=side * 3 // 2)
    goods.write_goods(place, load.side)
    given = {
        "ASSAY_ENGINES__REGISTRY": str(folder / "registry"),
        "ASSAY_ENGINES__KEYS_DIR": str(folder / "keys"),
        "ASSAY_ENGINES__PLANS_DIR": str(folder / "plans"),
        "ASSAY_ENGINES__DEFAULT_ENCODER": FAMILY,
        "ASSAY_ENGINES__ENCODERS": "{}",
        "ASSAY_KAFKA__PARTITIONS": "2",
        **SOON,
        **(settings or {}),
    }
    stand = new_stand(stack, folder / "stand", given)
    stand.assay("topics", "apply")
    return Life(stand=stand, bootstrap=stack.kafka_bootstrap, folder=folder, load=load)
