"""The figures of a soak run: quantiles between two looks at a worker, and trends with their error."""

from __future__ import annotations

import math
import random
from xml.etree import ElementTree

import pytest

from tests.chaos.soak_series import Sample, plot, quantile, table, trend, trends

INF = math.inf


def samples(rss: list[float], every_s: float = 10.0) -> list[Sample]:
    return [
        Sample(
            at_s=n * every_s, rss_mib=mib, descriptors=40, threads=26, connections=14, jobs_s=5.0,
            p99_s=None if n == 3 else 0.2,
        )
        for n, mib in enumerate(rss)
    ]  # fmt: skip


def test_a_quantile_is_of_the_jobs_between_two_looks() -> None:
    before = {0.1: 100.0, 0.5: 100.0, 1.0: 100.0, INF: 100.0}
    after = {0.1: 100.0, 0.5: 150.0, 1.0: 200.0, INF: 200.0}
    assert quantile(before, after, 0.5) == pytest.approx(0.5)
    assert quantile(before, after, 0.99) == pytest.approx(0.99)
    assert quantile({}, after, 0.5) == pytest.approx(0.1)
    assert quantile(after, after, 0.99) is None
    assert quantile({}, {}, 0.99) is None
    assert quantile({}, {0.1: 0.0, 1.0: 0.0, INF: 4.0}, 0.99) == 1.0  # beyond the last bound: at least that


def test_a_steady_growth_is_found_with_its_size() -> None:
    rng = random.Random(1)
    grown = samples([100.0 + n * 10.0 / 3600.0 * 6.0 + rng.gauss(0.0, 0.05) for n in range(200)])
    memory = trends(grown, 2_000.0)["memory, MiB"]
    assert memory is not None
    assert memory.slope == pytest.approx(6.0, abs=1.0)
    assert memory.clearly_above(1.0)
    assert not memory.clearly_above(7.0)


def test_a_wandering_value_is_no_growth() -> None:
    """Neighbours agree, so that a plain standard error would be far too small."""
    rng, value = random.Random(7), 0.0
    walk: list[tuple[float, float]] = []
    for _ in range(200):
        value = 0.95 * value + rng.gauss(0.0, 0.3)
        walk.append((10.0 * len(walk), 100.0 + value))
    found = trend(walk)
    assert found is not None and not found.clearly_above(1.0)


def test_the_warm_up_does_not_count() -> None:
    warming = samples([100.0 + min(n, 20) * 5.0 for n in range(100)])
    memory = trends(warming, 1_000.0)["memory, MiB"]
    assert memory is not None and memory.slope == pytest.approx(0.0, abs=1e-6)
    assert trend([(0.0, 1.0)] * 4) is None


def test_the_table_is_short_and_the_plot_is_an_svg() -> None:
    many = samples([100.0 + n for n in range(95)])
    rows = table(many).splitlines()[2:]
    assert 10 < len(rows) <= 20
    assert rows[0].startswith("| 0.0 | 100 | 40 | 26 | 14 | 0.2 | 5 |")
    drawn = ElementTree.fromstring(plot(many, [(100.0, "Redis <killed>")]))  # noqa: S314
    assert len(drawn.findall(".//{*}polyline")) == 6
    assert {title.text for title in drawn.findall(".//{*}title")} == {"Redis <killed>"}
    assert plot([], [])
