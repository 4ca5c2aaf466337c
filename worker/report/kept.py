"""Photographs from the evidence store, for reports: views by their digest, references by the digest of their row."""

from __future__ import annotations

from collections.abc import Mapping

from worker.ports import EvidenceStore


class KeptPhotographs:
    """Implements entry.Photographs. `references` maps a reference id to its owner and the sha256 of its photograph."""

    def __init__(self, evidence: EvidenceStore | None, references: Mapping[str, tuple[str, str]]) -> None:
        self._evidence = evidence
        self._references = references

    def view(self, tenant: str, sha256: str) -> bytes | None:
        return self._evidence.get(tenant, sha256) if self._evidence else None

    def reference(self, tenant: str, reference_id: str) -> bytes | None:
        """The reference may be another tenant's, shared by grant; it is read where its owner keeps it."""
        owner_and_digest = self._references.get(reference_id)
        return self.view(*owner_and_digest) if owner_and_digest else None
