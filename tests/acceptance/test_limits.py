"""F17: a real worker whose disk is full, for photographs or for its log, and one that may open nothing more.

The limits are set on the worker's process alone: RLIMIT_FSIZE, beyond which a write fails as on a full disk (with
EFBIG in place of ENOSPC: both are an OSError of `write`), and RLIMIT_NOFILE.
"""

from __future__ import annotations

import io
import json
import resource
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from time import monotonic, sleep

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import make_url

from demo.stand import WorkerProcess, query
from devstack import Addresses
from schemas.job import AuthenticationJob
from tests.acceptance.conftest import Deployment, assert_each_once, jobs
from tests.acceptance.small import small_deployment
from tests.chaos.proxy import KafkaProxy
from worker.adapters.kafka_errors import EXIT_FENCED, EXIT_KAFKA

PATIENCE_S = 300.0
SMALL_BYTES, LARGE_BYTES = 60_000, 120_000  # photographs below and above a limit between the two
A_FEW = 8  # descriptors, far fewer than a worker has open
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class World:
    """A deployment, and all jobs that were sent to it."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.sent: list[AuthenticationJob] = []

    def worker(self, instance: str = "w1", **settings: str) -> WorkerProcess:
        started = self.deployment.worker(instance, ready=False, **settings)
        started.wait_ready(PATIENCE_S)
        return started

    def send(self, made: Sequence[AuthenticationJob]) -> None:
        self.deployment.send(made)
        self.sent += made

    def answered(self) -> None:
        """Every job has one answer, one row and one verdict."""
        found = self.deployment.read("results", len(self.sent), more_s=1.0, within_s=PATIENCE_S)
        assert_each_once(found, self.sent)
        assert self._count("SELECT count(*), count(DISTINCT job_id) FROM assay.jobs") == [(len(self.sent),) * 2]
        assert self._count("SELECT count(*), count(DISTINCT job_id) FROM assay.verdicts") == [(len(self.sent),) * 2]

    def judged(self, of: Sequence[AuthenticationJob]) -> list[AuthenticationJob]:
        found = query(self.deployment.stand.owner_url, "SELECT job_id FROM assay.verdicts")
        return [job for job in of if (job.job_id,) in found]

    def assert_photographs_are_kept(self, of: Sequence[AuthenticationJob]) -> None:
        """Of every verdict, and whole; what has the name of a photograph is one."""
        root = Path(self.deployment.stand.environment["ASSAY_EVIDENCE__ROOT"])
        kept = {place.name: place for place in root.glob("*/*/*") if not place.name.startswith(".")}
        assert [name for name, place in kept.items() if sha256(place.read_bytes()).hexdigest() != name] == []
        assert {view.sha256 for job in self.judged(of) for view in job.views} <= set(kept)

    def end_connections(self) -> None:
        """All of the workers with PostgreSQL, by its hand."""
        ask = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename='assay_worker' AND datname=%s"
        owner_url = self.deployment.stand.owner_url
        assert query(owner_url, ask, [make_url(owner_url).database]) != []

    def _count(self, statement: str) -> list[tuple[object, ...]]:
        return self.deployment.rows(statement)


@pytest.fixture(scope="module")
def world(stack: Addresses, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with small_deployment(stack, tmp_path_factory.mktemp("limits"), ASSAY_DRAIN_DEADLINE_S="3") as made:
        yield World(made)


Limit = tuple[int, int]


def goes_on(world: World, worker: WorkerProcess, limit: Limit) -> WorkerProcess:
    resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, limit)
    return worker


def is_stopped(world: World, worker: WorkerProcess, limit: Limit) -> WorkerProcess:
    assert worker.stop(PATIENCE_S) == 0
    return world.worker()


def is_killed(world: World, worker: WorkerProcess, limit: Limit) -> WorkerProcess:
    worker.kill()
    return world.worker()


@pytest.mark.parametrize("then", [goes_on, is_stopped, is_killed])
def test_a_full_disk_for_photographs_holds_verdicts_back(
    world: World, then: Callable[[World, WorkerProcess, Limit], WorkerProcess]
) -> None:
    made = [of_size(job, bytes_) for job, bytes_ in zip(jobs(12), [SMALL_BYTES, LARGE_BYTES] * 6, strict=True)]
    worker = world.worker()
    before = limited(worker, resource.RLIMIT_FSIZE, (SMALL_BYTES + LARGE_BYTES) // 2)
    world.send(made)
    until(lambda: 'assay_intake_paused{reason="the evidence store"} 1.0' in worker.get("/metrics"), "a pause")
    assert "the evidence store is unavailable: File too large" in said(worker)
    assert len(world.judged(made)) < 12
    world.assert_photographs_are_kept(made)
    worker = then(world, worker, before)
    world.answered()
    assert len(world.judged(made)) == 12
    world.assert_photographs_are_kept(made)
    assert worker.stop(PATIENCE_S) == 0


def test_a_full_disk_for_the_log_costs_lines_and_nothing_else(world: World) -> None:
    worker = world.worker(ASSAY_EVIDENCE__KEEP="off")
    room_bytes = 20  # so that a line is torn, too
    before = limited(worker, resource.RLIMIT_FSIZE, worker.log.stat().st_size + room_bytes)
    world.send(jobs(6))
    world.answered()
    resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, before)
    world.send(jobs(6))
    world.answered()
    assert worker.stop(PATIENCE_S) == 0
    events = [json.loads(line) for line in said(worker).splitlines() if line.startswith("{") and line.endswith("}")]
    assert [event["lines"] >= 1 for event in events if event["event"] == "log_lines_lost"] == [True]
    assert events[-1]["event"] == "worker_stopped"


def test_a_worker_that_cannot_say_why_ends_all_the_same(world: World) -> None:
    """One that is fenced, with a full disk below its log."""
    static = {"ASSAY_KAFKA__STATIC_MEMBERSHIP": "true"}
    worker = world.worker(**static)
    limited(worker, resource.RLIMIT_FSIZE, 1)
    folder = world.deployment.stand.folder / "namesake"
    folder.mkdir()
    namesake = replace(world.deployment.stand, folder=folder).worker("w1", **static)
    world.deployment.workers.append(namesake)
    namesake.wait_ready(PATIENCE_S)
    assert worker.process.wait(PATIENCE_S) in (EXIT_KAFKA, EXIT_FENCED)
    world.send(jobs(6))
    world.answered()
    assert namesake.stop(PATIENCE_S) == 0


def test_a_worker_that_may_open_nothing_more_waits_and_goes_on(stack: Addresses, world: World) -> None:
    """Its connections are taken from it, and no socket and no file can be opened in their place."""
    made = jobs(18)
    with KafkaProxy(stack.kafka_bootstrap) as proxy:
        worker = world.worker(ASSAY_KAFKA__BOOTSTRAP=proxy.address)
        world.send(made[:6])
        world.answered()
        before = limited(worker, resource.RLIMIT_NOFILE, A_FEW)
        world.send(made[6:12])
        world.end_connections()
        proxy.reset()
        until(lambda: "Too many open files" in said(worker), "a refusal")
        world.send(made[12:])
        assert worker.process.poll() is None, worker.log_tail()
        resource.prlimit(worker.process.pid, resource.RLIMIT_NOFILE, before)
        world.answered()
        assert worker.stop(PATIENCE_S) == 0
    world.assert_photographs_are_kept(made)


def limited(worker: WorkerProcess, what: int, soft: int) -> Limit:
    """Lower a limit of the running worker; returns what it was before."""
    hard = resource.prlimit(worker.process.pid, what)[1]
    return resource.prlimit(worker.process.pid, what, (soft, hard))


def said(worker: WorkerProcess) -> str:
    return worker.log.read_bytes()[worker.skip :].decode(errors="replace")


def of_size(job: AuthenticationJob, bytes_: int) -> AuthenticationJob:
    """The job with a photograph of about so many bytes in place of its own: noise, of which a JPEG keeps the most."""
    side = round((bytes_ / 0.91) ** 0.5)
    noise = np.random.default_rng(int(job.job_id[-8:], 16)).integers(0, 256, (side, side, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, "JPEG", quality=90)
    view = replace(job.views[0], sha256=sha256(out.getvalue()).hexdigest(), data=out.getvalue())
    return replace(job, views=(view,))


def until(true: Callable[[], bool], what: str) -> None:
    deadline_s = monotonic() + PATIENCE_S
    while not true():
        assert monotonic() < deadline_s, f"{what} did not come in {PATIENCE_S:g} s"
        sleep(0.1)
