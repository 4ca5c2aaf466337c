"""The `assay` command: one module a command or a group of commands, imported when it is asked for."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from worker.errors import EXIT_CONFIGURATION, AssayError, ConfigurationError, Fatal

COMMANDS: Final = {  # in the order of the help: what is in worker.cli
    "devstack": "devstack.app",
    "migrate": "migrate.app",
    "topics": "topics.app",
    "enroll": "enroll.app",
    "results": "results.app",
    "dlq": "dlq.app",
    "schema": "schema.app",
    "evidence": "evidence.app",
    "audit": "audit.app",
    "engine": "engine.engine_app",
    "worker": "worker.worker",
    "watch": "watch.watch",
    "calibrate": "calibrate.calibrate",
    "submit": "submit.submit",
    "reevaluate": "reevaluate.reevaluate",
    "report": "report.report",
    "review": "review.review",
    "erase": "erase.erase",
    "doctor": "doctor.doctor",
}


class Commands(TyperGroup):
    """A command waits for its own imports alone: all of them take three times as long as most need. The context is of a
    click that typer keeps to itself."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(".")
        found = getattr(import_module(f"worker.cli.{module}"), name)
        holder = typer.Typer()
        if isinstance(found, typer.Typer):
            holder.add_typer(found, name=cmd_name)
        else:
            holder.command(cmd_name)(found)
        return typer.main.get_group(holder).commands[cmd_name]


app = typer.Typer(name="assay", cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False)


def _version(wanted: bool) -> None:
    if wanted:
        try:
            typer.echo(f"assay {version('assay-worker')}")
        except PackageNotFoundError:
            typer.echo("assay, from a folder that is not installed")
        raise typer.Exit


@app.callback()
def assay(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Authenticate goods from photographs: jobs from Kafka in, verdicts out."""


def main() -> None:
    """Run a command. A wrong setting or a missing service is one line on standard error, never a stack trace."""
    try:
        app()
    except Fatal as error:
        _say(error)
        sys.exit(error.exit_code)
    except ConfigurationError as error:
        _say(error)
        sys.exit(EXIT_CONFIGURATION)
    except AssayError as error:
        _say(error)
        sys.exit(2)


def _say(error: Exception) -> None:
    Console(stderr=True, soft_wrap=True).print(Text.assemble(("assay:", "bold red"), " ", str(error)))


if __name__ == "__main__":
    main()
