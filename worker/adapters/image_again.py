"""The images of jobs that supersede a verdict: kept photographs, or what the verdict stored of a view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from schemas.codes import ErrorCode, ViewCode
from schemas.job import KEPT, PROBE, AuthenticationJob, JobView, kept_uri
from worker.core.evidence import StoredView, UnusableView
from worker.errors import RejectJob
from worker.ports import EvidenceStore, ImageSource


class StoredViews(Protocol):
    def read(self, job: AuthenticationJob, view: JobView, space: str) -> StoredView | UnusableView:
        """The view of the verdict that `job` supersedes, in an embedding space. Raises RejectJob where it is gone,
        and ServiceUnavailable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagesAgain:
    """Implements ports.ImageSource: `evidence:` and `probe:` where a job supersedes a verdict, all else by `inner`,
    which knows neither, so that no first job can name what others have sent.

    What is gone rejects the job: a verdict is not replaced by one that saw less."""

    inner: ImageSource
    kept: EvidenceStore
    stored: StoredViews

    def fetch(self, job: AuthenticationJob, view: JobView) -> bytes | StoredView | UnusableView:
        """See ports.ImageSource."""
        uri = view.uri or ""
        if job.supersedes is not None and uri.startswith(PROBE):
            return self.stored.read(job, view, uri.removeprefix(PROBE))
        if job.supersedes is not None and uri.startswith(KEPT):
            return self._kept(job, view)
        return self.inner.fetch(job, view)

    def _kept(self, job: AuthenticationJob, view: JobView) -> bytes | UnusableView:
        if view.uri != kept_uri(view.sha256):
            detail = "the URI names another photograph than sha256 does"
            return UnusableView(view=view.view, sha256=view.sha256, code=ViewCode.URI_NOT_ALLOWED, detail=detail)
        data = self.kept.get(job.tenant, view.sha256)
        if data is None:
            raise RejectJob(ErrorCode.EVIDENCE_GONE, f"the photograph of {view.view} is not kept, or no longer")
        return data
