"""Where a job that supersedes a verdict gets its views from, and that no other job does."""

from __future__ import annotations

from dataclasses import replace

import pytest
from outcome_builders import a_job, a_probe

from schemas.codes import ErrorCode, ViewCode
from schemas.job import AuthenticationJob, JobView, kept_uri, probe_uri
from worker.adapters.image_again import ImagesAgain
from worker.adapters.images import RoutedImages
from worker.adapters.memory_caches import MemoryEvidence
from worker.core.evidence import StoredView, UnusableView
from worker.errors import RejectJob

DIGEST = "5" * 64
STORED = StoredView(
    probe=a_probe(), deviation=1.0, deviation_map=None, aligned=True, copied=False, degraded=False
)  # fmt: skip


class Stored:
    def read(self, job: AuthenticationJob, view: JobView, space: str) -> StoredView | UnusableView:
        if space != "space-1":
            raise RejectJob(ErrorCode.EVIDENCE_GONE, f"nothing in {space}")
        return STORED


def images(*kept: str) -> ImagesAgain:
    evidence = MemoryEvidence()
    for tenant in kept:
        evidence.put(tenant, DIGEST, b"photograph")
    return ImagesAgain(inner=RoutedImages(max_bytes=1000), kept=evidence, stored=Stored())


def view(uri: str) -> JobView:
    return JobView(view="logo", sha256=DIGEST, uri=uri)


AGAIN = replace(a_job(), supersedes=1)


def test_kept_photographs_and_stored_views_answer_a_job_that_supersedes() -> None:
    assert images("acme").fetch(AGAIN, view(kept_uri(DIGEST))) == b"photograph"
    assert images().fetch(AGAIN, view(probe_uri("space-1"))) is STORED


@pytest.mark.parametrize("uri", [kept_uri(DIGEST), probe_uri("space-1"), "evidence:", "probe:"])
def test_no_first_job_may_name_what_is_kept(uri: str) -> None:
    refused = images("acme").fetch(a_job(), view(uri))
    assert isinstance(refused, UnusableView)
    assert refused.code is ViewCode.URI_NOT_ALLOWED


def test_a_photograph_is_named_by_its_own_digest_alone() -> None:
    refused = images("acme").fetch(AGAIN, view(kept_uri("6" * 64)))
    assert isinstance(refused, UnusableView)
    assert refused.code is ViewCode.URI_NOT_ALLOWED


@pytest.mark.parametrize("uri", [kept_uri(DIGEST), probe_uri("space-2")])
def test_what_is_gone_rejects_the_job(uri: str) -> None:
    with pytest.raises(RejectJob) as gone:
        images("zeta").fetch(AGAIN, view(uri))  # another tenant keeps the same photograph
    assert gone.value.code is ErrorCode.EVIDENCE_GONE
