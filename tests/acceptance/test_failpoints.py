"""F2: a real worker dies at every named point, once each, and its successor answers every job exactly once.

All share one database, group and instance, so that each worker is the successor of the one before it.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack import Addresses
from schemas.job import AuthenticationJob
from tests.acceptance.conftest import Deployment, assert_each_once, jobs
from tests.acceptance.small import small_deployment
from worker.adapters.failpoints import NAMES

WRITTEN = NAMES[NAMES.index("after_postgres_commit") :]  # who dies there leaves rows behind
AT_THE_END = ("in_revoke", "before_close")  # passed only by a worker that hands partitions over, or ends


@pytest.fixture(scope="module")
def shared(stack: Addresses, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    # Static membership, or each successor waits for its predecessor's session to end.
    with small_deployment(stack, tmp_path_factory.mktemp("failpoints"), ASSAY_KAFKA__STATIC_MEMBERSHIP="true") as made:
        yield Shared(made)


class Shared:
    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.sent: list[AuthenticationJob] = []
        self.log = deployment.stand.folder / "hits.log"

    def send(self, count: int) -> list[AuthenticationJob]:
        made = jobs(count)
        self.deployment.send(made)
        self.sent += made
        return made

    def armed(self, instance: str, point: str, hit: int) -> Doomed:
        armed = {"ASSAY_FAILPOINTS__ARMED": f'{{"{point}": "kill@{hit}"}}', "ASSAY_FAILPOINTS__LOG": str(self.log)}
        return Doomed(self.deployment, instance, armed, f"{point} {hit}", self.log)

    def rows(self, of: list[AuthenticationJob]) -> int:
        names = ", ".join(f"'{job.job_id}'" for job in of)
        return len(self.deployment.rows(f"SELECT FROM assay.jobs WHERE job_id IN ({names})"))

    def answered(self) -> None:
        """Everything sent so far has its answer in the results topic."""
        assert_each_once(self.deployment.read("results", len(self.sent), more_s=0.0), self.sent)


class Doomed:
    """A worker on its way to a failpoint."""

    def __init__(self, deployment: Deployment, instance: str, armed: dict[str, str], line: str, log: Path) -> None:
        self.worker = deployment.worker(instance, ready=False, **armed)
        self.line = line
        self.log = log

    def died(self) -> None:
        """It died there and nowhere else, and had written that down."""
        code = self.worker.process.wait(60)
        assert code == -signal.SIGKILL, self.worker.log_tail()
        assert self.log.read_text().splitlines()[-1] == f"{self.worker.process.pid} {self.line}"


@pytest.mark.parametrize("point", [name for name in NAMES if name not in AT_THE_END])
def test_a_death_at_the_point_costs_and_repeats_nothing(shared: Shared, point: str) -> None:
    doomed = shared.armed("w1", point, 1)
    sent = shared.send(6)
    doomed.died()
    assert (shared.rows(sent) > 0) == (point in WRITTEN), "it died before or after the point that it names"
    successor = shared.deployment.worker("w1", ready=False)
    shared.answered()
    assert shared.rows(sent) == 6
    successor.wait_ready()  # SIGTERM is for those who listen
    assert successor.stop() == 0


def test_a_death_before_the_group_is_left(shared: Shared) -> None:
    doomed = shared.armed("w1", "before_close", 1)
    sent = shared.send(6)
    doomed.worker.wait_ready()
    shared.answered()
    doomed.worker.process.terminate()
    doomed.died()
    successor = shared.deployment.worker("w1")
    assert shared.rows(sent) == 6
    assert successor.stop() == 0


def test_a_death_in_a_revocation_leaves_the_work_to_the_next_owner(shared: Shared) -> None:
    doomed = shared.armed("w1", "in_revoke", 1)
    doomed.worker.wait_ready()
    sent = shared.send(60)
    heir = shared.deployment.worker("w2", ready=False)
    doomed.died()
    shared.answered()
    assert shared.rows(sent) == 60
    assert heir.stop() == 0


def test_in_the_end_each_job_has_one_row_and_one_output(shared: Shared) -> None:
    """Runs last, and reads a little longer than the answers take: one too many would be seen."""
    assert_each_once(shared.deployment.read("results", len(shared.sent), more_s=2.0), shared.sent)
    deployment, count = shared.deployment, len(shared.sent)
    assert deployment.rows("SELECT count(*), count(DISTINCT (tenant, job_id)) FROM assay.jobs") == [(count, count)]
    assert deployment.rows("SELECT count(*) FROM assay.verdicts") == [(count,)]
    assert deployment.rows("SELECT count(*) FROM assay.dead_letters") == [(0,)]
