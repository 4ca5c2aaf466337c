"""How an image route says that an image cannot be had for good; transient faults are worker.errors."""

from __future__ import annotations

from schemas.codes import ViewCode
from worker.errors import RetryJob


class ImageRefused(Exception):
    """The view is unusable. `detail` never holds a whole URI: a query may be a signature."""

    def __init__(self, code: ViewCode, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


def not_allowed(detail: str) -> ImageRefused:
    return ImageRefused(ViewCode.URI_NOT_ALLOWED, detail)


def too_large(size: int | None, limit: int) -> ImageRefused:
    has = "more bytes" if size is None else f"{size} bytes"
    return ImageRefused(ViewCode.TOO_LARGE, f"the image has {has} than may be: at most {limit}")


def try_later(detail: str) -> RetryJob:
    return RetryJob("fetch", detail)
