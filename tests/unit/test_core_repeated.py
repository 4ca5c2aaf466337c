"""Repeated counterfeits: a planted forger is one cluster, random counterfeits are none.

The simulation draws counterfeits as encoders give them: a SKU's genuine embedding, turned by the forger's own departure
in the views that show it, and by each photograph's own noise. `pytest -s` prints what was counted.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache

import numpy as np
import pytest

from schemas.codes import AlertLink
from worker.core.repeated import (
    Cluster,
    LinkRule,
    Record,
    Suspect,
    SuspectView,
    find_clusters,
    unusual_submitters,
)

NOON = datetime(2026, 3, 14, 12, tzinfo=UTC)
RULE = LinkRule()
VIEWS = ("logo", "stitching", "hardware")
DIMENSIONS = 128
DEPARTURE, NOISE = 0.6, 0.25  # lengths beside a unit embedding
NOBODY: frozenset[str] = frozenset()


def unit(vector: np.ndarray) -> np.ndarray:
    return (vector / np.linalg.norm(vector)).astype(np.float32)


@cache
def drawn(*names: object) -> np.ndarray:
    """A direction that belongs to these names."""
    return unit(np.random.default_rng([7, *"/".join(map(str, names)).encode()]).normal(size=DIMENSIONS))


@cache
def references(sku: str, view: str) -> np.ndarray:
    return np.array([unit(drawn(sku, view) + NOISE * drawn(sku, view, "reference", n)) for n in range(5)])


def shown(sku: str, view: str, departure: np.ndarray, rng: np.random.Generator) -> SuspectView:
    """A departing view: what a forger does to a SKU's view is the same each time, and light and pose are not."""
    embedding = unit(drawn(sku, view) + DEPARTURE * departure + NOISE * unit(rng.normal(size=DIMENSIONS)))
    return SuspectView(
        view=view,
        space="space",
        embedding=embedding,
        phash=int(rng.integers(0, 1 << 63)),
        similarity=float((references(sku, view) @ embedding).max()),
    )


def suspect(number: int, *, forger: str | None = None, sku: str = "BAG-1", **facts: str) -> Suspect:
    """A counterfeit of a forger of its own, unless one is named."""
    job, rng = f"job-{number}", np.random.default_rng(number)
    own = {view: drawn(sku, view, forger) if forger else unit(rng.normal(size=DIMENSIONS)) for view in VIEWS}
    return Suspect(
        job_id=job,
        sku=sku,
        category="bag",
        judged_at=NOON + timedelta(minutes=number),
        item=facts.get("item", job),
        serial=facts.get("serial"),
        submitter=facts.get("submitter"),
        views=tuple(shown(sku, view, own[view], rng) for view in VIEWS),
    )


