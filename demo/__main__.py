"""The demo, once through: `make demo`. Real services, the real commands, and a report of what came out.

KEEP=1 leaves everything running and says how to look at it and how to stop it.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic
from types import FrameType

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from sqlalchemy import Engine

from demo.audited import audited
from demo.backend import demo_backend, publish_shipped, read_calibration
from demo.float_twin import twin_verdicts
from demo.goods import catalogue, heldout_skus
from demo.photographs import JOB_SPECIMENS, Specimen, labelled, references
from demo.recalibrate import PROFILES, rendered
from demo.scenario import FORGED, GENUINE, UNKNOWN_SKUS, Example, labelled_examples, resold, special_examples
from demo.stand import TENANT, Stand, WorkerProcess, new_stand, psql_line
from demo.tables import accuracy_table, by_kind, flips, tally
from demo.worked import chosen, worked
from devstack import Addresses, Devstack, DevstackError
from schemas.codes import ErrorCode, Verdict
from schemas.message import OutputRecord
from schemas.verdict import VerdictEvent
from worker.adapters.kafka_sender import KafkaSender
from worker.app import open_database, open_encoder, open_evidence, open_gallery, open_references
from worker.cli.report import entry_of
from worker.cli.submission import Answers, Lost, Reply, submit_jobs
from worker.errors import AssayError
from worker.items import Item, read_items
from worker.observe import configure_logs
from worker.ports import EvidenceStore
from worker.report.entry import DeadEnd, ReportEntry
from worker.report.index import render_index
from worker.settings import Settings, load_settings

ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "demo-report"
FOLDER = ROOT / ".demo"
ANSWER_DEADLINE_S = 600.0
WIDTH = 140
WORKED_QUALITY = 60
Answered = list[tuple[Example, Reply | None]]


def main() -> int:
    console = _console()
    configure_logs(level="warning", form="console")
    keep = os.environ.get("KEEP", "") not in ("", "0")
    signal.signal(signal.SIGTERM, _as_interrupt)
    try:
        with ExitStack() as closing:
            return _demo(console, closing, keep)
    except KeyboardInterrupt:
        console.print("stopped; everything that was started has ended")
        return 130
    except (AssayError, DevstackError) as error:
        console.print(f"[bold red]demo:[/] {error}", highlight=False)
        return 2


def _console() -> Console:
    """Wide enough for the tables where the output is no terminal."""
    return Console() if sys.stdout.isatty() else Console(width=WIDTH)


def _demo(console: Console, closing: ExitStack, keep: bool) -> int:
    started_s = monotonic()
    enrolled = rendered("references", references(catalogue()), console)
    goods = labelled(catalogue(), first_specimen=JOB_SPECIMENS.start, genuine=GENUINE, forged=FORGED)
    items = read_items(rendered("jobs", goods, console))
    spare = read_items(rendered("spare-jobs", _spare(), console))
    console.print(f"photographs: {6 * (len(items) + len(spare))} of jobs, {6 * 5 * 24} of references")

    addresses = _services(console, closing, keep)
    backend, fitted = demo_backend()
    stand = new_stand(addresses, FOLDER / "stand", {"ASSAY_BUILD": "demo", "ASSAY_ENGINES__BACKEND": backend})
    settings = _settings(stand)
    _prepare(console, stand, settings, enrolled, fitted)
    worker = _worker(console, stand, closing, keep)

    examples = labelled_examples(items, TENANT)
    examples += special_examples(spare[:4], spare[4:], read_items(enrolled)[0], TENANT)
    answered = _run(console, settings, examples)
    answered += _run(console, settings, [resold(examples[0])])
    answered += _run(console, settings, [replace(examples[0], kind="duplicate", item=None)])
    _one_malformed(console, settings)

    entries = _entries(settings, answered)
    int8 = [(example, reply.verdict) for example, reply in answered if isinstance(reply, VerdictEvent)]
    labelled_int8 = [(example, verdict) for example, verdict in int8 if example.item is not None]
    twin = _twin(console, stand, labelled_int8)
    console.print(_jobs_table(answered))
    console.print(accuracy_table(labelled_int8, twin))
    hard, soft = flips(labelled_int8, twin)
    console.print(f"INT8 against its float twin: {hard} verdicts flipped, {soft} changed to or from inconclusive")
    index = render_index(entries, REPORT, title="Assay: the demo's jobs", summary=_summary(labelled_int8, answered))
    console.print(audited(stand, settings))
    _draw_worked(entries)
    console.print(f"report: {index}  ({monotonic() - started_s:.0f} s)")
    if keep:
        _say_how_to_look(console, stand, settings, worker)
    return 0 if all(reply is not None for _, reply in answered) else 1


def _spare() -> list[Specimen]:
    """Genuine specimens that something will be done to, and goods that nobody enrolled."""
    first = JOB_SPECIMENS.start + 1_000
    unknown = heldout_skus(UNKNOWN_SKUS.stop)[UNKNOWN_SKUS.start :]
    return [Specimen(sku=sku, specimen=first) for sku in (*catalogue()[:4], *unknown)]


def _services(console: Console, closing: ExitStack, keep: bool) -> Addresses:
    stack = Devstack(FOLDER / "stack", report=lambda line: console.print(line, highlight=False))
    if keep:
        return stack.up()
    return closing.enter_context(stack.session())


@contextmanager
def _environment(stand: Stand, url: str) -> Iterator[None]:
    """The stand's settings for code that runs in this process."""
    before = dict(os.environ)
    os.environ.update({**stand.environment, "ASSAY_DATABASE__URL": url})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _settings(stand: Stand) -> Settings:
    with _environment(stand, stand.curator_url):
        return load_settings()


