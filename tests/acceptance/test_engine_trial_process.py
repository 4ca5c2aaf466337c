"""A candidate on a real worker under load that breaks at some photographs: it is taken back by itself, and every job is
answered once. What test_engine_life.py tries answers all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest

from devstack import Addresses
from schemas.job import AuthenticationJob
from tests.acceptance.conftest import assert_each_once
from tests.acceptance.registered import NAME, Registered, registered_deployment
from tests.acceptance.test_engine_swap_process import NEVER, load, serves
from tests.engine_life.running import SOON

WITHIN_S = 150.0
RATES = {**SOON, "ASSAY_JUDGEMENT__GOLDEN_NEEDED": "false"}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# `assay worker` whose engine with the digest BAD gives no finite numbers for every third photograph, golden ones apart.
BREAKS = """
import itertools, os, sys
import numpy as np
from engines import catalogue
open_real, count = catalogue.open_runner, itertools.count()

class Planted:
    def __init__(self, runner):
        self.runner, self.info, self.close = runner, runner.info, runner.close

    def start(self, pixels):
        pending = self.runner.start(pixels)
        return Broken(pending) if self.info.digest == os.environ["BAD"] else pending

class Broken:
    def __init__(self, pending):
        self.pending = pending

    def result(self, timeout_s=None):
        outputs = self.pending.result(timeout_s)
        for row in range(len(outputs.embedding)):
            if next(count) % 3 == 0:
                outputs.embedding[row] = np.nan
        return outputs

catalogue.open_runner = lambda *given, **more: Planted(open_real(*given, **more))
sys.argv = ["assay", "worker"]
from worker.cli.main import main
main()
"""


@pytest.fixture
def registry(stack: Addresses, tmp_path: Path) -> Iterator[Registered]:
    with registered_deployment(stack, tmp_path, **NEVER) as made:
        yield made


def decided(registry: Registered) -> str:
    """Judge again and again, as `assay watch` does, until the release has ended; gives how."""
    stand = registry.deployment.stand
    until = monotonic() + WITHIN_S
    while monotonic() < until:
        (judged,) = json.loads(stand.assay("engine", "judge", "--json", env={**stand.curator, **RATES}))
        if judged["ended"]:
            return str(judged["decision"])
    raise AssertionError(judged)


def states(registry: Registered) -> dict[str, str]:
    return {one.id: one.state.value for one in registry.registry.index.published(NAME)}


def test_a_candidate_that_breaks_is_taken_back_by_itself_and_costs_no_job(registry: Registered) -> None:
    deployment, sent = registry.deployment, list[AuthenticationJob]()
    first, second = registry.serve(1), registry.verified(2)
    deployment.planted(BREAKS, BAD=registry.digest(second), ASSAY_KAFKA__INSTANCE="w1")
    worker = deployment.workers[-1]
    serves(worker, first)
    registry.engine("canary", NAME, "--share", "100%")
    serves(worker, first, second)
    with load(deployment, sent):
        assert decided(registry) == "taken_back"
        serves(worker, first)
    records = deployment.read("results", len(sent))
    assert_each_once(records, sent)
    failed = "SELECT count(*) FROM assay.engine_comparisons WHERE starts_with(candidate_error, 'encoder_failed')"
    assert deployment.number(failed) > 0
    assert states(registry)[first] == "current"
    assert worker.stop() == 0
