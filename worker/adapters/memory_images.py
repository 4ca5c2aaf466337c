"""The in-memory twin of ports.ImageSource: a shelf of images by URI, for tests and trials."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from schemas.codes import ViewCode
from schemas.job import AuthenticationJob, JobView
from worker.core.evidence import UnusableView


class MemoryImages:
    """Serves `shelf`: bytes, a permanent fault as its code, or an exception to raise (RetryJob, ServiceUnavailable)."""

    def __init__(self, shelf: Mapping[str, bytes | ViewCode | Exception], *, max_bytes: int = 1 << 24) -> None:
        self.shelf = dict(shelf)
        self._max_bytes = max_bytes

    def fetch(self, job: AuthenticationJob, view: JobView) -> bytes | UnusableView:
        """See ports.ImageSource."""
        found = view.data if view.data is not None else self._found(view.uri or "")
        if isinstance(found, Exception):
            raise found
        answer = found if isinstance(found, ViewCode) else self._verified(view, found)
        if isinstance(answer, ViewCode):
            return UnusableView(view=view.view, sha256=view.sha256, code=answer)
        return answer

    def close(self) -> None:
        """Nothing to close."""

    def _found(self, uri: str) -> bytes | ViewCode | Exception:
        if not uri.startswith("memory:"):
            return ViewCode.URI_NOT_ALLOWED
        return self.shelf.get(uri, ViewCode.NOT_FOUND)

    def _verified(self, view: JobView, data: bytes) -> bytes | ViewCode:
        if len(data) > self._max_bytes:
            return ViewCode.TOO_LARGE
        if not data:
            return ViewCode.TRUNCATED
        return data if hashlib.sha256(data).hexdigest() == view.sha256 else ViewCode.DIGEST_MISMATCH
