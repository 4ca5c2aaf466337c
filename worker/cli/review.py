"""`assay review`: what a person found. It is appended and never alters a verdict."""

from __future__ import annotations

from typing import Annotated, Literal

import typer
from sqlalchemy import Engine, insert, select

from migrations.tables import jobs, reviews
from worker.adapters.database import retrying
from worker.cli import terminal
from worker.cli.opening import open_database
from worker.cli.stored import find_job
from worker.errors import AssayError
from worker.settings import load_settings


def review(
    job: Annotated[str, typer.Argument(help="The job's id.")],
    decision: Annotated[Literal["genuine", "counterfeit"], typer.Option(help="What the person found.")],
    by: Annotated[str, typer.Option(help="Who decided.")],
    why: Annotated[str, typer.Option(help="On what grounds.")],
    tenant: terminal.Tenant = None,
) -> None:
    """Append a person's finding on one job. It feeds `assay calibrate` and the view analyst.error_rates.

    Needs a database role that may add reviews, such as assay_curator.
    """
    if not by.strip() or not why.strip():
        raise AssayError("--by and --why must say who decided and on what grounds; neither may be empty")
    with open_database(load_settings()) as database:
        found = find_job(database, job, tenant=tenant)
        if found.state != "judged":
            raise AssayError(f"job {job!r} is a dead letter ({found.error_code}); there is no verdict to review")
        add_review(database, tenant=found.tenant, job_id=found.job_id, decision=decision, by=by, why=why)
    terminal.say(f"Recorded: {job} is {decision}, says {by}. The verdict stays as it is ({found.verdict}).")


def add_review(database: Engine, *, tenant: str, job_id: str, decision: str, by: str, why: str) -> None:
    """Append one review of the verdict that the job points at now."""
    result_id = select(jobs.c.result_id).where(jobs.c.tenant == tenant, jobs.c.job_id == job_id).scalar_subquery()
    row = insert(reviews).values(tenant=tenant, job_id=job_id, result_id=result_id, decision=decision, by=by, why=why)

    def write() -> None:
        with database.begin() as connection:
            connection.execute(row)

    retrying(write)
