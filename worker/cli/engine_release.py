"""`assay engine judge | release | golden`: how a candidate engine does beside the current one, and what follows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import Annotated, Any

import typer
from sqlalchemy import Engine

from schemas.codec import Encoding
from worker.adapters.alarm_outbox import Outbox
from worker.adapters.engine_control import ring
from worker.adapters.engine_releases import EngineRelease, EngineReleases
from worker.adapters.release_judging import JudgedRelease, ReleaseJudging
from worker.cli import terminal
from worker.cli.engine_registry import SHORT, By, Name, Why
from worker.cli.opening import open_database
from worker.cli.submission import build_job, submit_jobs
from worker.core.release_judge import JudgeRule
from worker.core.sequential import Rates
from worker.errors import AssayError
from worker.items import Item, read_items
from worker.judgement_settings import JudgementSettings
from worker.settings import Settings, load_settings

JUDGED_EVERY_S = 1.0
TESTS = ("test", "events", "of jobs", "rate", "harmless", "harmful", "log ratio", "passes at", "fails at", "outcome")


def judge(
    wait_s: Annotated[
        float, typer.Option("--wait", min=0.0, help="Judge every second until all are decided, for so many seconds.")
    ] = 0.0,
    as_json: terminal.AsJson = False,
) -> None:
    """Judge the releases that run, and promote or take back what is decided. `assay watch` does so by itself."""
    settings = load_settings()
    with open_database(settings) as database:
        judging = open_judging(settings, database)
        judged = judging.judge(datetime.now(UTC))
        if wait_s:
            judged = _decided_within(judging, judged, wait_s)
    if as_json:
        terminal.print_json([_as_json(one) for one in judged])
        return
    columns = ("name", "version", "mode", "jobs", "decision", "why")
    terminal.print_table(columns, [_row(one) for one in judged], empty="No release is running.")


def release(name: Name, as_json: terminal.AsJson = False) -> None:
    """Show a name's last release: how it stands while it runs, or what decided it."""
    settings = load_settings()
    with open_database(settings) as database:
        judging = open_judging(settings, database)
        found = judging.releases.of(name)
        if not found:
            raise AssayError(
                f"no engine of the name {name} was ever released beside another (assay engine list {name})"
            )
        last = found[-1]
        decision = judging.look(last).to_json() if last.decision is None else dict(last.decision)
    if as_json:
        terminal.print_json({**_facts(last), "decision": decision, "releases": len(found)})
        return
    word = "would be" if last.decision is None else "decision"
    terminal.print_facts({**_facts(last), word: decision.get("decision"), "because": decision.get("why")})
    terminal.print_facts(decision.get("counts", {}))
    terminal.print_table(TESTS, _test_rows(decision.get("tests", ())), empty="Nothing was counted for it.")


def golden(
    manifest: Annotated[Path, typer.Argument(help="A folder or JSONL manifest of items, each with its label.")],
    tenant: Annotated[str, typer.Option(help="Whose gallery they are compared with.")],
    by: By,
    why: Why,
    category: Annotated[str | None, typer.Option(help="Category of items that name none.")] = None,
    encoding: Annotated[Encoding, typer.Option(help="Encoding of the jobs.")] = "avro",
    as_json: terminal.AsJson = False,
) -> None:
    """Register labelled items as golden jobs, under ids that nobody can guess, and submit them among the others."""
    settings = load_settings()
    items = list(_labelled(read_items(manifest, category=category)))
    root = settings.images.file_root
    jobs = [build_job(item, tenant=tenant, encoding=encoding, file_root=root) for item, _ in items]
    labels = {job.job_id: label for job, (_, label) in zip(jobs, items, strict=True)}
    with open_database(settings) as database:
        EngineReleases(database=database).add_golden(tenant, labels, by=by, why=why)
    kafka = settings.kafka
    submit_jobs(jobs, client_config=kafka.client_config(), topics=kafka.topics, encoding=encoding)
    if as_json:
        terminal.print_json([{"job_id": job_id, "label": label} for job_id, label in labels.items()])
    terminal.say(f"Registered and submitted {len(jobs)} golden jobs of {tenant}")


