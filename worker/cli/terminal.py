"""How the commands speak: data on standard output as a table or JSON, everything else on standard error.

Text from jobs is shown without control characters and without markup, so that it cannot rewrite the terminal.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import IO, Annotated
from uuid import UUID

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from worker.report.words import plain

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Tenant = Annotated[str | None, typer.Option(help="Only this tenant.")]


def say(line: str) -> None:
    """A line for the person who runs the command, on standard error."""
    Console(stderr=True, soft_wrap=True).print(Text(plain(line)))


def print_json(data: object) -> None:
    typer.echo(json.dumps(data, indent=2, default=_as_json, ensure_ascii=False))


def print_json_line(data: object, file: IO[str] | None = None) -> None:
    """One JSON object a line, for data that keeps coming; to standard output unless given a file."""
    typer.echo(json.dumps(data, default=_as_json, ensure_ascii=False), file=file)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """A table, or `empty` on standard error where there are no rows."""
    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*(Text(shown(cell)) for cell in row))
    if table.row_count:
        Console(width=None if Console().is_terminal else 240).print(table)
    else:
        say(empty)


def print_facts(facts: Mapping[str, object]) -> None:
    """One fact a line."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in facts.items():
        table.add_row(Text(name, style="bold"), Text(shown(value)))
    Console(width=None if Console().is_terminal else 240).print(table)


def shown(value: object) -> str:
    match value:
        case None:
            return "—"
        case float():
            return f"{value:.3f}"
        case datetime():
            return value.strftime("%Y-%m-%d %H:%M:%S")
        case _:
            return plain(value)


def progress() -> Progress:
    """A bar for long work; nothing where standard error is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)


def _as_json(value: object) -> object:
    match value:
        case datetime():
            return value.isoformat()
        case UUID():
            return str(value)
        case Enum():
            return value.value
        case bytes():
            return value.hex()
        case frozenset() | set():
            return sorted(value)
        case _:
            raise TypeError(f"{type(value).__name__} has no JSON form here")
