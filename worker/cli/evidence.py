"""`assay evidence`: the photographs that were kept."""

from __future__ import annotations

from datetime import UTC, datetime

import typer

from worker.adapters.evidence_files import FileEvidence, S3Evidence
from worker.app import open_evidence
from worker.cli import terminal
from worker.settings import load_settings

app = typer.Typer(no_args_is_help=True, help="The photographs that were kept for reports and re-evaluation.")


@app.callback()
def evidence() -> None:
    """Keeps `sweep` a command of its own."""


@app.command()
def sweep() -> None:
    """Delete what is older than evidence.retention_days. Run it daily, from cron or a Kubernetes CronJob."""
    settings = load_settings()
    store = open_evidence(settings)
    if not isinstance(store, FileEvidence | S3Evidence):
        terminal.say("evidence.keep is off: nothing is kept")
        return
    days = settings.evidence.retention_days
    terminal.say(f"Deleted {store.sweep(datetime.now(UTC), retention_days=days)} photographs older than {days} days")
