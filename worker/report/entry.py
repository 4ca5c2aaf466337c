"""What a report is made of: a job's verdict or its dead letter, and where its photographs are kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

from schemas.codes import ErrorCode
from schemas.verdict import VerdictEvent


class Photographs(Protocol):
    """The kept bytes of photographs. None: not kept, and the report says so."""

    def view(self, tenant: str, sha256: str) -> bytes | None: ...

    def reference(self, tenant: str, reference_id: str) -> bytes | None: ...


class NoPhotographs:
    """Nothing was kept."""

    def view(self, tenant: str, sha256: str) -> bytes | None:
        return None

    def reference(self, tenant: str, reference_id: str) -> bytes | None:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadEnd:
    """A job that became a dead letter instead of a verdict."""

    job_id: str
    tenant: str
    sku: str
    code: ErrorCode
    detail: str


Truth = Literal["genuine", "counterfeit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportEntry:
    """One job of a report. `truth` and `note` (what the job is an example of) are known in a demo only.

    `calibration_n` is the number of conformal calibration items behind the verdict, where it is known.
    """

    outcome: VerdictEvent | DeadEnd
    photographs: Photographs = field(default_factory=NoPhotographs)
    truth: Truth | None = None
    note: str = ""
    calibration_n: int | None = None
