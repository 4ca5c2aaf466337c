"""`assay erase`: remove what is kept of a job or a subject, on request; the ledger says who asked for it and why."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Annotated

import typer

from schemas.job_codec import TENANT
from worker.adapters.erasure import Erased, Erasure, Reason
from worker.adapters.evidence_files import FileEvidence, S3Evidence
from worker.adapters.redis_cache import RedisEraser
from worker.app import open_evidence
from worker.cli import terminal
from worker.cli.opening import open_database
from worker.errors import AssayError
from worker.settings import Settings, load_settings


def erase(
    tenant: Annotated[str, typer.Option(help="Whose jobs.")],
    by: Annotated[str, typer.Option(help="Who erases; kept for good.")],
    why: Annotated[str, typer.Option(help="On what grounds; kept for good, so name no data subject.")],
    job_id: Annotated[list[str] | None, typer.Option(help="A job; may be given again.")] = None,
    subject: Annotated[
        list[str] | None, typer.Option(help="All jobs of this physical item; may be given again.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Erase. Without it, only say what would be.")] = False,
    as_json: terminal.AsJson = False,
) -> None:
    """Erase photographs, embeddings, maps, messages and rows of jobs. A later duplicate is answered `erased`.

    Copies in Kafka's topics and in backups go with their retention: docs/operations.md says when.
    """
    settings = load_settings()
    with _erasure(settings) as erasure:
        chosen = _chosen(erasure, tenant, job_id or [], subject or [])
        done = erasure.erase(tenant, chosen, Reason(by=by, why=why)) if yes else erasure.plan(tenant, chosen)
    facts = {"jobs": done.jobs, "photographs": done.photographs, **done.rows}
    facts |= {"cached": done.cached} if yes else {"jobs without an end yet": done.waiting}
    if as_json:
        terminal.print_json({"erased": yes, **facts})
    else:
        terminal.print_facts(facts)
    terminal.say(_told(done, yes))


@contextlib.contextmanager
def _erasure(settings: Settings) -> Iterator[Erasure]:
    evidence, url = open_evidence(settings), settings.redis.url
    photographs = evidence if isinstance(evidence, FileEvidence | S3Evidence) else None
    with open_database(settings) as database, contextlib.ExitStack() as closing:
        caches = RedisEraser(url.get_secret_value()) if url else None
        if caches:
            closing.callback(caches.close)
        yield Erasure(database=database, photographs=photographs, caches=caches)


def _chosen(erasure: Erasure, tenant: str, job_ids: list[str], subjects: list[str]) -> list[str]:
    if not TENANT.fullmatch(tenant):
        raise AssayError(f"{tenant!r} is no tenant's name")
    if not job_ids and not subjects:
        raise AssayError("name what to erase with --job-id or --subject")
    found = erasure.jobs_of(tenant, subjects) if subjects else []
    if subjects and not found:
        terminal.say("No job of that tenant names such a subject.")
    return sorted({*job_ids, *found})


def _told(done: Erased, yes: bool) -> str:
    if not yes:
        return "Nothing was erased; --yes erases."
    return f"Erased {done.jobs} jobs. Copies in topics and backups go with their retention."
