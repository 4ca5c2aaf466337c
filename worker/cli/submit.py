"""`assay submit`: send items to be judged, and wait for what comes back where asked."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from schemas.codec import Encoding
from schemas.job import AuthenticationJob, Priority
from schemas.verdict import VerdictEvent
from worker.cli import terminal
from worker.cli.submission import Answers, Lost, Reply, Transport, build_job, submit_jobs
from worker.items import read_items
from worker.settings import Settings, load_settings

UNANSWERED = 1


def submit(
    path: Annotated[Path, typer.Argument(help="A folder (SKU/view.jpg, SKU/specimen/view.jpg) or a JSONL manifest.")],
    tenant: Annotated[str, typer.Option(help="Who asks.")] = "demo",
    category: Annotated[str | None, typer.Option(help="Category of items that name none.")] = None,
    inline: Annotated[
        bool | None,
        typer.Option("--inline/--uri", help="Send bytes in the job, or file: URIs. Default: bytes up to 8 MiB."),
    ] = None,
    encoding: Annotated[Encoding, typer.Option(help="Encoding of the jobs.")] = "avro",
    priority: Annotated[Priority, typer.Option(help="Which lane the jobs take.")] = "normal",
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the answers and print them.")] = False,
    timeout: Annotated[float, typer.Option(help="Longest wait for answers, in seconds.", min=0)] = 300.0,
    as_json: terminal.AsJson = False,
) -> None:
    """Send every item of PATH as one job, and print the job ids once Kafka has confirmed them.

    With --wait, follows the results until each job is answered, and exits 1 when some are not in time.
    """
    settings = load_settings()
    transport: Transport = "auto" if inline is None else ("inline" if inline else "uri")
    jobs = [
        build_job(
            item,
            tenant=tenant,
            transport=transport,
            encoding=encoding,
            file_root=settings.images.file_root,
            priority=priority,
        )
        for item in read_items(path, category=category)
    ]
    with _answers(settings, wait) as answers:
        _send(settings, jobs, encoding)
        if answers is None:
            _print_ids(jobs, as_json)
            return
        _print_replies(jobs, _collect(answers, jobs, timeout), as_json)


@contextlib.contextmanager
def _answers(settings: Settings, wanted: bool) -> Iterator[Answers | None]:
    """Opened before anything is sent, so that no answer is missed."""
    answers = Answers(settings.kafka.client_config(), settings.kafka.topics) if wanted else None
    try:
        yield answers
    finally:
        if answers is not None:
            answers.close()


def _send(settings: Settings, jobs: Sequence[AuthenticationJob], encoding: Encoding) -> None:
    with terminal.progress() as bar:
        task = bar.add_task("Submitting", total=len(jobs))
        submit_jobs(
            jobs,
            client_config=settings.kafka.client_config(),
            topics=settings.kafka.topics,
            encoding=encoding,
            delivered=lambda _record: bar.advance(task),
        )


def _collect(answers: Answers, jobs: Sequence[AuthenticationJob], timeout_s: float) -> dict[str, Reply]:
    replies: dict[str, Reply] = {}
    with terminal.progress() as bar:
        task = bar.add_task("Waiting for answers", total=len(jobs))
        for job, reply in answers.wait(jobs, timeout_s=timeout_s):
            replies[job.job_id] = reply
            bar.advance(task)
    return replies


def _print_ids(jobs: Sequence[AuthenticationJob], as_json: bool) -> None:
    if as_json:
        terminal.print_json([{"job_id": job.job_id, "sku": job.sku} for job in jobs])
    else:
        typer.echo("\n".join(job.job_id for job in jobs))


def _print_replies(jobs: Sequence[AuthenticationJob], replies: dict[str, Reply], as_json: bool) -> None:
    rows = [_row(job, replies.get(job.job_id)) for job in jobs]
    if as_json:
        terminal.print_json(rows)
    else:
        terminal.print_table(list(rows[0]), [list(row.values()) for row in rows], empty="no jobs")
    missing = len(jobs) - len(replies)
    if missing:
        terminal.say(f"{missing} of {len(jobs)} jobs have no answer yet: is a worker running? See `assay results list`")
        raise typer.Exit(UNANSWERED)


def _row(job: AuthenticationJob, reply: Reply | None) -> dict[str, object]:
    told: tuple[str | None, float | None, str]
    match reply:
        case VerdictEvent():
            codes = dict.fromkeys(reason.code.value for reason in reply.reasons)
            told = (reply.verdict.value, reply.confidence, ", ".join(codes))
        case Lost():
            told = ("dead letter", None, f"{reply.code}: {reply.detail}")
        case None:
            told = (None, None, "no answer yet")
    verdict, confidence, reasons = told
    return {"job_id": job.job_id, "sku": job.sku, "verdict": verdict, "confidence": confidence, "reasons": reasons}
