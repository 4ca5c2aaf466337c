"""The jobs of the demo: honest goods, forgeries of every family, and what goes wrong in practice."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from schemas.job import AuthenticationJob, JobView
from worker.cli.submission import build_job
from worker.items import Item

GENUINE, FORGED = 2, 2  # specimens a SKU of the catalogue
UNKNOWN_SKUS = range(80, 82)  # of the held-out range, behind those of the calibration
Truth = Literal["genuine", "counterfeit"]
Change = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One job of the demo. `truth` is known for labelled goods alone; `kind` names what the job is an example of."""

    job: AuthenticationJob
    kind: str
    truth: Truth | None = None
    family: str | None = None
    item: Item | None = None


def labelled_examples(items: Sequence[Item], tenant: str) -> list[Example]:
    """One job an item, with its truth and, for a forgery, its family."""
    return [
        Example(
            job=build_job(item, tenant=tenant),
            kind="forged" if item.label == "counterfeit" else "genuine",
            truth=item.label,
            family=item.meta.get("family") if item.label == "counterfeit" else None,
            item=item,
        )
        for item in items
    ]


def special_examples(genuine: Sequence[Item], unknown: Sequence[Item], enrolled: Item, tenant: str) -> list[Example]:
    """What a counter clerk sends on a bad day. `genuine` has at least four items, none used elsewhere."""
    first, second, third, fourth = (build_job(item, tenant=tenant) for item in genuine[:4])
    made = [
        Example(job=without(first, "logo", "serial"), kind="incomplete"),
        Example(job=with_bytes(second, shortened, "lining"), kind="corrupt view"),
        Example(job=with_bytes(third, garbage), kind="corrupt job"),
        Example(job=reused(fourth, build_job(enrolled, tenant=tenant), "logo"), kind="reused photograph"),
    ]
    return made + [Example(job=build_job(item, tenant=tenant), kind="unknown SKU") for item in unknown]


def resold(example: Example) -> Example:
    """The photographs of another job once more, for an item with another serial."""
    job = dataclasses.replace(example.job, job_id=f"{example.job.job_id}-resold", serial="S999999", payload_digest="")
    return Example(job=job, kind="reused photograph")


def without(job: AuthenticationJob, *views: str) -> AuthenticationJob:
    return dataclasses.replace(job, views=tuple(view for view in job.views if view.view not in views))


def with_bytes(job: AuthenticationJob, change: Change, *roles: str) -> AuthenticationJob:
    """The job with other bytes, and their digest, in the named roles; in all of them where none is named."""
    views = (_changed(view, change) if view.view in roles or not roles else view for view in job.views)
    return dataclasses.replace(job, views=tuple(views))


def shortened(data: bytes) -> bytes:
    """An upload that broke off."""
    return data[: len(data) // 3]


def garbage(data: bytes) -> bytes:
    return hashlib.sha512(data).digest() * 20


def reused(job: AuthenticationJob, other: AuthenticationJob, role: str) -> AuthenticationJob:
    """One view is a photograph that belongs to somebody else."""
    stolen = next(view for view in other.views if view.view == role)
    return dataclasses.replace(job, views=tuple(stolen if view.view == role else view for view in job.views))


def _changed(view: JobView, change: Change) -> JobView:
    data = change(view.data or b"")
    return dataclasses.replace(view, data=data, sha256=hashlib.sha256(data).hexdigest())
