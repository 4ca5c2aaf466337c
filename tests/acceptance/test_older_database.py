"""A worker that was started before the database was migrated for its build."""

from __future__ import annotations

from pathlib import Path

import pytest

from devstack import Addresses
from migrations.apply import downgrade, upgrade
from tests.acceptance.conftest import assert_each_once, ends_in_order, jobs
from tests.acceptance.small import small_deployment
from worker.errors import EXIT_CONFIGURATION


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_it_ends_with_the_fix_and_its_jobs_are_answered_when_that_was_done(stack: Addresses, tmp_path: Path) -> None:
    sent = jobs(6)
    with small_deployment(stack, tmp_path) as deployment:
        downgrade(deployment.stand.owner_url, "0012")
        deployment.send(sent)
        worker = deployment.worker("w1", ready=False)
        assert worker.process.wait(60) == EXIT_CONFIGURATION
        assert "the database is older than this build" in worker.log.read_text()
        assert "run `assay migrate up`" in worker.log.read_text()
        upgrade(deployment.stand.owner_url)
        survivor = deployment.worker("w1")
        assert_each_once(deployment.read("results", 6), sent)
        assert ends_in_order(survivor.process)
