"""What is done to the world, when: a seeded list of plain events that can be printed, kept and played again."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Literal

from worker.adapters.failpoints import NAMES

Kind = Literal["kill", "freeze", "term", "join", "leave", "service_kill", "service_freeze", "backends", "network"]
LEAD_S = 12.0  # all workers are in their groups and at work
SERVICE_GAP_S = 24.0  # at least, from one service's fault to the next
# How often a worker passes a point before it acts, at most; a hit that is never reached is made up for later.
MOST_HITS: Mapping[str, int] = {
    "after_poll": 60, "before_attempt_row": 6, "after_attempt_row": 6, "after_fetch": 60, "before_decode": 20,
    "after_infer": 20, "in_revoke": 1, "before_close": 1, "after_produce": 60,
}  # fmt: skip
OTHER_HITS = 20
NEEDS_REBALANCE, NEEDS_STOP = "in_revoke", "before_close"
PROVOKED_AFTER_S = 9.0
NETWORK = (
    "kafka:drop_request:EndTxn", "kafka:drop_response:EndTxn", "kafka:reset_response:EndTxn",
    "kafka:delay_request:EndTxn", "kafka:drop_response:AddOffsetsToTxn", "kafka:delay_request:AddOffsetsToTxn",
    "kafka:drop_response:TxnOffsetCommit", "kafka:drop_request:TxnOffsetCommit",
    "kafka:drop_response:AddPartitionsToTxn",
    "kafka:drop_response:Produce", "kafka:reset_response:Produce", "kafka:drop_request:Heartbeat",
    "kafka:drop_request:ConsumerGroupHeartbeat", "kafka:reset_response:Fetch", "kafka:reset_request:InitProducerId",
    "kafka:blackhole", "kafka:reset", "kafka:latency", "kafka:bandwidth", "kafka:half_open",
    "postgres:cut_commit_reply", "postgres:cut_commit", "postgres:blackhole", "postgres:reset", "postgres:latency",
    "postgres:bandwidth", "postgres:half_open",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """`target`: a worker's instance, a service, or a fault of NETWORK. `arm`: failpoints for its next starts."""

    at_s: float
    kind: Kind
    target: str
    seconds: float = 0.0
    arm: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much of everything. `rounds`: how often each failpoint is to act. Below `least_*` a run proves too little."""

    jobs: int
    rate_s: float
    duration_s: float
    workers: int  # a group
    rounds: int
    kills: int  # SIGKILLs at random; each failpoint adds one more
    freezes: int
    terms: int
    storms: int  # joins and leaves of one more worker, a group
    service_kills: int  # a service
    service_freezes: int
    backends: int
    network: int
    least_worker_kills: int = 0
    least_rebalances: int = 0


SMOKE = Size(
    jobs=600, rate_s=10.0, duration_s=60.0, workers=1, rounds=0, kills=3, freezes=1, terms=1, storms=1,
    service_kills=0, service_freezes=0, backends=1, network=2,
)  # fmt: skip
QUICK = Size(
    jobs=20_000, rate_s=60.0, duration_s=320.0, workers=2, rounds=2, kills=34, freezes=6, terms=6, storms=3,
    service_kills=3, service_freezes=1, backends=1, network=24, least_worker_kills=60, least_rebalances=40,
)  # fmt: skip
FULL = Size(
    jobs=200_000, rate_s=70.0, duration_s=2_800.0, workers=2, rounds=26, kills=420, freezes=40, terms=40, storms=20,
    service_kills=20, service_freezes=5, backends=8, network=220, least_worker_kills=500, least_rebalances=200,
)  # fmt: skip


def schedule(size: Size, groups: Mapping[str, Sequence[str]], *, seed: int) -> tuple[Event, ...]:
    """Events by time. `groups` holds the instances that may be harmed, a group; one more of each may come and go."""
    rng = random.Random(seed)
    workers = _worker_kills(size, groups, rng)
    services = _services(size, rng)
    others = [*_singles(size, groups, rng), *_storms(size, groups, rng), *_network(size, rng)]
    return tuple(sorted([*workers, *services, *others], key=lambda event: (event.at_s, event.target)))


def guest(group: str) -> str:
    """The instance that comes and goes."""
    return f"{group}-guest"


def provoked(name: str, instance: str, group: str, at_s: float) -> list[Event]:
    """What must happen for a point to be reached that work alone does not reach."""
    if name == NEEDS_REBALANCE:
        other = guest(group)
        return [
            Event(at_s=at_s, kind="join", target=other),
            Event(at_s=at_s + 12.0, kind="leave", target=other),
        ]  # fmt: skip
    return [Event(at_s=at_s, kind="term", target=instance, seconds=0.5)] if name == NEEDS_STOP else []


def arming(name: str, rng: random.Random) -> tuple[str, str]:
    return name, f"kill@{rng.randint(1, MOST_HITS.get(name, OTHER_HITS))}"


def _worker_kills(size: Size, groups: Mapping[str, Sequence[str]], rng: random.Random) -> list[Event]:
    """Kills at random, evenly over the workers; most of them arm a failpoint for the next start."""
    points = [name for _ in range(size.rounds) for name in rng.sample(NAMES, len(NAMES))]
    slots = [(group, instance) for group, instances in groups.items() for instance in instances]
    order = list(islice(_shuffled(slots, rng), max(size.kills, len(points))))
    events: list[Event] = []
    for at_s, (group, instance), place in zip(_spread(len(order), size, rng), order, range(len(order)), strict=True):
        arm = (arming(points[place], rng),) if place < len(points) else ()
        events.append(Event(at_s=at_s, kind="kill", target=instance, arm=arm))
        if arm:
            events += provoked(arm[0][0], instance, group, at_s + PROVOKED_AFTER_S)
    return events


def _shuffled(slots: list[tuple[str, str]], rng: random.Random) -> Iterator[tuple[str, str]]:
    """The workers in turn, another order each round, so that each has time between two deaths."""
    for _ in cycle([None]):
        yield from rng.sample(slots, len(slots))


def _spread(count: int, size: Size, rng: random.Random) -> list[float]:
    """Moments over the run, one a stretch of it."""
    stretch_s = (size.duration_s - LEAD_S) / max(1, count)
    return [LEAD_S + (place + rng.random()) * stretch_s for place in range(count)]


def _services(size: Size, rng: random.Random) -> list[Event]:
    """In turn and apart from each other: a fault a time, so that each recovery can be measured."""
    events: list[tuple[Kind, str]] = [
        ("service_kill", name) for name in ("kafka", "postgres", "redis") for _ in range(size.service_kills)
    ]
    events += [("service_freeze", name) for name in ("kafka", "postgres") for _ in range(size.service_freezes)]
    events += [("backends", "assay_worker")] * size.backends
    rng.shuffle(events)
    gap_s = max(SERVICE_GAP_S, (size.duration_s - LEAD_S) / max(1, len(events)))
    return [
        Event(
            at_s=LEAD_S + place * gap_s + rng.uniform(0.0, 4.0), kind=kind, target=name, seconds=rng.uniform(0.5, 3.0)
        )
        for place, (kind, name) in enumerate(events)
    ]  # fmt: skip


def _singles(size: Size, groups: Mapping[str, Sequence[str]], rng: random.Random) -> list[Event]:
    instances = [instance for group in groups.values() for instance in group]
    lengths = cycle((1.0, 4.0, 9.0, 14.0))  # within the session, about it, beyond the transaction's timeout
    frozen = [
        Event(at_s=at_s, kind="freeze", target=rng.choice(instances), seconds=next(lengths))
        for at_s in _spread(size.freezes, size, rng)
    ]
    ended = [
        Event(at_s=at_s, kind="term", target=rng.choice(instances), seconds=0.5)
        for at_s in _spread(size.terms, size, rng)
    ]
    return frozen + ended


def _storms(size: Size, groups: Mapping[str, Sequence[str]], rng: random.Random) -> list[Event]:
    events: list[Event] = []
    for group in groups:
        for at_s in _spread(size.storms, size, rng):
            events.append(Event(at_s=at_s, kind="join", target=guest(group)))
            events.append(Event(at_s=at_s + rng.uniform(8.0, 14.0), kind="leave", target=guest(group)))
    return events


def _network(size: Size, rng: random.Random) -> list[Event]:
    faults = islice(cycle(rng.sample(NETWORK, len(NETWORK))), size.network)
    return [
        Event(at_s=at_s, kind="network", target=fault, seconds=rng.uniform(2.0, 6.0))
        for at_s, fault in zip(_spread(size.network, size, rng), faults, strict=True)
    ]