def _prepare(console: Console, stand: Stand, settings: Settings, enrolled: Path, fitted: Path) -> None:
    stand.assay("topics", "apply")
    console.print("enrolling the references")
    by = ("--tenant", TENANT, "--by", "demo", "--provenance", "rendered by the demo")
    stand.assay("enroll", str(enrolled), *by, "--profiles", str(PROFILES), env=stand.curator)
    database = open_database(settings)
    try:
        publish_shipped(open_references(settings, database), read_calibration(fitted), by="demo")
    finally:
        database.dispose()


def _worker(console: Console, stand: Stand, closing: ExitStack, keep: bool) -> WorkerProcess:
    worker = stand.worker("demo-0")
    if not keep:
        closing.callback(worker.stop)
    worker.wait_ready()
    console.print(f"worker ready, metrics at {worker.health}/metrics")
    return worker


def _run(console: Console, settings: Settings, examples: Sequence[Example]) -> Answered:
    """Submit the jobs and wait for what answers them."""
    kafka = settings.kafka
    jobs = [example.job for example in examples]
    found: dict[str, Reply] = {}
    answers = Answers(kafka.client_config(), kafka.topics)
    try:
        submit_jobs(jobs, client_config=kafka.client_config(), topics=kafka.topics)
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task("jobs answered", total=len(jobs))
            for job, reply in answers.wait(jobs, timeout_s=ANSWER_DEADLINE_S):
                found[job.job_id] = reply
                progress.advance(task)
    finally:
        answers.close()
    return [(example, found.get(example.job.job_id)) for example in examples]


def _one_malformed(console: Console, settings: Settings) -> None:
    """A message that is no job becomes a dead letter with its original bytes, and blocks nobody."""
    kafka = settings.kafka
    record = OutputRecord(topic=kafka.topics.jobs, key=b"?", value=b"this is no job", headers=())
    KafkaSender(kafka.client_config()).send([record])
    console.print("malformed: one message that is no job was sent; see `assay dlq list`")


