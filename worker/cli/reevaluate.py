"""`assay reevaluate`: decide verdicts again, from what they stored or from kept photographs, and tell which flipped."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

import typer
from sqlalchemy import Engine

from engines.errors import EngineRefused
from schemas.job import AuthenticationJob
from schemas.verdict import VerdictEvent
from worker import app
from worker.adapters.engine_opening import chosen_engines
from worker.adapters.evidence_files import FileEvidence, S3Evidence
from worker.adapters.past_verdicts import Flip, Wanted, read_past
from worker.adapters.policy_rows import read_policy
from worker.cli import terminal
from worker.cli.opening import open_database
from worker.cli.results import VerdictName, print_flips
from worker.cli.submission import Answers, Lost, Reply, submit_jobs
from worker.core.reevaluation import Again, Holds, Means, SpaceNow, Unreached, plan
from worker.errors import AssayError, ConfigurationError
from worker.settings import Settings, load_settings

SOURCE = "assay-reevaluate"
UNANSWERED = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """`more`: there are verdicts beyond the limit."""

    wanted: Wanted
    again: tuple[Again, ...]
    unreached: tuple[Unreached, ...]
    more: bool

    @property
    def facts(self) -> dict[str, object]:
        ways = Counter(one.decided_from for one in self.again)
        return {
            "since": self.wanted.since.isoformat(),
            "until": self.wanted.until.isoformat(),
            "verdicts": len(self.again) + len(self.unreached),
            "from_stored": ways["stored"],
            "from_photographs": ways["photographs"],
            "out_of_reach": len(self.unreached),
            "more": self.more,
        }


def reevaluate(
    since: Annotated[str, typer.Option(help="Verdicts decided from then on; a date or time, UTC unless it says.")],
    until: Annotated[str | None, typer.Option(help="And before then. Default: now.")] = None,
    engine: Annotated[
        str | None, typer.Option(help="Only verdicts that this engine took part in: its name, digest or id.")
    ] = None,
    tenant: terminal.Tenant = None,
    verdict: Annotated[VerdictName | None, typer.Option(help="Only this verdict.")] = None,
    rerun: Annotated[
        bool, typer.Option("--rerun", help="Run photographs again even where stored evidence would do.")
    ] = False,
    limit: Annotated[int, typer.Option(help="Most verdicts, oldest first.", min=1, max=1_000_000)] = 100_000,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count only; send nothing.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the answers, and list what flipped.")] = False,
    timeout: Annotated[float, typer.Option(help="Longest wait for answers, in seconds.", min=0)] = 600.0,
    as_json: terminal.AsJson = False,
) -> None:
    """Send jobs that were judged to assay.jobs.bulk again, for a verdict that supersedes their latest one.

    Stored evidence decides where the engines of today share its embedding space, else the photographs that are still
    kept; jobs with neither are counted and named. No verdict is overwritten. With --wait, exits 1 when some are not
    answered in time; `assay results flips` lists later what flipped.
    """
    settings = load_settings()
    wanted = Wanted(since=_moment(since), until=_until(until), tenant=tenant, verdict=verdict, engine=_named(engine))
    if wanted.since >= wanted.until:
        raise AssayError(f"--since {since} is not before --until {wanted.until.isoformat()}")
    with open_database(settings) as database:
        planned = _planned(database, settings, wanted, limit, rerun)
    if dry_run or not planned.again:
        _print(planned, {}, [], as_json)
        return
    replies = _send(settings, planned.again, timeout if wait else None)
    _print(planned, {} if replies is None else _told(planned.again, replies), _flips(planned.again, replies), as_json)
    if replies is not None and len(replies) < len(planned.again):
        terminal.say(f"{len(planned.again) - len(replies)} jobs have no answer yet: `assay results flips` tells later")
        raise typer.Exit(UNANSWERED)


def _planned(database: Engine, settings: Settings, wanted: Wanted, limit: int, rerun: bool) -> Planned:
    with database.connect() as connection:
        calibrations = read_policy(connection).calibrations
    means = Means(space_now=_spaces(settings), calibrations=calibrations, holds=_holds(settings), rerun=rerun)
    past = list(read_past(database, wanted, limit=limit + 1))
    plans = [plan(one, means) for one in past[:limit]]
    return Planned(
        wanted=wanted,
        again=tuple(one for one in plans if isinstance(one, Again)),
        unreached=tuple(one for one in plans if isinstance(one, Unreached)),
        more=len(past) > limit,
    )


def _spaces(settings: Settings) -> SpaceNow:
    """The embedding space that a worker with these settings would look with. Raises ConfigurationError."""
    try:
        engines = chosen_engines(settings, app.open_database)
    except EngineRefused as refusal:
        raise ConfigurationError(f"the engines that serve cannot be read: {refusal}") from refusal
    spaces = {engine.manifest.name: engine.manifest.embedding_space for engine in engines}
    return lambda category, view: spaces[settings.engines.encoder_for(category, view)]


def _holds(settings: Settings) -> Holds:
    evidence = app.open_evidence(settings)
    if isinstance(evidence, FileEvidence | S3Evidence):
        return evidence.holds
    terminal.say("evidence.keep is off here: no photograph can be run again")
    return lambda tenant, sha256: False


def _send(settings: Settings, again: Sequence[Again], timeout_s: float | None) -> dict[bytes, Reply] | None:
    """The answers by the jobs' keys; None where nobody waits for them."""
    jobs = [one.job for one in again]
    config, topics = settings.kafka.client_config(), settings.kafka.topics
    with terminal.progress() as bar, ExitStack() as closing:
        answers = Answers(config, topics) if timeout_s is not None else None
        if answers is not None:
            closing.callback(answers.close)
        task = bar.add_task("Sending", total=len(jobs))
        submit_jobs(
            jobs, client_config=config, topics=topics, source=SOURCE, delivered=lambda _record: bar.advance(task)
        )
        if answers is None or timeout_s is None:
            return None
        waiting = bar.add_task("Waiting for answers", total=len(jobs))
        return _collect(answers, jobs, timeout_s, lambda: bar.advance(waiting))


