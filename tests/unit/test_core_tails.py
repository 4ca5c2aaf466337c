"""Exact tails against SciPy."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import fisher_exact

from worker.core.tails import more_often


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 300), st.integers(0, 300))
def test_fishers_exact_test_equals_scipys(hits: int, misses: int, other_hits: int, other_misses: int) -> None:
    table = [[hits, misses], [other_hits, other_misses]]
    expected = fisher_exact(table, alternative="greater").pvalue
    found = more_often(hits, hits + misses, other_hits, other_hits + other_misses)
    assert found == pytest.approx(expected, rel=1e-8, abs=1e-300)


def test_more_hits_are_less_likely_and_no_rest_says_nothing() -> None:
    tails = [more_often(hits, 20, 30, 1000) for hits in range(21)]
    assert tails == sorted(tails, reverse=True)
    assert tails[0] == 1.0
    assert tails[20] < 1e-25
    assert more_often(7, 9, 0, 0) == 1.0