def _entries(settings: Settings, answered: Answered) -> list[ReportEntry]:
    database, evidence = open_database(settings), open_evidence(settings)
    try:
        return [_entry(database, evidence, example, reply) for example, reply in answered if reply is not None]
    finally:
        database.dispose()


def _draw_worked(entries: Sequence[ReportEntry]) -> None:
    """One forged job in a picture beside the report."""
    entry = chosen(entries)
    picture = worked(entry) if entry else None
    if picture:
        picture.save(REPORT / "worked.webp", quality=WORKED_QUALITY, method=6)


def _entry(database: Engine, evidence: EvidenceStore, example: Example, reply: Reply) -> ReportEntry:
    note = example.kind if example.family is None else f"forged: {example.family}"
    if isinstance(reply, VerdictEvent):
        return replace(entry_of(database, evidence, reply), truth=example.truth, note=note)
    job = example.job
    dead = DeadEnd(job_id=job.job_id, tenant=job.tenant, sku=job.sku, code=ErrorCode(reply.code), detail=reply.detail)
    return ReportEntry(outcome=dead, truth=example.truth, note=note)


def _twin(console: Console, stand: Stand, judged: Sequence[tuple[Example, Verdict]]) -> list[tuple[Example, Verdict]]:
    console.print("the same jobs through the float twins")
    items: list[Item] = [example.item for example, _ in judged if example.item is not None]
    with _environment(stand, stand.curator_url):
        settings = load_settings()
        encoder, gallery = open_encoder(settings), open_gallery(settings)
        try:
            verdicts = twin_verdicts(items, encoder, gallery.snapshot(TENANT))
        finally:
            encoder.close()
            gallery.close()
    return [(example, verdict) for (example, _), verdict in zip(judged, verdicts, strict=True)]


def _jobs_table(answered: Answered) -> Table:
    table = Table(title="Every job: what it was, and what Assay says", title_justify="left")
    for column in ("SKU", "truth", "example of", "verdict", "confidence", "first reason"):
        table.add_column(column)
    for example, reply in answered:
        kind = example.family or example.kind
        table.add_row(example.job.sku, example.truth or "-", kind, *_told(reply))
    return table


def _told(reply: Reply | None) -> tuple[str, str, str]:
    match reply:
        case None:
            return "no answer", "-", "-"
        case Lost():
            return "dead letter", "-", str(reply.code)
        case _:
            confidence = "-" if reply.confidence is None else f"{reply.confidence:.3f}"
            first = reply.reasons[0]
            return reply.verdict, confidence, f"{first.code}{f' ({first.view})' if first.view else ''}"


def _summary(judged: Sequence[tuple[Example, Verdict]], answered: Answered) -> list[tuple[str, str]]:
    all_jobs = tally(judged)
    accepted = [tally(pairs).wrong for kind, pairs in by_kind(judged).items() if kind == "all forged"]
    return [
        ("jobs", str(len(answered))),
        ("labelled jobs", str(all_jobs.jobs)),
        ("right", str(all_jobs.right)),
        ("wrong", str(all_jobs.wrong)),
        ("inconclusive", str(all_jobs.inconclusive)),
        ("forgeries called authentic", str(sum(accepted))),
    ]


def _say_how_to_look(console: Console, stand: Stand, settings: Settings, worker: WorkerProcess) -> None:
    topics = settings.kafka.topics
    lines = (
        "left running:",
        f"  analyst   {psql_line(stand.analyst_url)}",
        f"  topics    {topics.jobs}, {topics.results}, {topics.dlq} on {settings.kafka.bootstrap}",
        f"  metrics   {worker.health}/metrics",
        f"  stop      kill {worker.process.pid}; {shlex.join(_stop_command())}",
    )
    console.print("\n".join(lines), highlight=False, soft_wrap=True)


def _stop_command() -> list[str]:
    return [sys.executable, "-m", "worker.cli.main", "devstack", "down", "--state-dir", str(FOLDER / "stack")]


def _as_interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
