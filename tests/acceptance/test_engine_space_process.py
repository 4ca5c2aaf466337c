"""Somebody lets an engine of another embedding space have traffic before its references have vectors there: real
workers leave it alone, or answer with nothing compared, and never compare across spaces."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from uuid import uuid4

import pytest
from sqlalchemy import text

from devstack import Addresses
from schemas.verdict import VerdictEvent
from tests.acceptance.conftest import assert_each_once, jobs, photograph
from tests.acceptance.registered import NAME, Registered, registered_deployment
from tests.acceptance.test_engine_swap_process import NEVER, WITHIN_S, engines_of, ring, serves, verdicts
from worker.adapters.database import connect

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
RELEASE = """INSERT INTO assay.engine_releases (id, name, candidate, current, mode, share, "by", why)
VALUES (:id, :name, :candidate, :current, 'canary', 1, 'eve', 'in a hurry')"""


@pytest.fixture
def registry(stack: Addresses, tmp_path: Path) -> Iterator[Registered]:
    with registered_deployment(stack, tmp_path, **NEVER) as made:
        yield made


def revision(registry: Registered) -> int:
    """The newest of the gallery."""
    return registry.deployment.number("SELECT max(revision) FROM assay.gallery_revisions")


def enrol(registry: Registered) -> None:
    """Three references of the SKU that jobs claim, with vectors in the space of what serves."""
    folder = registry.folder / "references"
    for seed in range(9001, 9004):
        place = folder / "bag-1" / str(seed)
        place.mkdir(parents=True)
        (place / "logo.jpg").write_bytes(photograph(seed))
    (folder / "item.json").write_text(json.dumps({"category": "bag"}))
    (registry.folder / "profiles.toml").write_text("[[bag.views]]\nview = 'logo'\n")
    given = ("--tenant", "demo", "--by", "ada", "--profiles", str(registry.folder / "profiles.toml"))
    stand = registry.deployment.stand
    stand.assay("enroll", str(folder), *given, env=stand.curator)


def released_by_hand(registry: Registered, current: str, candidate: str) -> None:
    """As `assay engine canary`, without a question whether anything is missing."""
    registry.move("canary", candidate)
    database = connect(registry.deployment.stand.curator_url)
    with database.begin() as connection:
        connection.execute(text(RELEASE), {"id": uuid4(), "name": NAME, "candidate": candidate, "current": current})
    database.dispose()


@dataclass(slots=True)
class Asking:
    """Jobs of one view, and their verdicts."""

    registry: Registered
    count: int = 0

    def ask(self, number: int) -> list[VerdictEvent]:
        sent = jobs(number)
        self.registry.deployment.send(sent)
        self.count += number
        records = self.registry.deployment.read("results", self.count, more_s=0.5)
        wanted = {one.job_id for one in sent}
        mine = [record for record in records if verdicts([record])[0].job_id in wanted]
        assert_each_once(mine, sent)
        return verdicts(mine)

    def until_seen(self, revision: int) -> None:
        """Return once the worker compares with this revision of the gallery."""
        until = monotonic() + WITHIN_S
        while self.ask(1)[0].provenance.gallery_revision < revision:
            assert monotonic() < until


def spaces_of(events: list[VerdictEvent]) -> set[tuple[str, bool]]:
    """Digest of the engine, and whether a reference was compared."""
    return {(engines_of(event)[0], bool(event.views[0].references)) for event in events}


def test_whoever_forces_another_space_into_traffic_gets_no_verdict_across_spaces(registry: Registered) -> None:
    deployment, asking = registry.deployment, Asking(registry)
    first = registry.serve(1)
    enrol(registry)
    second = registry.verified(2)
    worker = deployment.worker("w1")
    serves(worker, first)
    released_by_hand(registry, first, second)
    ring(deployment)
    asking.until_seen(revision(registry))
    assert spaces_of(asking.ask(4)) == {(registry.digest(first), True)}
    assert "candidate_waits" in worker.log.read_text()
    assert "3 references have no vectors in its embedding space" in worker.log.read_text()

    registry.move("promote", second)
    ring(deployment)
    serves(worker, second)
    events = asking.ask(4)
    assert spaces_of(events) == {(registry.digest(second), False)}
    assert {(event.verdict.value, event.nearest_skus) for event in events} == {("inconclusive", ())}

    stand = deployment.stand
    stand.assay("engine", "embed", NAME, "--by", "ada", env=stand.curator)
    asking.until_seen(revision(registry))
    assert spaces_of(asking.ask(4)) == {(registry.digest(second), True)}
    assert worker.stop() == 0
