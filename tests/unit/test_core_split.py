"""The canary's share of jobs: sticky, monotone in the share, its own for each candidate, as large as was asked."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.split import in_share

ENGINE, OTHER = "a" * 64, "b" * 64
JOBS = [("acme", f"job-{number}") for number in range(20_000)]


@given(st.text(), st.text(), st.floats(0, 1), st.floats(0, 1))
def test_who_is_in_a_share_is_in_every_larger_one(tenant: str, job_id: str, one: float, two: float) -> None:
    smaller, larger = sorted((one, two))
    assert in_share(tenant, job_id, ENGINE, smaller) <= in_share(tenant, job_id, ENGINE, larger)


@given(st.text(), st.text())
def test_none_is_none_and_all_are_all(tenant: str, job_id: str) -> None:
    assert not in_share(tenant, job_id, ENGINE, 0.0)
    assert in_share(tenant, job_id, ENGINE, 1.0)


@pytest.mark.parametrize("share", [0.01, 0.05, 0.5, 0.9])
def test_a_share_is_as_large_as_it_says(share: float) -> None:
    found = sum(in_share(*job, ENGINE, share) for job in JOBS)
    spread = math.sqrt(len(JOBS) * share * (1 - share))
    assert abs(found - len(JOBS) * share) < 5 * spread


def test_another_candidate_draws_other_jobs() -> None:
    both = sum(in_share(*job, ENGINE, 0.1) and in_share(*job, OTHER, 0.1) for job in JOBS)
    assert abs(both - len(JOBS) * 0.01) < 5 * math.sqrt(len(JOBS) * 0.01)


def test_the_draw_never_changes() -> None:
    """Workers of two builds must agree: these are part of the contract between them."""
    drawn = [number for number in range(60) if in_share("acme", f"job-{number}", ENGINE, 0.05)]
    assert drawn == [0, 4, 41, 46, 56]


def test_names_are_kept_apart() -> None:
    apart = [in_share("a", f"b/c{n}", ENGINE, 0.5) == in_share("a/b", f"c{n}", ENGINE, 0.5) for n in range(64)]
    assert not all(apart)


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="0 to 1"):
        in_share("acme", "job", ENGINE, share)
