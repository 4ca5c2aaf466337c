"""Evidence whose truth is known."""

from __future__ import annotations

from dataclasses import dataclass

from worker.core.evidence import JobEvidence


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledEvidence:
    """One item for score calibration or evaluation. `family` names the kind of forgery where it is known."""

    evidence: JobEvidence
    genuine: bool
    family: str | None = None
