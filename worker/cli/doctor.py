"""`assay doctor`: whether a worker can run here, with the settings as they are, and what to mend where it cannot."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated

import typer

from worker.cli import terminal
from worker.cli.doctor_engines import engine_findings
from worker.cli.doctor_machine import machine_findings
from worker.cli.doctor_plans import plan_findings
from worker.cli.doctor_services import database_findings, kafka_findings, redis_finding
from worker.cli.findings import Finding, fail, ok, without_secrets
from worker.errors import ConfigurationError
from worker.settings import Settings, load_settings


def doctor(
    load: Annotated[bool, typer.Option("--load", help="Load the engines too and run their golden images.")] = False,
    as_json: terminal.AsJson = False,
) -> None:
    """Look at this machine, the libraries, the engines and the services, and print the fix of whatever is not well.

    Exits 0 where a worker can run here, 1 where it cannot. Changes nothing and prints no secret.
    """
    try:
        settings = load_settings()
    except ConfigurationError as error:
        findings = [fail("settings", "settings", str(error), "correct them; docs/operations.md lists all")]
    else:
        findings = list(without_secrets(_looked(settings, load=load), settings))
    can_run = all(finding.state != "fail" for finding in findings)
    if as_json:
        terminal.print_json({"can_run": can_run, "findings": [asdict(finding) for finding in findings]})
    else:
        rows = [(f.state, f.area, f.what, f.found, f.fix) for f in findings]
        terminal.print_table(("state", "area", "what", "found", "fix"), rows, empty="")
        terminal.say("A worker can run here." if can_run else "No worker can run here: mend the lines that fail.")
    if not can_run:
        raise typer.Exit(1)


def _looked(settings: Settings, *, load: bool) -> Iterator[Finding]:
    yield ok("settings", "mode", f"{settings.mode}, build {settings.build}")
    yield from machine_findings(settings)
    findings, engines = engine_findings(settings, load=load)
    yield from findings
    yield from plan_findings(settings, engines)
    yield from kafka_findings(settings)
    yield from database_findings(settings, engines)
    yield redis_finding(settings)
