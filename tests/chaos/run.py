"""One chaos run from nothing to its verdict: services, deployments, load, schedule, quiescence, proof."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from devstack import Devstack
from tests.chaos import schedule as planned
from tests.chaos.fleet import Arming, Fleet, Slot, now_ms, wait_until
from tests.chaos.load import Load
from tests.chaos.schedule import Event, Size, schedule
from tests.chaos.services import Services
from tests.chaos.watch import Watch
from tests.chaos.world import World, new_world
from worker.adapters.failpoints import NAMES

READY_S = 60.0
QUIET_S = 240.0
MAKE_UP_S = 150.0
Say = Callable[[str], None]


@dataclass(slots=True, kw_only=True)
class Run:
    """All that takes part in a run, and what came of it."""

    size: Size
    seed: int
    folder: Path
    say: Say
    world: World
    fleet: Fleet
    load: Load
    services: Services
    watch: Watch
    started_ms: int = field(default_factory=now_ms)
    faults: list[str] = field(default_factory=list)  # of the run itself: what no invariant tells


def run(size: Size, *, seed: int, folder: Path, stack: Devstack, say: Say) -> Run:
    """Play the whole run; the services are up before and after. Raises DevstackError when one does not come back."""
    world = new_world(stack.up(), folder)
    made = _made(world, size, seed, folder, stack, say)
    made.watch.start()
    made.fleet.start()
    made.load.start()
    try:
        _play(made)
        _finish(made)
    finally:
        made.load.stop()
        codes = made.fleet.stop()
        made.watch.stop()
        made.services.keep_broker_log()
    made.faults += [f"{name} ended with {code} after SIGTERM" for name, code in codes.items() if code != 0]
    made.faults += [
        f"{one.instance} ended with {one.code} after SIGTERM"
        for one in made.fleet.exits
        if one.asked == "SIGTERM" and one.code != 0
    ]
    return made


def _made(world: World, size: Size, seed: int, folder: Path, stack: Devstack, say: Say) -> Run:
    slots = [
        Slot(instance=f"{group.name}-{number}", group=group.name, environment=group.environment)
        for group in world.groups
        for number in range(size.workers)
    ]
    return Run(
        size=size,
        seed=seed,
        folder=folder,
        say=say,
        world=world,
        fleet=Fleet(slots, folder / "workers"),
        load=Load(world, seed=seed, jobs=size.jobs, rate_s=size.rate_s),
        services=Services(stack, world.addresses.superuser_url),
        watch=Watch(world),
    )


def _play(made: Run) -> None:
    """The schedule, by the clock. Faults of services take their time, so they have a thread of their own."""
    harmed = {group.name: [s.instance for s in made.fleet.slots(group.name)] for group in made.world.groups}
    events = schedule(made.size, harmed, seed=made.seed)
    began_s = time.monotonic()
    apart = threading.Thread(target=_services, args=(made, events, began_s), name="services", daemon=True)
    apart.start()
    for event in (one for one in events if not one.kind.startswith(("service", "backends"))):
        _wait_for(began_s + event.at_s)
        _do(made, event)
    apart.join()
    _make_up(made)


def _services(made: Run, events: Iterable[Event], began_s: float) -> None:
    for event in events:
        if event.kind.startswith(("service", "backends")):
            _wait_for(began_s + event.at_s)
            made.say(f"{event.at_s:5.0f} s: {event.kind} {event.target}")
            try:
                _to_service(made.services, event)
            except Exception as error:  # the run is told as failed, not left hanging
                made.faults.append(f"{event.kind} {event.target}: {error!r}")


def _to_service(services: Services, event: Event) -> None:
    match event.kind:
        case "service_kill":
            services.kill(event.target, event.seconds)
        case "service_freeze":
            services.freeze(event.target, event.seconds)
        case "backends":
            services.terminate_backends(event.target)


def _do(made: Run, event: Event) -> None:
    fleet = made.fleet
    match event.kind:
        case "kill":
            fleet.kill(event.target, then=[Arming(name=name, what=what) for name, what in event.arm])
        case "freeze":
            fleet.freeze(event.target, event.seconds)
        case "term":
            fleet.terminate(event.target, down_s=event.seconds)
        case "join":
            fleet.join(_guest(made.world, event.target))
        case "leave":
            fleet.leave(event.target)


def _guest(world: World, instance: str) -> Slot:
    group = next(group for group in world.groups if instance == planned.guest(group.name))
    return Slot(instance=instance, group=group.name, environment=group.environment)


def _make_up(made: Run) -> None:
    """Points that were not reached often enough are armed again, while the load goes on."""
    rng, until_s = random.Random(made.seed + 1), time.monotonic() + MAKE_UP_S
    while (missing := _missing(made)) and time.monotonic() < until_s:
        made.say(f"points to make up for: {dict(missing)}")
        groups = [group.name for group in made.world.groups]
        for place, name in enumerate(missing.elements()):
            slots = made.fleet.slots(groups[place % len(groups)])
            target = slots[place // len(groups) % made.size.workers].instance
            name_and_hit = planned.arming(name, rng)
            made.fleet.kill(target, then=[Arming(name=name_and_hit[0], what="kill@1")])
            for event in planned.provoked(name, target, groups[place % len(groups)], 0.0):
                threading.Timer(6.0 + event.at_s, _do, (made, event)).start()
            if place % (len(groups) * made.size.workers) == len(groups) * made.size.workers - 1:
                _wait_for(time.monotonic() + 12.0)
        wait_until(lambda: not made.fleet.armed(), 25.0)


def _missing(made: Run) -> Counter[str]:
    hits = made.fleet.hits()
    return Counter(
        {name: made.size.rounds - hits.get(name, 0) for name in NAMES if hits.get(name, 0) < made.size.rounds}
    )


def _finish(made: Run) -> None:
    """No more harm: the rest of the load, and then until nothing is left to do."""
    made.fleet.disarm()
    made.load.hold = False
    made.load.join()
    quiet = wait_until(made.watch.finished, QUIET_S, every_s=1.0)
    if not quiet:
        made.faults.append(f"not quiet within {QUIET_S:.0f} s: {made.watch.behind()} records behind")


def _wait_for(moment_s: float) -> None:
    threading.Event().wait(max(0.0, moment_s - time.monotonic()))


def counts(made: Run) -> Mapping[str, object]:
    """What was done, for the summary."""
    kills = Counter(f"{kill.service} {kill.how}" for kill in (*made.fleet.kills, *made.services.kills))
    codes = Counter(one.code for one in made.fleet.exits)
    return {"kills": dict(kills), "failpoints": made.fleet.hits(), "exits": dict(codes), "starts": made.fleet.starts}
