"""The cases through the real worker: real services, a process, jobs through Kafka, verdicts from the database."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from sqlalchemy import Engine, select

from demo.backend import publish_shipped, read_calibration
from demo.evaluate.jobs import Case, job_of
from demo.evaluate.photographs import manifest
from demo.photographs import Specimen
from demo.recalibrate import CALIBRATION, PROFILES
from demo.stand import TENANT, Stand, new_stand
from devstack import Addresses
from migrations.tables import dead_letters, verdicts
from schemas.codec import decode_verdict
from schemas.verdict import VerdictEvent
from worker.app import open_database, open_references
from worker.cli.submission import Answers, submit_jobs
from worker.core.policy import CategoryProfile, ScoreCalibration
from worker.profiles import read_profiles
from worker.settings import Settings, load_settings

STAND = Path(__file__).resolve().parents[2] / ".demo" / "evaluation-stand"
ENROL_S, READY_S, ANSWERS_S = 3_600.0, 1_800.0, 7_200.0


class Unanswered(Exception):
    """Jobs that ended without a verdict; the message counts and names them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A case and the verdict that the database holds of it."""

    case: Case
    event: VerdictEvent


def calibration() -> ScoreCalibration:
    """The one shipped with the encoders, fitted on other SKUs."""
    return read_calibration(CALIBRATION)


def profiles() -> Mapping[str, CategoryProfile]:
    return {profile.category: profile for profile in read_profiles(PROFILES)}


def judged(
    cases: Sequence[Case], references: Sequence[Specimen], photographs: Path, addresses: Addresses, console: Console
) -> list[Judged]:
    """Enrol the references, start a worker, submit all cases and read the verdicts. Raises Unanswered.

    `photographs` is the folder that the worker serves `file:` from; its log is in .demo/evaluation-stand."""
    settings = {
        "ASSAY_BUILD": "evaluation",
        "ASSAY_EVIDENCE__KEEP": "off",
        "ASSAY_IMAGES__FILE_ROOT": str(photographs),
    }
    stand = new_stand(addresses, STAND, settings)
    enrolled = manifest(photographs, "references", references)
    with _loaded(stand) as loaded:
        database = open_database(loaded)
        try:
            _prepare(stand, loaded, database, enrolled, console)
            _submitted(stand, loaded, cases, photographs, console)
            return _read(database, cases)
        finally:
            database.dispose()


@contextmanager
def _loaded(stand: Stand) -> Iterator[Settings]:
    """The curator's settings of the stand, for code that runs in this process."""
    before = dict(os.environ)
    os.environ.update(stand.curator)
    try:
        yield load_settings()
    finally:
        os.environ.clear()
        os.environ.update(before)


def _prepare(stand: Stand, settings: Settings, database: Engine, enrolled: Path, console: Console) -> None:
    stand.assay("topics", "apply", timeout_s=READY_S)
    console.print("enrolling the references")
    by = ("--tenant", TENANT, "--by", "evaluation", "--provenance", "rendered, held out")
    stand.assay("enroll", str(enrolled), *by, "--profiles", str(PROFILES), env=stand.curator, timeout_s=ENROL_S)
    publish_shipped(open_references(settings, database), calibration(), by="evaluation")


def _submitted(stand: Stand, settings: Settings, cases: Sequence[Case], folder: Path, console: Console) -> None:
    """Returns once every job has been answered, or the time is up."""
    kafka = settings.kafka
    jobs = [job_of(case, folder, TENANT) for case in cases]
    worker = stand.worker("evaluation-0")
    try:
        worker.wait_ready(READY_S)
        answers = Answers(kafka.client_config(), kafka.topics)
        try:
            submit_jobs(jobs, client_config=kafka.client_config(), topics=kafka.topics)
            with Progress(console=console, transient=True) as progress:
                task = progress.add_task("jobs answered", total=len(jobs))
                for _ in answers.wait(jobs, timeout_s=ANSWERS_S):
                    progress.advance(task)
        finally:
            answers.close()
    finally:
        worker.stop()


def _read(database: Engine, cases: Sequence[Case]) -> list[Judged]:
    """The stored verdicts, in the order of the cases."""
    with database.connect() as connection:
        wanted = select(verdicts.c.event, verdicts.c.event_headers).where(verdicts.c.tenant == TENANT)
        events = [decode_verdict(row.event, _headers(row.event_headers)) for row in connection.execute(wanted)]
        letters = list(connection.execute(select(dead_letters.c.job_id, dead_letters.c.code)))
    found = {event.job_id: event for event in events}
    lost = [case.job_id for case in cases if case.job_id not in found]
    if lost:
        names, codes = ", ".join(lost[:3]), ", ".join(sorted({str(letter.code) for letter in letters})) or "none"
        raise Unanswered(f"{len(lost)} of {len(cases)} jobs have no verdict ({names}); dead letters: {codes}")
    return [Judged(case=case, event=found[case.job_id]) for case in cases]


def _headers(stored: Sequence[Sequence[str]]) -> tuple[tuple[str, bytes], ...]:
    return tuple((name, text.encode()) for name, text in stored)
