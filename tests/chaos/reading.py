"""Reads a run back from the real services, as one Observation for the checker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.observation import (
    Limits,
    Moment,
    Observation,
    OffsetSample,
    OpenTransaction,
    ProcessSample,
    Reader,
    StrayRow,
    Submission,
)
from tests.chaos.reading_database import read_stored
from tests.chaos.reading_topics import Deployment, read_ends, read_streams, read_unstable
from tests.chaos.transactions import list_transactions

VerifyAudit = Callable[[], Iterable[str]]  # what it finds amiss, a line each


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where a run took place: the broker itself, never through a proxy, and the database as its owner."""

    kafka: Mapping[str, Any]
    database_url: str
    deployments: Sequence[Deployment]


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What was written down while the run went on."""

    submissions: Sequence[Submission] = ()
    readers: Sequence[Reader] = ()
    offsets: Sequence[OffsetSample] = ()
    samples: Sequence[ProcessSample] = ()
    limits: Limits = field(default_factory=Limits)
    clock_jumped: bool = False


def observe(places: Places, watched: Watched, *, verify_audit: VerifyAudit | None = None) -> Observation:
    """Read all of it once the workers are quiet: they may live, but nothing may be in flight.

    Raises tests.chaos.reading_topics.Unreadable, tests.chaos.transactions.Refused, OSError and psycopg.Error.
    """
    streams = [read_streams(places.kafka, deployment) for deployment in places.deployments]
    stored = read_stored(places.database_url)
    torn = (StrayRow(invariant="I4", detail=f"committed, but not there: {told}") for s in streams for told in s.torn)
    return Observation(
        submissions=tuple(watched.submissions),
        inputs=tuple(record for stream in streams for record in stream.inputs),
        outputs=tuple(output for stream in streams for output in stream.outputs),
        jobs=stored.jobs,
        verdicts=stored.verdicts,
        letters=stored.letters,
        attempts=stored.attempts,
        strays=(*stored.strays, *torn),
        spreads=stored.spreads,
        ends=tuple(end for deployment in places.deployments for end in read_ends(places.kafka, deployment)),
        offsets=tuple(watched.offsets),
        readers=tuple(watched.readers),
        open_transactions=tuple(_transactions(places)),
        samples=tuple(watched.samples),
        audit_findings=None if verify_audit is None else tuple(verify_audit()),
        limits=watched.limits,
        clock_jumped=watched.clock_jumped,
    )


def process_sample(pid: int, process: str, moment: Moment) -> ProcessSample:
    """Resident memory, descriptors, sockets and threads of a live process. Raises OSError when it is gone."""
    at = Path("/proc") / str(pid)
    facts = dict(line.split(":", 1) for line in (at / "status").read_text().splitlines())
    targets = [_target(link) for link in (at / "fd").iterdir()]
    return ProcessSample(
        process=process, moment=moment, rss_bytes=int(facts["VmRSS"].split()[0]) * 1024, handles=len(targets),
        threads=int(facts["Threads"]), connections=sum(target.startswith("socket:") for target in targets),
    )  # fmt: skip


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""  # closed meanwhile


def _transactions(places: Places) -> Iterable[OpenTransaction]:
    for deployment in places.deployments:
        yield from list_transactions(places.kafka["bootstrap.servers"], prefix=f"assay.{deployment.group}.")
        yield from read_unstable(places.kafka, deployment)
