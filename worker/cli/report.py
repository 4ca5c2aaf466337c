"""`assay report`: one job as a self-contained HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import Engine

from schemas.verdict import VerdictEvent
from worker.app import open_evidence
from worker.cli import terminal
from worker.cli.opening import open_database
from worker.cli.stored import calibration_n, find_job, read_event, reference_digests
from worker.errors import AssayError
from worker.ports import EvidenceStore
from worker.report.entry import ReportEntry
from worker.report.kept import KeptPhotographs
from worker.report.page import render_page
from worker.settings import load_settings


def report(
    job: Annotated[str, typer.Argument(help="The job's id.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The HTML file to write.")],
    tenant: terminal.Tenant = None,
) -> None:
    """Write one job's verdict, photographs, maps, nearest references and provenance as one HTML page.

    Photographs come from the evidence store; the page says so where one was not kept.
    """
    settings = load_settings()
    with open_database(settings) as database:
        found = find_job(database, job, tenant=tenant)
        event = read_event(database, found.tenant, found.job_id)
        page = render_page(entry_of(database, open_evidence(settings), event))
    try:
        output.write_text(page, encoding="utf-8")
    except OSError as error:
        raise AssayError(f"{output} cannot be written: {error.strerror}") from error
    terminal.say(f"Wrote {output}")


def entry_of(database: Engine, evidence: EvidenceStore | None, event: VerdictEvent) -> ReportEntry:
    """The report's entry of a verdict, with what Postgres and the evidence store know around it."""
    nearest = [match.reference_id for view in event.views for match in view.references[:1]]
    return ReportEntry(
        outcome=event,
        photographs=KeptPhotographs(evidence, reference_digests(database, nearest)),
        calibration_n=calibration_n(database, event.provenance.calibration_id),
    )
