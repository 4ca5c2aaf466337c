"""F3: real workers that stand still (SIGSTOP) for a moment, beyond their session, beyond their transaction's timeout.

Whoever takes over answers; a worker that comes to itself again is fenced, or goes on in the group. All cases of a
protocol run side by side, each in a group and with topics of its own: most of the time is waiting.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic, sleep

import psutil
import pytest

from demo.stand import WorkerProcess, query
from devstack import Addresses
from schemas.job import AuthenticationJob
from tests.acceptance.conftest import Deployment, assert_each_once, jobs
from tests.acceptance.small import small_deployment
from worker.adapters.kafka_errors import EXIT_FENCED, EXIT_KAFKA
from worker.adapters.kafka_publisher import TRANSACTION_TIMEOUT_MS

PATIENCE_S = 300.0
LOOK_S = 20.0
A_MOMENT_S = 1.0
BEYOND_THE_SESSION_S = 8.0  # of 6 s, and within the transaction's timeout
BEYOND_THE_TRANSACTION_S = TRANSACTION_TIMEOUT_MS / 1e3 + 2.0
FENCED = (EXIT_KAFKA, EXIT_FENCED)
PROTOCOLS: Mapping[str, Mapping[str, str]] = {"classic": {}, "consumer": {"ASSAY_KAFKA__PROTOCOL": "consumer"}}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # a dozen worker starts, on a machine that may be busy

# `assay worker` that stops polling with its first record in hand, until the file GO_ON is there. Its heartbeats go on:
# so the client itself leaves the group after max.poll.interval.ms, of which the worker has no setting.
STUCK = """
import os, sys, time
from pathlib import Path
from worker.adapters import kafka_source

kafka_source.READ_SETTINGS = {**kafka_source.READ_SETTINGS, "max.poll.interval.ms": 6_000}
poll = kafka_source.KafkaSource.poll

def stuck(self, timeout_s):
    record = poll(self, timeout_s)
    if record is not None:
        kafka_source.KafkaSource.poll = poll
        Path(os.environ["TAKEN"]).touch()
        while not Path(os.environ["GO_ON"]).exists():
            time.sleep(0.05)
    return record

kafka_source.KafkaSource.poll = stuck
sys.argv = ["assay", "worker"]
from worker.cli.main import main
main()
"""


@pytest.fixture(scope="module")
def shared(stack: Addresses, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with small_deployment(stack, tmp_path_factory.mktemp("frozen")) as made:
        yield made


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A worker w1 that stops itself at `point`; SIGCONT comes after `seconds`, and when `heir` has answered.

    `heir` is started meanwhile; as another w1 it is the replacement that a supervisor starts.
    """

    point: str
    seconds: float
    heir: str | None = "w2"
    early: bool = False  # SIGCONT comes whether or not the heir could answer yet


CASES = (
    Case(point="after_infer", seconds=A_MOMENT_S, heir=None),
    Case(point="before_kafka_commit", seconds=A_MOMENT_S, heir=None),
    Case(point="after_postgres_commit", seconds=BEYOND_THE_SESSION_S),
    Case(point="before_kafka_commit", seconds=BEYOND_THE_SESSION_S, early=True),
    Case(point="before_kafka_commit", seconds=BEYOND_THE_SESSION_S, heir="w1"),
    Case(point="after_infer", seconds=BEYOND_THE_TRANSACTION_S),
    Case(point="before_postgres_commit", seconds=BEYOND_THE_TRANSACTION_S),
    Case(point="before_kafka_commit", seconds=BEYOND_THE_TRANSACTION_S),
)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_worker_that_stood_still_loses_nothing_and_repeats_nothing(shared: Deployment, protocol: str) -> None:
    lanes = [Lane(shared, f"{protocol}-{number}", protocol) for number, case in enumerate(CASES)]
    side_by_side([partial(stands_still, lane, case) for lane, case in zip(lanes, CASES, strict=True)])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_worker_that_does_not_poll_is_relieved_and_joins_again(shared: Deployment, protocol: str) -> None:
    lane = Lane(shared, f"{protocol}-stuck", protocol)
    taken, go_on = lane.folder / "taken", lane.folder / "go-on"
    lane.send(6)
    stuck = lane.entry("w1", STUCK, TAKEN=str(taken), GO_ON=str(go_on))
    until(taken.exists, "a first record")
    lane.worker("w2")
    lane.answered()
    go_on.touch()
    lane.send(6)
    lane.answered()
    assert_still_of_use(lane, stuck)


def stands_still(lane: Lane, case: Case) -> None:
    frozen = lane.worker("w1", ASSAY_FAILPOINTS__ARMED=f'{{"{case.point}": "stop@1"}}')
    lane.send(6)
    until(lambda: is_stopped(frozen), f"the stop at {case.point}")
    stopped_s = monotonic()
    if case.heir is not None:
        lane.worker(case.heir)
        if not case.early:
            lane.answered()
            assert is_stopped(frozen)
    sleep(max(0.0, stopped_s + case.seconds - monotonic()))
    frozen.process.send_signal(signal.SIGCONT)
    lane.send(6)
    lane.answered()
    assert_still_of_use(lane, frozen)


