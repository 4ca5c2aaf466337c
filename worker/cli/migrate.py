"""`assay migrate`: bring the database's tables, roles and views to what this build wants, and make partitions ahead."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated

import typer
from alembic.util.exc import CommandError
from sqlalchemy.exc import DBAPIError

from migrations import apply
from migrations.partitions import drop_month
from worker.cli import terminal
from worker.errors import AssayError
from worker.settings import load_settings

app = typer.Typer(no_args_is_help=True, help="Make and change the database's tables, roles, views and partitions.")
Url = Annotated[
    str | None,
    typer.Option(help="Database to migrate, as a role that may: a superuser, or assay_migrator once the roles stand."),
]
Months = Annotated[int, typer.Option(help="Months of partitions to have ahead.", min=0, max=24)]


@app.command()
def up(url: Url = None, revision: str = "head", months: Months = 3) -> None:
    """Upgrade to a revision (head: the newest) and make the partitions. Safe to run again, and by many at once."""
    with _plain_errors():
        apply.upgrade(_url(url), revision, months=months)
    terminal.say(f"The database is at revision {_current(url)}.")


@app.command()
def down(
    revision: Annotated[str, typer.Argument(help="Revision to go back to; base drops every table.")],
    url: Url = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Go back to a revision. What later revisions brought is dropped, with its data."""
    if not yes:
        typer.confirm(f"Drop everything that came after revision {revision}, with its data?", abort=True)
    with _plain_errors():
        apply.downgrade(_url(url), revision)
    terminal.say(f"The database is at revision {_current(url)}.")


@app.command()
def status(url: Url = None, as_json: terminal.AsJson = False) -> None:
    """Say which revision the database is at and which this build wants. Exits 1 where they differ."""
    facts = {"database": _current(url), "build": apply.newest()}
    if as_json:
        terminal.print_json(facts)
    else:
        terminal.print_facts(facts)
    if facts["database"] != facts["build"]:
        raise typer.Exit(1)


@app.command()
def check(url: Url = None) -> None:
    """Compare the database with the tables that this build knows. Exits 2 and names what differs."""
    with _plain_errors():
        apply.check(_url(url))
    terminal.say("The database is as the tables say.")


@app.command()
def partitions(url: Url = None, months: Months = 3, as_json: terminal.AsJson = False) -> None:
    """Make the monthly partitions of this month and the next ones. Run it monthly; safe to run again."""
    with _plain_errors():
        made = apply.make_partitions(_url(url), months=months)
    if as_json:
        terminal.print_json(made)
    else:
        terminal.print_table(("made",), [(name,) for name in made], empty="Every partition stands.")


@app.command()
def drop(
    month: Annotated[str, typer.Argument(help="Month to drop, such as 2026-01 (UTC).")],
    by: Annotated[str, typer.Option(help="Who drops it; kept in the audit ledger.")],
    why: Annotated[str, typer.Option(help="On what grounds; kept in the audit ledger.")],
    url: Url = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Drop a month's verdicts with their views and maps. The audit ledger records how many went, and why."""
    if not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", month):
        raise AssayError(f"{month!r} is no month: write it as 2026-01")
    if not yes:
        typer.confirm(f"Drop all verdicts of {month}?", abort=True)
    start = datetime.fromisoformat(f"{month}-01T00:00:00+00:00")
    try:
        with _plain_errors():
            gone = drop_month(_url(url), start, by=by, why=why)
    except ValueError as error:
        raise AssayError(str(error)) from error
    terminal.say(f"Dropped {sum(gone.values())} verdicts of {len(gone)} tenants.")


def _url(url: str | None) -> str:
    return url or load_settings().database.url.get_secret_value()


def _current(url: str | None) -> str | None:
    with _plain_errors():
        return apply.current(_url(url))


@contextmanager
def _plain_errors() -> Iterator[None]:
    """What the database or alembic refuses becomes one line. Raises AssayError."""
    try:
        yield
    except DBAPIError as error:
        words = str(error.orig).strip().partition("\n")[0]
        raise AssayError(f"the migration was refused: {words} (use --url with a role that may migrate)") from error
    except CommandError as error:
        raise AssayError(f"the migration was refused: {error}") from error
