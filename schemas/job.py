"""AuthenticationJob v1: one item, its claimed SKU and its photographs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

Priority = Literal["high", "normal", "bulk"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """One photograph with a role. Exactly one of `uri` and `data` is set; the parser sees to it.

    A record that supersedes a verdict may name by URI what was stored of the view: see `kept_uri` and `probe_uri`.
    """

    view: str
    sha256: str  # lower-case hex, of the image bytes
    uri: str | None = None
    data: bytes | None = field(default=None, repr=False)
    media_type: str | None = None


KEPT, PROBE = "evidence:", "probe:"  # only with `supersedes`


def kept_uri(sha256: str) -> str:
    """The photograph, as it is kept in the evidence store."""
    return KEPT + sha256


def probe_uri(space: str) -> str:
    """What the view's encoder said when the verdict was reached: embedding, deviation, quality; no photograph."""
    return PROBE + space


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthenticationJob:
    """A parsed, valid job. `payload_digest` identifies its content whatever the encoding."""

    job_id: str
    tenant: str
    sku: str
    category: str
    submitted_at: datetime  # aware, UTC
    views: tuple[JobView, ...]
    payload_digest: str  # sha256 hex over the canonical content, see schemas.codec
    deadline: datetime | None = None
    priority: Priority = "normal"
    serial: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    supersedes: int | None = None  # revision of this job's verdict that is to be replaced; None: the job itself

    @property
    def revision(self) -> int:
        """Which verdict of the job this record asks for, from 1."""
        return (self.supersedes or 0) + 1

    @property
    def key(self) -> bytes:
        """The Kafka key of the job and of everything that answers it."""
        return f"{self.tenant}/{self.job_id}".encode()

    @property
    def subject(self) -> str | None:
        """The physical item where the sender names it: label `subject`, else the serial."""
        return self.labels.get("subject") or self.serial
