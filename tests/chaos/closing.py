"""The end of a run: everything read back, checked, and put beside what was done."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from benchmarks.host import commit, host_facts
from tests.chaos.fleet import now_ms
from tests.chaos.observation import Chronicle, Observation, Output, Rebalance, Recovery
from tests.chaos.reading import Places, Watched, observe
from tests.chaos.reading_topics import Deployment
from tests.chaos.run import Run
from tests.chaos.verdict import Verdict, reach_verdict

# What the broker says when a group has a new generation or assignment.
CLASSIC = re.compile(r"^(\S+) .* Stabilized group (\S+) generation \d+")
TROUBLE_MS = 10_000  # how long after a fault its effects may last
CONSUMER = re.compile(r"^(\S+) .*\[GroupId (\S+)\] Computed a new target assignment for epoch \d+")


def close(made: Run) -> Verdict:
    """Read all services and judge the run; the workers have ended. Raises what tests.chaos.reading.observe does."""
    ended_ms = now_ms()
    groups = [Deployment(group=group.group_id, topics=group.topics) for group in made.world.groups]
    places = Places(kafka=made.world.kafka, database_url=made.world.stand.owner_url, deployments=groups)
    seen = observe(
        places,
        Watched(
            submissions=made.load.submissions, readers=made.readers, offsets=made.watch.samples, samples=made.samples
        ),
        verify_audit=made.ledger.findings,
    )  # fmt: skip
    return reach_verdict(seen, _chronicle(made, seen, ended_ms))


def _chronicle(made: Run, seen: Observation, ended_ms: int) -> Chronicle:
    names = {group.group_id: group.name for group in made.world.groups}
    return Chronicle(
        seed=made.seed,
        commit=commit(),
        started_at_ms=made.started_ms,
        ended_at_ms=ended_ms,
        host=tuple((name, str(fact)) for name, fact in host_facts().items()),
        kills=(*made.fleet.kills, *made.services.kills),
        faults=(*made.network.faults, *made.services.faults),
        rebalances=tuple(rebalances(made.services.broker_log, names)),
        recoveries=(*workers_back(made), *returns(made.services.returns, seen.outputs, len(names))),
    )


def rebalances(log: Iterable[str], groups: dict[str, str]) -> Iterator[Rebalance]:
    """Each new generation or assignment of a group of the run, by the broker's own log."""
    for line in log:
        found = CLASSIC.match(line) or CONSUMER.match(line)
        if found and found[2] in groups:
            at = datetime.fromisoformat(found[1]).astimezone(UTC)
            yield Rebalance(at_ms=round(at.timestamp() * 1e3), protocol=groups[found[2]])


def workers_back(made: Run) -> Iterator[Recovery]:
    """Those that died while the services and the network were well, apart from those that did not."""
    harm_ms = [
        *((kill.at_ms, kill.at_ms) for kill in made.services.kills),
        *((at_ms, at_ms) for _, at_ms in made.services.returns),
        *((fault.at_ms, fault.at_ms + TROUBLE_MS) for fault in (*made.network.faults, *made.services.faults)),
    ]
    for found in made.fleet.recoveries:
        back_ms = found.at_ms + found.seconds * 1e3
        troubled = any(began < back_ms and ended > found.at_ms - TROUBLE_MS for began, ended in harm_ms)
        yield replace(found, service="worker, other faults beside it") if troubled else found


def too_little(made: Run, verdict: Verdict) -> Iterator[str]:
    """What the size promised and the run did not do or prove."""
    size, chronicle = made.size, _killed(made)
    least = {"worker": size.least_worker_kills, **dict.fromkeys(("kafka", "postgres", "redis"), size.service_kills)}
    yield from (f"{chronicle[name]} kills of {name}, of {n}" for name, n in least.items() if chronicle[name] < n)
    done = verdict.document["rebalances"]
    assert isinstance(done, dict)
    if sum(done.values()) < size.least_rebalances or (size.least_rebalances and len(done) < len(made.world.groups)):
        yield f"rebalances {done}, of {size.least_rebalances} over {len(made.world.groups)} protocols"
    if len(made.network.faults) < size.network:
        yield f"{len(made.network.faults)} faults of the network, of {size.network}"
    if made.load.sent < size.jobs:
        yield f"{made.load.sent} submissions, of {size.jobs}"
    unproven = verdict.document["unproven"]
    if unproven and size.least_worker_kills:
        yield f"nothing to check {unproven} on"


def _killed(made: Run) -> Counter[str]:
    return Counter(kill.service for kill in (*made.fleet.kills, *made.services.kills) if kill.how == "SIGKILL")


def returns(returned: Sequence[tuple[str, int]], outputs: Sequence[Output], groups: int) -> Iterator[Recovery]:
    """From a service's return to the first committed output after it, in the slowest of the groups."""
    moments: dict[str, list[int]] = {}
    for output in outputs:
        if output.committed and output.src is not None:
            moments.setdefault(_deployment(output.topic), []).append(output.timestamp_ms)
    for service, at_ms in returned:
        firsts = [min((ms for ms in times if ms >= at_ms), default=None) for times in moments.values()]
        if len(firsts) == groups and None not in firsts:
            yield Recovery(service=service, seconds=max(ms - at_ms for ms in firsts if ms is not None) / 1e3)


def _deployment(topic: str) -> str:
    """PREFIX.GROUP of PREFIX.GROUP.results and its like."""
    return ".".join(topic.split(".")[:2])


def told(made: Run) -> dict[str, object]:
    """What the harness itself has to tell: the work done, the points that acted, how workers ended, what went wrong."""
    seconds = (now_ms() - made.started_ms) / 1e3
    return {
        "faults": made.faults,
        "sent": made.load.sent,
        "sent_per_s": round(made.load.sent / seconds, 1),
        "starts": made.fleet.starts,
        "points": dict(sorted(made.fleet.hits().items())),
        "exits": {str(code): count for code, count in sorted(Counter(one.code for one in made.fleet.exits).items())},
    }
