"""Says in words where a verdict's row and its own event disagree: what a person wants to know of a changed row."""

from __future__ import annotations

from datetime import datetime

from schemas.codec import InvalidMessage, decode_verdict
from worker.adapters.audit_rows import SealedRow

COLUMNS = ("verdict", "confidence", "p_genuine", "sku", "category", "tenant", "job_id", "revision", "judged_at")


def differences(found: SealedRow) -> str:
    """ ": verdict is 'authentic', its event says 'counterfeit'"; empty where they agree on what both say."""
    row = found.row
    try:
        event = decode_verdict(found.event, tuple((name, text.encode()) for name, text in row["event_headers"]))
    except (InvalidMessage, ValueError, TypeError, AttributeError):
        return " (its event cannot be read)"
    told = [(name, row[name], getattr(event, name)) for name in COLUMNS]
    other = [f"{name} is {_shown(kept)}, its event says {_shown(said)}" for name, kept, said in told if kept != said]
    return ": " + ", ".join(other) if other else ""


def _shown(value: object) -> str:
    return repr(str(value)) if isinstance(value, str | datetime) else repr(value)
