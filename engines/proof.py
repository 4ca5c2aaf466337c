"""What a release says of its engine's accuracy, under the same signature: the bounds that `assay engine evaluate`
measured, and the digest of its report; or why there is none. Pure; engines.gate judges it."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any, Final

_SHA256 = re.compile(r"[0-9a-f]{64}")
_LONGEST: Final = 300


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """One bound of the gate; `found` None was not measured, `told` says of how much. Raises ValueError for what is no
    number."""

    name: str
    found: float | None
    limit: float
    at_most: bool
    told: str = ""

    def __post_init__(self) -> None:
        if not math.isfinite(self.limit) or (self.found is not None and not math.isfinite(self.found)):
            raise ValueError(f"bound {self.name}: {self.found} and {self.limit} are no numbers")

    @property
    def holds(self) -> bool:
        if self.found is None:
            return False
        return self.found <= self.limit if self.at_most else self.found >= self.limit

    def __str__(self) -> str:
        found = "not measured" if self.found is None else f"{self.found:.5f}"
        return f"{self.name} {found} (at {'most' if self.at_most else 'least'} {self.limit:g})"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """`report_sha256` and `fp32_sha256` name the report's bytes and the original's graph, "" where there is no report;
    `without` is why the engine is published although no report proves it. Raises ValueError for neither."""

    report_sha256: str = ""
    fp32_sha256: str = ""
    bounds: tuple[Bound, ...] = ()
    without: str = ""

    def __post_init__(self) -> None:
        if not self.report_sha256 and not self.without:
            raise ValueError("neither a report nor why there is none")
        for digest in (self.report_sha256, self.fp32_sha256):
            if digest and not _SHA256.fullmatch(digest):
                raise ValueError(f"{digest!r} is no SHA-256")


def proof_fields(proof: Proof) -> dict[str, Any]:
    """The JSON fields of a proof; proof_from reads them."""
    return {**dataclasses.asdict(proof), "bounds": [dataclasses.asdict(bound) for bound in proof.bounds]}


def proof_from(fields: Any) -> Proof:
    """Parse strictly; any departure raises ValueError, TypeError or KeyError."""
    _exactly(fields, Proof)
    texts = {name: _text(fields[name]) for name in ("report_sha256", "fp32_sha256", "without")}
    return Proof(**texts, bounds=tuple(bound_from(bound) for bound in fields["bounds"]))


def bound_from(fields: Any) -> Bound:
    """Of a proof or of a report's check, which holds `holds` as well. Raises as proof_from."""
    given = {name: value for name, value in fields.items() if name != "holds"}
    _exactly(given, Bound)
    if not isinstance(given["at_most"], bool):
        raise TypeError(f"at_most is {given['at_most']!r}")
    return Bound(
        name=_text(given["name"]),
        found=None if given["found"] is None else float(given["found"]),
        limit=float(given["limit"]),
        at_most=given["at_most"],
        told=_text(given["told"])[:_LONGEST],
    )


def _exactly(fields: Any, kind: type) -> None:
    wanted = {field.name for field in dataclasses.fields(kind)}
    if not isinstance(fields, dict) or fields.keys() != wanted:
        found = sorted(fields) if isinstance(fields, dict) else fields
        raise ValueError(f"a {kind.__name__.lower()} has {sorted(wanted)}, not {found}")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value
