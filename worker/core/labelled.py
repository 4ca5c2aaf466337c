"""Evidence whose truth is known."""

from __future__ import annotations

from dataclasses import dataclass

from worker.core.evidence import JobEvidence


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledEvidence:
    """One item for score calibration or evaluation. `family` names the kind of forgery where it is known, and
    `forged_views` the views that show it (None: not known, each of a counterfeit's views counts as forged)."""

    evidence: JobEvidence
    genuine: bool
    family: str | None = None
    forged_views: frozenset[str] | None = None

    def shows_genuine(self, view: str) -> bool:
        """Whether this view alone is that of a genuine item: a forger leaves most details as they were."""
        return self.genuine or (self.forged_views is not None and view not in self.forged_views)
