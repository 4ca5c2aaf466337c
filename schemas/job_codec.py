"""AuthenticationJob v1 to and from a plain record: types first, then the rules of the contract."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import cast, get_args

from schemas.canonical import payload_digest
from schemas.codes import ErrorCode
from schemas.fields import Fields
from schemas.invalid import InvalidMessage, broken_rule, shown
from schemas.job import AuthenticationJob, JobView, Priority

MAX_VIEWS = 24
MAX_LABELS = 32
MAX_REVISION = 2**31 - 2
PRIORITIES = get_args(Priority)

TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
JOB_ID = re.compile(r"[!-~]{1,128}", re.ASCII)
URI = re.compile(r"[!-~]{1,2048}", re.ASCII)
SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
# C0 and C1 controls, line separators and lone surrogates: no name needs them, and stores and terminals choke on them
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def job_from(fields: Fields) -> AuthenticationJob:
    """A valid job. Raises InvalidMessage."""
    return checked_job(
        job_id=fields.text("job_id"),
        tenant=fields.text("tenant"),
        sku=fields.text("sku"),
        category=fields.text("category"),
        submitted_at=fields.instant("submitted_at"),
        deadline=fields.optional_instant("deadline"),
        priority=fields.optional_text("priority") or "normal",
        serial=fields.optional_text("serial"),
        labels=fields.text_map("labels"),
        supersedes=fields.optional_integer("supersedes"),
        views=_views_from(fields),
    )


def checked_job(
    *,
    job_id: str,
    tenant: str,
    sku: str,
    category: str,
    submitted_at: datetime,
    views: Sequence[JobView],
    deadline: datetime | None = None,
    priority: str = "normal",
    serial: str | None = None,
    labels: Mapping[str, str] | None = None,
    supersedes: int | None = None,
) -> AuthenticationJob:
    """A job with its payload digest, after every rule of the contract. For producers too. Raises InvalidMessage."""
    check_ids(tenant, job_id)
    _check_text("sku", sku, 128)
    _check_text("category", category, 64)
    if serial is not None:
        _check_text("serial", serial, 256)
    _check_labels(labels or {})
    _check_times(submitted_at, deadline)
    if priority not in PRIORITIES:
        raise broken_rule(f"priority is {shown(priority)}: it must be one of {', '.join(PRIORITIES)}")
    if supersedes is not None and not 1 <= supersedes <= MAX_REVISION:
        raise broken_rule(f"supersedes is {supersedes}: it must be the revision of a verdict, from 1")
    _check_views(views)
    digest = payload_digest(
        tenant=tenant, job_id=job_id, sku=sku, category=category, views=views, serial=serial, labels=labels
    )
    return AuthenticationJob(
        job_id=job_id,
        tenant=tenant,
        sku=sku,
        category=category,
        submitted_at=submitted_at,
        views=tuple(views),
        payload_digest=digest,
        deadline=deadline,
        priority=cast(Priority, priority),
        serial=serial,
        labels=dict(labels or {}),
        supersedes=supersedes,
    )


def check_ids(tenant: str, job_id: str) -> None:
    """Raises InvalidMessage (invalid_job)."""
    if not TENANT.fullmatch(tenant):
        raise broken_rule(f"tenant is {shown(tenant)}: 1 to 64 of A-Z a-z 0-9 . _ -, beginning with a letter or digit")
    if not JOB_ID.fullmatch(job_id):
        raise broken_rule(f"job_id is {shown(job_id)}: 1 to 128 visible ASCII characters")


def job_record(job: AuthenticationJob) -> dict[str, object]:
    """The record that Avro encodes."""
    return {
        "job_id": job.job_id,
        "tenant": job.tenant,
        "sku": job.sku,
        "category": job.category,
        "submitted_at": job.submitted_at,
        "deadline": job.deadline,
        "priority": job.priority,
        "serial": job.serial,
        "labels": dict(sorted(job.labels.items())),
        "views": [_view_record(view) for view in job.views],
        "supersedes": job.supersedes,
    }


def job_json(job: AuthenticationJob) -> dict[str, object]:
    """The record that JSON encodes: what is absent is left out."""
    record = job_record(job)
    record["views"] = [_view_json(view) for view in job.views]
    return _present(record)


def _view_record(view: JobView) -> dict[str, object]:
    return {"view": view.view, "sha256": view.sha256, "image": _image_record(view), "media_type": view.media_type}


def _view_json(view: JobView) -> dict[str, object]:
    return _present(_view_record(view) | {"image": _present(_image_record(view))})


def _image_record(view: JobView) -> dict[str, object]:
    return {"uri": view.uri, "bytes": view.data}


def _present(record: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in record.items() if value is not None}


def _views_from(fields: Fields) -> tuple[JobView, ...]:
    count = len(fields.items("views"))
    if count > MAX_VIEWS:
        raise InvalidMessage(ErrorCode.TOO_MANY_VIEWS, f"the job has {count} views: send at most {MAX_VIEWS}")
    return tuple(_view_from(view) for view in fields.records("views"))


def _view_from(fields: Fields) -> JobView:
    uri, data = _image_from(fields)
    return JobView(
        view=fields.text("view"),
        sha256=fields.text("sha256"),
        uri=uri,
        data=data,
        media_type=fields.optional_text("media_type"),
    )


def _image_from(fields: Fields) -> tuple[str | None, bytes | None]:
    image = fields.record_at("image")
    if image.absent("uri") == image.absent("bytes"):
        raise broken_rule(f"{fields.path}image has both uri and bytes, or neither: send exactly one")
    return image.optional_text("uri"), None if image.absent("bytes") else image.binary("bytes")


def _check_views(views: Sequence[JobView]) -> None:
    if not views:
        raise InvalidMessage(ErrorCode.NO_VIEWS, "the job has no views: send at least one photograph")
    if len(views) > MAX_VIEWS:
        raise InvalidMessage(ErrorCode.TOO_MANY_VIEWS, f"the job has {len(views)} views: send at most {MAX_VIEWS}")
    for index, view in enumerate(views):
        _check_view(f"views[{index}]", view)
    roles = [view.view for view in views]
    twice = sorted({role for role in roles if roles.count(role) > 1})
    if twice:
        raise InvalidMessage(ErrorCode.DUPLICATE_VIEWS, f"the view {shown(twice[0])} stands twice: send each role once")


def _check_view(path: str, view: JobView) -> None:
    _check_text(f"{path}.view", view.view, 64)
    if not SHA256.fullmatch(view.sha256):
        raise broken_rule(f"{path}.sha256 is {shown(view.sha256)}: 64 lower-case hexadecimal digits")
    if (view.uri is None) == (view.data is None):
        raise broken_rule(f"{path}.image has both uri and bytes, or neither: send exactly one")
    if view.uri is not None and not URI.fullmatch(view.uri):
        raise broken_rule(f"{path}.image.uri is not 1 to 2048 visible ASCII characters: percent-encode it")
    if view.data is not None and not view.data:
        raise broken_rule(f"{path}.image.bytes is empty: send the photograph or its uri")
    if view.media_type is not None:
        _check_text(f"{path}.media_type", view.media_type, 127)


def _check_text(name: str, value: str, limit: int, *, empty: bool = False) -> None:
    if not value and not empty:
        raise broken_rule(f"{name} is empty: it needs 1 to {limit} characters")
    if len(value) > limit:
        raise broken_rule(f"{name} has {len(value)} characters: at most {limit}")
    if CONTROL.search(value):
        raise broken_rule(f"{name} is {shown(value)}: remove the control characters")


def _check_labels(labels: Mapping[str, str]) -> None:
    if len(labels) > MAX_LABELS:
        raise broken_rule(f"the job has {len(labels)} labels: at most {MAX_LABELS}")
    for name, value in labels.items():
        _check_text("a label's name", name, 64)
        _check_text(f"labels[{shown(name)}]", value, 256, empty=True)


def _check_times(submitted_at: datetime, deadline: datetime | None) -> None:
    if submitted_at.tzinfo is None or (deadline is not None and deadline.tzinfo is None):
        raise broken_rule("submitted_at and deadline need a time zone")
    if deadline is not None and deadline < submitted_at:
        raise broken_rule(f"deadline {deadline.isoformat()} is before submitted_at {submitted_at.isoformat()}")
