"""`assay devstack`: Kafka, PostgreSQL with pgvector and Redis on this machine, without Docker."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from devstack import Addresses, Devstack, DevstackError, default_state_dir

app = typer.Typer(no_args_is_help=True, help="Run Kafka, PostgreSQL with pgvector and Redis on this machine.")
StateDir = Annotated[
    Path | None,
    typer.Option(
        help="Where data, logs and passwords lie. Default: $ASSAY_DEVSTACK, else .devstack in the repository."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, with passwords.")]


@app.command()
def up(state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """Start what is not running, and leave it running until `down`."""
    with _explained():
        stack = _stack(state_dir)
        addresses = stack.up()
        _print_json(stack, addresses) if as_json else _print_table(stack, addresses)


@app.command()
def down(state_dir: StateDir = None) -> None:
    """Stop the services; their data and logs stay."""
    with _explained():
        _stack(state_dir).down()


@app.command()
def status(state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """Show what runs and where. Exits 0 when everything is up, 3 when something is not."""
    with _explained():
        stack = _stack(state_dir)
        addresses = stack.addresses()
        _print_json(stack, addresses) if as_json else _print_table(stack, addresses)
    if addresses is None and not as_json:
        raise typer.Exit(3)


@app.command()
def reset(
    state_dir: StateDir = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Stop the services and delete their data and logs."""
    with _explained():
        stack = _stack(state_dir)
        if not yes:
            typer.confirm(f"Delete all data under {stack.state_dir}?", abort=True)
        stack.reset()


def _stack(state_dir: Path | None) -> Devstack:
    errors = Console(stderr=True)
    return Devstack(state_dir or default_state_dir(), report=lambda line: errors.print(line, highlight=False))


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Turn an expected failure into its message and exit code 1."""
    try:
        yield
    except DevstackError as error:
        typer.echo(f"devstack: {error}", err=True)
        raise typer.Exit(1) from error


def _print_json(stack: Devstack, addresses: Addresses | None) -> None:
    told = {
        "state_dir": str(stack.state_dir),
        "services": [dataclasses.asdict(one) for one in stack.status()],
        "addresses": dataclasses.asdict(addresses) if addresses else None,
    }
    typer.echo(json.dumps(told, indent=2))


def _print_table(stack: Devstack, addresses: Addresses | None) -> None:
    table = Table("service", "state", "process", "address", "note")
    for one in stack.status():
        table.add_row(one.name, one.state, str(one.pid or ""), one.address or "", one.note)
    console = Console()
    console.print(table)
    if addresses:
        console.print(f"Logs: {stack.state_dir / 'logs'}. URLs with their passwords: assay devstack status --json")


if __name__ == "__main__":
    app()
