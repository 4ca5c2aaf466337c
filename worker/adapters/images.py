"""Gets the bytes of a view by the route its URI names, and verifies them: nothing unverified reaches a decoder."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Protocol
from urllib.parse import SplitResult, urlsplit

from schemas.codes import ViewCode
from schemas.job import AuthenticationJob, JobView
from worker.adapters.addresses import Resolve, resolved
from worker.adapters.image_faults import ImageRefused, not_allowed, too_large
from worker.adapters.image_files import FileImages
from worker.adapters.image_https import HttpsImages, HttpsOptions
from worker.adapters.image_s3 import S3Images, S3Options
from worker.core.evidence import UnusableView
from worker.errors import ConfigurationError


class Route(Protocol):
    """One kind of URI."""

    def read(self, uri: SplitResult) -> bytes:
        """At most the allowed bytes. Raises ImageRefused, RetryJob and ServiceUnavailable."""

    def close(self) -> None: ...


class RoutedImages:
    """Implements ports.ImageSource. A route that is not configured is not allowed; inline bytes always are."""

    def __init__(
        self,
        *,
        max_bytes: int,
        file_root: Path | None = None,
        s3: S3Options | None = None,
        https: HttpsOptions | None = None,
        resolve: Resolve = resolved,
        production: bool = False,
    ) -> None:
        if production and https is not None and https.allow_loopback_http_for_tests:
            raise ConfigurationError("allow_loopback_http_for_tests is set: production fetches over https: alone")
        self._max_bytes = max_bytes
        self._routes: dict[str, Route] = {}
        if file_root is not None:
            self._routes["file"] = FileImages(file_root, max_bytes=max_bytes)
        if s3 is not None:
            self._routes["s3"] = S3Images(s3, max_bytes=max_bytes)
        if https is not None:
            self._add_https(HttpsImages(https, max_bytes=max_bytes, resolve=resolve), https)

    def fetch(self, job: AuthenticationJob, view: JobView) -> bytes | UnusableView:
        """See ports.ImageSource."""
        try:
            return self._verified(view, self._bytes_of(view))
        except ImageRefused as refused:
            return UnusableView(view=view.view, sha256=view.sha256, code=refused.code, detail=refused.detail)

    def close(self) -> None:
        for route in {id(route): route for route in self._routes.values()}.values():
            route.close()

    def _add_https(self, route: HttpsImages, options: HttpsOptions) -> None:
        self._routes["https"] = route
        if options.allow_loopback_http_for_tests:
            self._routes["http"] = route

    def _bytes_of(self, view: JobView) -> bytes:
        if view.data is not None:
            return view.data
        try:
            uri = urlsplit(view.uri or "")
        except ValueError as error:
            raise not_allowed("the URI cannot be read") from error
        route = self._routes.get(uri.scheme)
        if route is None:
            allowed = ", ".join(f"{scheme}:" for scheme in self._routes) or "none"
            raise not_allowed(f"{uri.scheme[:20]!a} is no allowed kind of URI here (allowed: {allowed})")
        return route.read(uri)

    def _verified(self, view: JobView, data: bytes) -> bytes:
        if len(data) > self._max_bytes:
            raise too_large(len(data), self._max_bytes)
        if not data:
            raise ImageRefused(ViewCode.TRUNCATED, "the image is empty")
        digest = hashlib.sha256(data).hexdigest()
        if digest != view.sha256:
            raise ImageRefused(ViewCode.DIGEST_MISMATCH, f"the image's sha256 is {digest}, the job says {view.sha256}")
        return data