def open_judging(settings: Settings, database: Engine) -> ReleaseJudging:
    kafka = settings.kafka
    return ReleaseJudging(
        releases=EngineReleases(database=database),
        rule=rule_of(settings.judgement),
        outbox=Outbox.of(kafka),
        announce=partial(ring, kafka.client_config(), kafka.topics.control),
    )


def rule_of(chosen: JudgementSettings) -> JudgeRule:
    """The settings as what decides."""
    return JudgeRule(
        hard=Rates(h0=chosen.hard_h0, h1=chosen.hard_h1),
        abstention=Rates(h0=chosen.abstention_h0, h1=chosen.abstention_h1),
        latency=Rates(h0=chosen.latency_h0, h1=chosen.latency_h1),
        error=Rates(h0=chosen.error_h0, h1=chosen.error_h1),
        golden=Rates(h0=chosen.golden_h0, h1=chosen.golden_h1),
        slower=chosen.slower,
        false_take_back=chosen.false_take_back,
        false_promote=chosen.false_promote,
        most_jobs=chosen.most_jobs,
        golden_needed=chosen.golden_needed,
    )


def _decided_within(judging: ReleaseJudging, judged: Sequence[JudgedRelease], wait_s: float) -> list[JudgedRelease]:
    """Each release as it was judged last, all of them ended, by this process or another. Raises AssayError when the
    time is up before."""
    last = {one.release.id: one for one in judged}
    until = monotonic() + wait_s
    while running := {one.id for one in judging.releases.running()} & last.keys():
        if monotonic() >= until:
            told = "; ".join(f"{last[one].release.name}: {last[one].judgement.why}" for one in running)
            raise AssayError(f"not decided within {wait_s:g} s: {told}; send jobs, or wait longer with --wait")
        sleep(JUDGED_EVERY_S)
        last |= {one.release.id: one for one in judging.judge(datetime.now(UTC)) if one.release.id in last}
    now = {one.id: one for judged_one in last.values() for one in judging.releases.of(judged_one.release.name)}
    return [replace(one, release=now[one.release.id]) for one in last.values()]


def _labelled(items: Sequence[Item]) -> Iterator[tuple[Item, Any]]:
    for item in items:
        if item.label is None:
            raise AssayError(f"item {item.name!r} has no label: give each golden item 'label': genuine or counterfeit")
        yield item, item.label


def _row(one: JudgedRelease) -> tuple[object, ...]:
    decision, why = _decided(one)
    counts, tried = one.judgement.counts, one.release
    return tried.name, tried.candidate_version, tried.mode, counts.jobs, decision, why


def _as_json(one: JudgedRelease) -> dict[str, object]:
    decision, why = _decided(one)
    ended = one.ending is not None or one.release.decision is not None
    return {**_facts(one.release), "ended": ended, "decision": decision, "why": why,
            "judgement": one.judgement.to_json()}  # fmt: skip


def _decided(one: JudgedRelease) -> tuple[str, str]:
    if one.ending is not None:
        return one.ending.state, one.ending.why
    if one.release.decision is not None:  # by somebody else, meanwhile
        return one.release.state, str(one.release.decision["why"])
    return one.judgement.decision, one.judgement.why


def _facts(one: EngineRelease) -> dict[str, object]:
    return {
        "name": one.name,
        "release": one.id,
        "state": one.state,
        "mode": one.mode,
        "share": one.share,
        "candidate": f"version {one.candidate_version} ({one.candidate[:SHORT]}), {one.candidate_state}",
        "current": f"version {one.current_version} ({one.current[:SHORT]}), {one.current_state}",
        "started": one.started_at,
        "started by": f"{one.by}: {one.why}",
        "decided": one.decided_at,
    }


def _test_rows(tests: Sequence[dict[str, Any]]) -> list[tuple[object, ...]]:
    return [
        (
            *(test["name"], test["events"], test["n"], test["events"] / test["n"] if test["n"] else None),
            *(test["rates"]["h0"], test["rates"]["h1"], test["log_ratio"], test["passes_at"], test["fails_at"]),
            test["outcome"],
        )
        for test in tests
    ]


def register(app: typer.Typer) -> None:
    """Mount the commands of this module."""
    for command in (judge, release, golden):
        app.command()(command)
