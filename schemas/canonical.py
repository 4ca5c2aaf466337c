"""Canonical JSON, timestamps and the digest of a job's content: the same value always makes the same bytes."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from schemas.invalid import broken_rule, shown
from schemas.job import JobView

RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)?", re.ASCII)


def instant_text(instant: datetime) -> str:
    """UTC with microseconds and a Z. `instant` must be aware."""
    if instant.tzinfo is None:
        raise ValueError(f"{instant!r} has no time zone: use an aware datetime")
    return instant.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def parse_instant(text: str, *, name: str) -> datetime:
    """An RFC 3339 timestamp as aware UTC, cut to microseconds. Raises InvalidMessage (invalid_job)."""
    match = RFC3339.fullmatch(text)
    if match is None:
        raise broken_rule(f"{name} is {shown(text)}: write RFC 3339, such as 2026-01-31T12:00:00Z")
    if match[2] is None:
        raise broken_rule(f"{name} is {shown(text)}, without a time zone: end it with Z or an offset")
    try:
        return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise broken_rule(f"{name} is {shown(text)}: no such moment ({error})") from error


def canonical_json(value: object) -> bytes:
    """Sorted names, no spaces, UTF-8; bytes as base64, datetimes as UTC with Z. Raises ValueError for NaN."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_json_value
    )
    return text.encode()


def _json_value(value: object) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, datetime):
        return instant_text(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def payload_digest(
    *,
    tenant: str,
    job_id: str,
    sku: str,
    category: str,
    views: Iterable[JobView],
    serial: str | None = None,
    labels: Mapping[str, str] | None = None,
) -> str:
    """Sha256 hex over what a job says, the same for Avro and JSON and for any order of views and labels.

    Left out: submitted_at, deadline and priority (when, not what), and how an image travels: its sha256 stands for it.
    """
    photographs = sorted((view.view, view.sha256, view.media_type) for view in views)
    content = ["assay.job.v1", tenant, job_id, sku, category, serial, dict(labels or {}), photographs]
    return hashlib.sha256(canonical_json(content)).hexdigest()