def _collect(
    answers: Answers, jobs: Sequence[AuthenticationJob], timeout_s: float, step: Callable[[], object]
) -> dict[bytes, Reply]:
    replies: dict[bytes, Reply] = {}
    for job, reply in answers.wait(jobs, timeout_s=timeout_s):
        replies[job.key] = reply
        step()
    return replies


def _told(again: Sequence[Again], replies: Mapping[bytes, Reply]) -> dict[str, object]:
    lost = [(one, reply) for one in again if isinstance(reply := replies.get(one.job.key), Lost)]
    return {
        "answered": len(replies) - len(lost),
        "dead_letters": [
            {"tenant": one.past.tenant, "job_id": one.past.job_id, "id": reply.letter_id, "code": str(reply.code)}
            for one, reply in lost
        ],
        "unanswered": [
            {"tenant": one.past.tenant, "job_id": one.past.job_id} for one in again if one.job.key not in replies
        ],
    }


def _flips(again: Sequence[Again], replies: Mapping[bytes, Reply] | None) -> list[Flip]:
    events = [(one, (replies or {}).get(one.job.key)) for one in again]
    return [
        _flip(one, event)
        for one, event in events
        if isinstance(event, VerdictEvent) and event.verdict.value != one.past.verdict
    ]


def _flip(one: Again, event: VerdictEvent) -> Flip:
    return Flip(
        tenant=event.tenant,
        job_id=event.job_id,
        sku=event.sku,
        revision=event.revision,
        before=one.past.verdict,
        after=event.verdict.value,
        p_genuine_before=one.past.p_genuine,
        p_genuine=event.p_genuine,
        reasons=tuple(sorted({reason.code.value for reason in event.reasons})),
        judged_at=event.judged_at,
    )


def _print(planned: Planned, told: Mapping[str, object], flips: Sequence[Flip], as_json: bool) -> None:
    unreached = [
        {"tenant": u.past.tenant, "job_id": u.past.job_id, "why": u.why.value, "views": list(u.views)}
        for u in planned.unreached
    ]
    if as_json:
        known = {**told, "flipped": [dataclasses.asdict(flip) for flip in flips]} if told else {}
        terminal.print_json({**planned.facts, "out_of_reach": unreached, **known})
        return
    counts = {name: len(value) if isinstance(value, list) else value for name, value in told.items()}
    terminal.print_facts({**planned.facts, **counts})
    if unreached:
        terminal.print_table(list(unreached[0]), [list(row.values()) for row in unreached], empty="")
    if told:
        print_flips(flips)


def _until(told: str | None) -> datetime:
    return _moment(told) if told is not None else datetime.now(UTC)


def _moment(told: str) -> datetime:
    try:
        moment = datetime.fromisoformat(told)
    except ValueError as error:
        raise AssayError(f"{told!r} is no date or time: write 2026-01-31 or 2026-01-31T12:00:00Z") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _named(engine: str | None) -> str | None:
    if engine is not None and not engine.strip():
        raise AssayError("--engine is empty: give an engine's name, or the first 8 digits of its digest or id")
    return engine
