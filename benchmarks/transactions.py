"""G15: what transactions cost. The same worker, with a stand-in for its encoders so that it answers as fast as it can,
publishes in transactions, then at least once, in turn, over jobs that lie in the topic before it starts."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from statistics import mean
from time import monotonic

from rich.console import Console

from benchmarks import findings
from benchmarks.command import ended, services
from benchmarks.findings import Finding
from benchmarks.host import ROOT, host_facts
from benchmarks.worker_run import SILENCE_S, RunFailed
from demo.stand import TENANT, Stand, WorkerProcess, new_stand
from devstack import Addresses
from schemas.job import AuthenticationJob, JobView
from tests.chaos.photographs import CATEGORY, SKUS, VIEWS, photograph
from tests.chaos.world import SETTINGS
from worker.adapters.kafka_follower import KafkaFollower
from worker.cli.submission import submit_jobs
from worker.topics import Topics

OUT = ROOT / "benchmarks" / "out" / "transactions.json"
FOLDER = ROOT / ".cache" / "bench"
GOAL = 0.95
TRANSACTIONS, AT_LEAST_ONCE = "tests.chaos.standin", "benchmarks.at_least_once"
TURNS = (TRANSACTIONS, AT_LEAST_ONCE, AT_LEAST_ONCE, TRANSACTIONS)
RAMP = 0.1  # of the jobs, answered before the clock starts


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    entry: str
    jobs: int
    jobs_per_second: float


def transaction_cost(addresses: Addresses, folder: Path, console: Console, *, jobs: int, rounds: int = 1) -> list[Turn]:
    """Rates of both in turn. Raises RunFailed."""
    stand = new_stand(addresses, folder / "transactions", {**SETTINGS, "ASSAY_INTAKE__WINDOW_RECORDS": "1000"})
    stand.assay("topics", "apply")
    turns: list[Turn] = []
    for entry in TURNS * rounds:
        turns.append(_turn(stand, addresses, entry, jobs, seed=len(turns) * jobs))
        console.print(f"{_named(entry)}: {turns[-1].jobs_per_second:.1f} jobs/s", highlight=False)
    return turns


def finding(turns: Sequence[Turn]) -> Finding:
    ratio = _rate(turns, TRANSACTIONS) / _rate(turns, AT_LEAST_ONCE)
    return Finding(
        id="G15",
        measure="worker with transactions / at least once, both with a stand-in encoder",
        value=ratio,
        goal=GOAL,
        explained="" if ratio >= GOAL else f"jobs/s in turn: {', '.join(f'{t.jobs_per_second:.0f}' for t in turns)}",
    )


def _rate(turns: Sequence[Turn], entry: str) -> float:
    return mean(turn.jobs_per_second for turn in turns if turn.entry == entry)


def _named(entry: str) -> str:
    return "transactions" if entry == TRANSACTIONS else "at least once"


def _turn(stand: Stand, addresses: Addresses, entry: str, jobs: int, seed: int) -> Turn:
    config = {"bootstrap.servers": addresses.kafka_bootstrap}
    topics = Topics(prefix=stand.topic_prefix)
    with KafkaFollower(config, [topics.results, topics.dlq]) as follower:
        submit_jobs((_job(seed + n) for n in range(jobs)), client_config=config, topics=topics)
        wanted = {_job_key(seed + n) for n in range(jobs)}
        worker = _start(stand, entry)
        try:
            ramp = max(1, round(jobs * RAMP))
            began_s = _collected(follower, wanted, jobs - ramp, worker)
            ended_s = _collected(follower, wanted, 0, worker)
        finally:
            worker.stop()
    return Turn(entry=entry, jobs=jobs, jobs_per_second=(jobs - ramp) / (ended_s - began_s))


def _start(stand: Stand, entry: str) -> WorkerProcess:
    log = stand.folder / f"{entry}.log"
    environment = {**stand.environment, "ASSAY_KAFKA__INSTANCE": "bench-0"}
    with log.open("ab") as out:
        process = subprocess.Popen([sys.executable, "-m", entry], env=environment, stdout=out, stderr=out)
    return WorkerProcess(process=process, log=log, skip=0)


def _collected(follower: KafkaFollower, wanted: set[bytes], until: int, worker: WorkerProcess) -> float:
    """When no more than `until` answers were `wanted`, which loses what comes. Raises RunFailed."""
    last_s = monotonic()
    while len(wanted) > until:
        record = follower.poll(1.0)
        if record is not None and record.key in wanted:
            wanted.remove(record.key)
            last_s = monotonic()
        elif worker.process.poll() is not None or monotonic() - last_s > SILENCE_S:
            raise RunFailed(f"{len(wanted)} answers are missing:\n{worker.log_tail()}")
    return last_s


def _job_key(seed: int) -> bytes:
    return f"{TENANT}/{_job_id(seed)}".encode()


def _job_id(seed: int) -> str:
    return f"g15-{seed:07d}"


def _job(seed: int) -> AuthenticationJob:
    sku = SKUS[seed % len(SKUS)]
    photos = {view: photograph(sku, view, seed) for view in VIEWS}
    return AuthenticationJob(
        job_id=_job_id(seed),
        tenant=TENANT,
        sku=sku,
        category=CATEGORY,
        submitted_at=datetime.now(UTC),
        views=tuple(JobView(view=view, sha256=sha256(data).hexdigest(), data=data) for view, data in photos.items()),
        payload_digest="",
    )


def main() -> int:
    """G15 alone; `python -m benchmarks` has it among the others."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transactions", description=__doc__)
    parser.add_argument("--jobs", type=int, default=4000, help="jobs a turn")
    parser.add_argument("--rounds", type=int, default=2, help="rounds of four turns")
    given = parser.parse_args()
    return ended("transactions", lambda console: _alone(console, given))


def _alone(console: Console, given: argparse.Namespace) -> int:
    facts: dict[str, object] = {"environment": host_facts()}
    with services(FOLDER / "stack", console) as addresses:
        turns = transaction_cost(addresses, FOLDER, console, jobs=given.jobs, rounds=given.rounds)
    console.print(findings.table([finding(turns)]))
    findings.write(OUT, [finding(turns)], {**facts, "turns": [asdict(turn) for turn in turns]})
    return 0


if __name__ == "__main__":
    sys.exit(main())