def random_counterfeits(count: int, *, seed: int) -> list[Suspect]:
    """Of 20 SKUs, each by a forger of its own, from 40 senders who are counterfeit alike, most with a serial."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        serial = rng.choice([f"SN-{rng.integers(10**8):08d}", "n/a", ""])
        facts = {"serial": str(serial), "submitter": f"shop-{rng.integers(40)}"}
        made.append(suspect(seed * 100_000 + number, sku=f"BAG-{rng.integers(20)}", **facts))
    return made


def clusters(*suspects: Suspect, unusual: frozenset[str] = NOBODY, rule: LinkRule = RULE) -> list[Cluster]:
    return find_clusters(suspects, unusual, rule)


def jobs_of(cluster: Cluster) -> list[str]:
    return [suspect.job_id for suspect in cluster.suspects]


def test_a_forgers_jobs_among_a_thousand_random_ones_are_one_cluster() -> None:
    random = random_counterfeits(1_000, seed=1)
    assert clusters(*random) == []
    planted = [suspect(9_000_000 + n, forger="one forger", sku="BAG-3") for n in range(8)]
    (cluster,) = clusters(*random, *planted)
    assert sorted(jobs_of(cluster)) == sorted(job.job_id for job in planted)
    assert cluster.links == (AlertLink.EMBEDDING,)


def test_random_counterfeits_raise_none_however_they_are_drawn() -> None:
    counted = [len(clusters(*random_counterfeits(1_000, seed=seed))) for seed in range(2, 5)]
    print(f"\nclusters in {len(counted)} windows of 1,000 random counterfeits: {sum(counted)}")  # noqa: T201
    assert counted == [0, 0, 0]


def test_two_forgers_of_one_sku_are_two_clusters() -> None:
    jobs = [suspect(n, forger=f"forger {n % 2}") for n in range(10)]
    found = clusters(*jobs)
    assert sorted(jobs_of(cluster) for cluster in found) == sorted(
        [[f"job-{n}" for n in range(0, 10, 2)], [f"job-{n}" for n in range(1, 10, 2)]]
    )


def test_one_serial_ties_jobs_of_any_sku_and_spelling() -> None:
    spelled = ("SN 4711-0815", "sn47110815", "SN-4711-0815")
    jobs = [suspect(n, sku=f"BAG-{n}", serial=serial) for n, serial in enumerate(spelled)]
    (cluster,) = clusters(*jobs)
    assert (cluster.links, cluster.items) == ((AlertLink.SERIAL,), 3)
    elsewhere = [replace(job, category=f"category {n}") for n, job in enumerate(jobs)]
    assert clusters(*elsewhere) == []


@pytest.mark.parametrize("serial", ["n/a", "unknown", "123", "----", ""])
def test_what_is_no_serial_ties_nobody(serial: str) -> None:
    assert clusters(*(suspect(n, sku=f"BAG-{n}", serial=serial) for n in range(5))) == []


def test_a_senders_label_ties_only_where_the_sender_is_unusual() -> None:
    jobs = [suspect(n, sku=f"BAG-{n}", submitter="shop") for n in range(4)]
    assert clusters(*jobs) == []
    (cluster,) = clusters(*jobs, unusual=frozenset({"shop"}))
    assert cluster.links == (AlertLink.SUBMITTER,)


def test_a_near_hash_counts_only_where_the_view_is_alike_as_well() -> None:
    jobs = [suspect(n, forger="one forger") for n in range(3)]
    one_view = [replace(job, views=job.views[:1]) for job in jobs]
    assert clusters(*one_view) == []
    near = [replace(job, views=(replace(job.views[0], phash=0b1111 & (1 << n)),)) for n, job in enumerate(jobs)]
    (cluster,) = clusters(*near)
    assert cluster.links == (AlertLink.PHOTOGRAPH,)
    strangers = [suspect(n) for n in range(3)]
    assert clusters(*(replace(job, views=(replace(job.views[0], phash=0),)) for job in strangers)) == []


def test_an_item_that_is_sent_again_is_one_item() -> None:
    again = [suspect(n, serial="SN-12345", item="the same photographs") for n in range(5)]
    assert clusters(*again) == []
    assert len(clusters(*again, suspect(5, serial="SN-12345"), suspect(6, serial="SN-12345"))) == 1


def test_vectors_of_two_spaces_are_never_compared() -> None:
    jobs = [suspect(n, forger="one forger") for n in range(3)]
    apart = [
        replace(job, views=tuple(replace(view, space=f"space {n}") for view in job.views)) for n, job in enumerate(jobs)
    ]
    assert clusters(*apart) == []


def test_the_order_of_the_suspects_does_not_matter() -> None:
    jobs = [*random_counterfeits(50, seed=9), *(suspect(n, forger="f", serial="SN-99999") for n in range(4))]
    assert clusters(*jobs) == clusters(*reversed(jobs))
    assert clusters() == []


def test_senders_that_are_all_alike_are_never_unusual() -> None:
    """50 windows of 40 senders, 5 % counterfeit everywhere, at a level of 1 % a window: at most 3 windows."""
    rng = np.random.default_rng(3)
    rule = LinkRule(submitter_p=0.01)
    windows = [
        {f"shop-{n}": Record(counterfeit=int(rng.binomial(100, 0.05)), decided=100) for n in range(40)}
        for _ in range(50)
    ]
    wrong = sum(bool(unusual_submitters(window, rule)) for window in windows)
    print(f"\nwindows with an unusual sender at a level of 1 %: {wrong} of {len(windows)}")  # noqa: T201
    assert wrong <= 3
    assert not any(unusual_submitters(window, RULE) for window in windows)


def test_a_sender_of_counterfeits_is_unusual_beside_others_and_not_alone() -> None:
    others = {f"shop-{n}": Record(counterfeit=2, decided=100) for n in range(20)}
    forger = {"forger": Record(counterfeit=6, decided=7)}
    assert unusual_submitters(forger | others, RULE) == {"forger"}
    assert unusual_submitters(forger, RULE) == NOBODY
    assert unusual_submitters({None: Record(counterfeit=50, decided=60)} | others, RULE) == NOBODY
    assert unusual_submitters({"forger": Record(counterfeit=2, decided=2)} | others, RULE) == NOBODY
