"""The `assay` command: mounts one module a group of commands."""

from __future__ import annotations

import sys

import typer
from rich.console import Console
from rich.text import Text

from worker.cli import (
    audit,
    calibrate,
    devstack,
    dlq,
    doctor,
    engine,
    enroll,
    erase,
    evidence,
    migrate,
    reevaluate,
    report,
    results,
    review,
    schema,
    submit,
    topics,
    watch,
    worker,
)
from worker.errors import EXIT_CONFIGURATION, AssayError, ConfigurationError, Fatal

app = typer.Typer(
    name="assay",
    help="Authenticate goods from photographs: jobs from Kafka in, verdicts out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(devstack.app, name="devstack")
app.add_typer(migrate.app, name="migrate")
app.add_typer(topics.app, name="topics")
app.add_typer(enroll.app, name="enroll")
app.add_typer(results.app, name="results")
app.add_typer(dlq.app, name="dlq")
app.add_typer(schema.app, name="schema")
app.add_typer(evidence.app, name="evidence")
app.add_typer(audit.app, name="audit")
app.add_typer(engine.engine_app, name="engine")
app.command("worker")(worker.worker)
app.command("watch")(watch.watch)
app.command("calibrate")(calibrate.calibrate)
app.command("submit")(submit.submit)
app.command("reevaluate")(reevaluate.reevaluate)
app.command("report")(report.report)
app.command("review")(review.review)
app.command("erase")(erase.erase)
app.command("doctor")(doctor.doctor)


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
