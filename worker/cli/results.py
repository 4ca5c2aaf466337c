"""`assay results`: what was answered, from Postgres; and what is being answered, from Kafka."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Literal

import typer

from schemas.verdict import Grid, VerdictEvent
from worker.adapters.kafka_follower import KafkaFollower
from worker.adapters.past_verdicts import Flip, read_flips
from worker.cli import terminal
from worker.cli.opening import open_database
from worker.cli.stored import JobLine, find_job, list_jobs, read_event
from worker.cli.submission import Lost, read_reply
from worker.errors import AssayError
from worker.settings import load_settings

app = typer.Typer(no_args_is_help=True, help="See what was answered.")
Limit = Annotated[int, typer.Option(help="Most rows.", min=1, max=10_000)]
VerdictName = Literal["authentic", "counterfeit", "inconclusive"]


@app.command("list")
def list_results(
    tenant: terminal.Tenant = None,
    verdict: Annotated[VerdictName | None, typer.Option(help="Only this verdict.")] = None,
    limit: Limit = 50,
    as_json: terminal.AsJson = False,
) -> None:
    """The latest jobs that have an end, newest first, from Postgres."""
    with open_database(load_settings()) as database:
        lines = list_jobs(database, tenant=tenant, verdict=verdict, limit=limit)
    if as_json:
        terminal.print_json([dataclasses.asdict(line) for line in lines])
        return
    columns = ("ended (UTC)", "tenant", "job", "sku", "verdict", "confidence", "reasons")
    terminal.print_table(columns, [_cells(line) for line in lines], empty="No job has an end yet.")


@app.command()
def show(
    job: Annotated[str, typer.Argument(help="The job's id.")],
    tenant: terminal.Tenant = None,
    as_json: terminal.AsJson = False,
) -> None:
    """One job's verdict, view by view, from Postgres. `assay report` shows it with photographs and maps."""
    with open_database(load_settings()) as database:
        found = find_job(database, job, tenant=tenant)
        if found.state != "judged":
            _show_dead(found, as_json)
            return
        event = read_event(database, found.tenant, found.job_id)
    if as_json:
        terminal.print_json(event_json(event))
    else:
        _show_event(event)


@app.command()
def follow(
    tenant: terminal.Tenant = None,
    from_beginning: Annotated[bool, typer.Option("--from-beginning", help="Begin with the oldest kept.")] = False,
    count: Annotated[int | None, typer.Option(help="End after this many.", min=1)] = None,
    as_json: terminal.AsJson = False,
) -> None:
    """Verdicts and dead letters as they are published, until Ctrl-C. With --json, one object a line."""
    settings = load_settings()
    topics = settings.kafka.topics
    shown = 0
    with KafkaFollower(
        settings.kafka.client_config(), [topics.results, topics.dlq], from_beginning=from_beginning
    ) as follower:
        while count is None or shown < count:
            record = follower.poll(1.0)
            key = (record.key or b"").decode(errors="replace") if record else ""
            if record is None or (tenant is not None and key.partition("/")[0] != tenant):
                continue
            shown += 1
            try:
                _print_reply(key, read_reply(record, topics.dlq), as_json)
            except AssayError as error:  # one record that cannot be read must not end the watch
                terminal.say(str(error))


@app.command()
def flips(
    since: Annotated[datetime, typer.Option(help="Re-evaluated from then on, UTC.")],
    tenant: terminal.Tenant = None,
    limit: Limit = 1000,
    as_json: terminal.AsJson = False,
) -> None:
    """Verdicts that a re-evaluation replaced by another kind of verdict, oldest first, from Postgres."""
    with open_database(load_settings()) as database:
        found = read_flips(database, since=since.replace(tzinfo=UTC), tenant=tenant, limit=limit)
    if as_json:
        terminal.print_json([dataclasses.asdict(flip) for flip in found])
    else:
        print_flips(found)


def print_flips(found: Sequence[Flip]) -> None:
    columns = ("judged (UTC)", "tenant", "job", "sku", "revision", "was", "is", "p was", "p is", "reasons")
    rows = [
        (*(f.judged_at, f.tenant, f.job_id, f.sku, f.revision, f.before, f.after), f.p_genuine_before, f.p_genuine, why)
        for f in found
        for why in [", ".join(f.reasons)]
    ]
    terminal.print_table(columns, rows, empty="No verdict flipped.")


def event_json(event: VerdictEvent) -> dict[str, object]:
    """The event as plain values; maps by their shape, since their cells are for programs."""
    plain = dataclasses.asdict(event)
    for view, told in zip(event.views, plain["views"], strict=True):
        told["attention"], told["deviation_map"] = _shape(view.attention), _shape(view.deviation_map)
    return plain


def _shape(grid: Grid | None) -> list[int] | None:
    return [grid.height, grid.width] if grid else None


def _cells(line: JobLine) -> tuple[object, ...]:
    verdict = line.verdict or "dead letter"
    reasons = line.error_code or ", ".join(line.reasons)
    return (line.ended_at, line.tenant, line.job_id, line.sku, verdict, line.confidence, reasons)


def _show_dead(found: JobLine, as_json: bool) -> None:
    if as_json:
        terminal.print_json(dataclasses.asdict(found))
        return
    terminal.print_facts(
        {"job": found.job_id, "tenant": found.tenant, "dead letter": found.error_code, "ended (UTC)": found.ended_at}
    )
    terminal.say(f"See `assay dlq list --tenant {found.tenant}`.")


def _show_event(event: VerdictEvent) -> None:
    terminal.print_facts(
        {
            "job": event.job_id,
            "tenant": event.tenant,
            "sku": event.sku,
            "verdict": event.verdict.value,
            "confidence": event.confidence,
            "p_genuine": event.p_genuine,
            "missing views": ", ".join(event.missing_views) or None,
            "nearest SKUs": ", ".join(event.nearest_skus) or None,
            "judged (UTC)": event.judged_at,
            "gallery revision": event.provenance.gallery_revision,
            "score calibration": event.provenance.calibration_id,
            "engines": ", ".join(f"{e.name} {e.precision} on {e.backend}" for e in event.provenance.engines) or None,
        }
    )
    reasons = [(reason.code.value, reason.view, reason.detail) for reason in event.reasons]
    terminal.print_table(("reason", "view", "detail"), reasons, empty="No reason was given.")
    views = [
        (v.view, v.unusable_code.value if v.unusable_code else None, v.similarity, v.deviation, v.p_genuine)
        for v in event.views
    ]
    terminal.print_table(("view", "unusable", "similarity", "deviation", "p_genuine"), views, empty="No views.")


def _print_reply(key: str, reply: VerdictEvent | Lost, as_json: bool) -> None:
    if isinstance(reply, Lost):
        told: dict[str, object] = {"job": key, "dead_letter": reply.letter_id, "code": reply.code}
        line = f"{key}  dead letter  {reply.code}: {reply.detail}"
    else:
        told = event_json(reply)
        reasons = ", ".join(dict.fromkeys(reason.code.value for reason in reply.reasons))
        line = f"{key}  {reply.verdict.value}  {terminal.shown(reply.confidence)}  {reply.sku}  {reasons}"
    if as_json:
        terminal.print_json_line(told)
    else:
        typer.echo(terminal.shown(line))
