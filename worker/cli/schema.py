"""`assay schema`: print the contract's schema files."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from schemas import published
from worker.errors import AssayError

app = typer.Typer(no_args_is_help=True, help="Print the contract's schemas.")
Message = Literal["job", "verdict", "deadletter", "alert"]
FILES = {"avro": "{}.v1.avsc", "json": "{}.v1.schema.json"}


@app.callback()
def schema() -> None:
    """Print the contract's schemas."""


@app.command("print")
def print_schema(
    message: Annotated[Message, typer.Argument(help="Which message.")],
    schema_format: Annotated[
        Literal["avro", "json"] | None,
        typer.Option("--format", help="Avro schema, or JSON Schema. Default: Avro where there is one."),
    ] = None,
) -> None:
    """Print one schema as it is published. A dead letter keeps its job's own bytes, so it has a JSON Schema only."""
    wanted = [schema_format] if schema_format else list(FILES)
    found = [name for one in wanted if (name := FILES[one].format(message)) in published.names()]
    if not found:
        raise AssayError(f"there is no {schema_format} schema of {message}: use --format json")
    typer.echo(published.text(found[0]), nl=False)