def assert_still_of_use(lane: Lane, woken: WorkerProcess) -> None:
    """Alone, the woken worker answers; or what its supervisor starts where it was fenced. Nothing was done twice."""
    lane.end_all(but=woken)
    if woken.process.poll() is not None:
        assert woken.process.returncode in FENCED, woken.log_tail()
        lane.worker("w1")
    lane.send(6)
    lane.answered()
    lane.end_all()
    lane.assert_each_once()


def side_by_side(cases: Sequence[Callable[[], None]]) -> None:
    """All at once; what went wrong is raised when all have ended."""
    with ThreadPoolExecutor(len(cases)) as pool:
        for done in [pool.submit(case) for case in cases]:
            done.result()


class Lane:
    """A group and topics of its own on the shared database: each new one would take the worker's password away."""

    def __init__(self, shared: Deployment, name: str, protocol: str) -> None:
        prefix = f"{shared.stand.topic_prefix}{name}."
        self.folder = shared.stand.folder / name
        self.folder.mkdir()
        environment = {
            **shared.stand.environment,
            **PROTOCOLS[protocol],
            "ASSAY_KAFKA__GROUP": f"{prefix}group",
            "ASSAY_KAFKA__TOPICS__PREFIX": prefix,
        }
        stand = replace(shared.stand, environment=environment, folder=self.folder, topic_prefix=prefix)
        stand.assay("topics", "apply")
        self._deployment = Deployment(stand=stand, bootstrap=environment["ASSAY_KAFKA__BOOTSTRAP"])
        self._workers: list[WorkerProcess] = []
        self._all_workers = shared.workers  # whatever happens, they end with the shared deployment
        self._sent: list[AuthenticationJob] = []

    def worker(self, instance: str, **settings: str) -> WorkerProcess:
        return self._started(self._deployment.stand.worker(instance, **settings))

    def entry(self, instance: str, program: str, **settings: str) -> WorkerProcess:
        environment = {**self._deployment.stand.environment, "ASSAY_KAFKA__INSTANCE": instance, **settings}
        return self._started(WorkerProcess.start(environment, self.folder / f"{instance}.log", ("-c", program)))

    def send(self, count: int) -> None:
        made = jobs(count)
        self._deployment.send(made)
        self._sent += made

    def answered(self) -> None:
        """Everything sent so far has its answer in the results topic, once. Fenced workers are started again, as by
        their supervisor: a worker that slept for too long may fence its own replacement, once."""
        deadline_s = monotonic() + PATIENCE_S
        while True:
            found = self._deployment.read("results", len(self._sent), more_s=0.0, within_s=LOOK_S)
            if len(found) >= len(self._sent) or monotonic() > deadline_s:
                return assert_each_once(found, self._sent)
            self._replace_fenced()

    def _replace_fenced(self) -> None:
        for log, worker in {worker.log: worker for worker in self._workers}.items():
            if worker.process.poll():  # not those that were asked to end
                assert worker.process.returncode in FENCED, worker.log_tail()
                self.worker(log.stem)

    def end_all(self, *, but: WorkerProcess | None = None) -> None:
        """SIGTERM; some were fenced before."""
        for worker in [worker for worker in self._workers if worker is not but]:
            if worker.process.poll() is None:
                worker.wait_ready()  # SIGTERM is for those who listen
            assert worker.stop(PATIENCE_S) in (0, *FENCED), worker.log_tail()

    def assert_each_once(self) -> None:
        """Read for longer than the answers take: one too many would be seen."""
        assert_each_once(self._deployment.read("results", len(self._sent), more_s=2.0), self._sent)
        once = [(len(self._sent), len(self._sent))]
        for counted in (
            "SELECT count(*), count(DISTINCT job_id) FROM assay.jobs WHERE job_id = ANY(%s)",
            "SELECT count(*), count(DISTINCT job_id) FROM assay.verdicts WHERE job_id = ANY(%s)",
        ):
            assert query(self._deployment.stand.owner_url, counted, [[job.job_id for job in self._sent]]) == once

    def _started(self, worker: WorkerProcess) -> WorkerProcess:
        self._workers.append(worker)
        self._all_workers.append(worker)
        return worker


def is_stopped(worker: WorkerProcess) -> bool:
    assert worker.process.poll() is None, worker.log_tail()
    return psutil.Process(worker.process.pid).status() == psutil.STATUS_STOPPED


def until(true: Callable[[], bool], what: str) -> None:
    deadline_s = monotonic() + PATIENCE_S
    while not true():
        assert monotonic() < deadline_s, f"{what} did not come in {PATIENCE_S:g} s"
        sleep(0.05)
