"""One chaos run: services, deployments, load, the schedule by the clock, and a wait until nothing is left to do."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from devstack import Devstack
from tests.chaos import schedule as planned
from tests.chaos.concurrent_reader import ConcurrentReader
from tests.chaos.flaky_host import FlakyHost
from tests.chaos.fleet import Arming, Fleet, Slot, now_ms, wait_until
from tests.chaos.ledger import Ledger
from tests.chaos.load import Load
from tests.chaos.network import Network
from tests.chaos.observation import Moment, ProcessSample, Reader
from tests.chaos.reading import process_sample
from tests.chaos.schedule import Event, Size, schedule
from tests.chaos.services import Services
from tests.chaos.watch import Watch
from tests.chaos.world import Group, World, new_world
from worker.adapters.failpoints import NAMES

READY_S = 60.0
QUIET_S = 240.0
MAKE_UP_S = 150.0
ROUND_S = 22.0  # within which an armed point is reached, or another kind of work has to reach it
SETTLED_S = 5.0
WITNESS = "witness"  # lives through the whole run, unharmed
OF_SERVICES = frozenset({"service_kill", "service_freeze", "backends"})
Say = Callable[[str], None]


@dataclass(slots=True, kw_only=True)
class Run:
    """All that takes part in a run, and what came of it. `faults`: of the run itself, which no invariant tells."""

    size: Size
    seed: int
    say: Say
    world: World
    fleet: Fleet
    load: Load
    services: Services
    network: Network
    watch: Watch
    images: FlakyHost
    ledger: Ledger
    events: Sequence[Event]
    started_ms: int = field(default_factory=now_ms)
    samples: list[ProcessSample] = field(default_factory=list)
    readers: list[Reader] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def run(size: Size, *, seed: int, folder: Path, stack: Devstack, say: Say) -> Run:
    """Play the whole run; the services are up before and after. Raises DevstackError when one does not come back."""
    images = FlakyHost()
    world = new_world(stack.up(), folder, images)
    made = _made(world, images, size, seed, folder, stack, say)
    readers = [_reader(made, group) for group in world.groups]
    made.images.start()
    made.ledger.start()
    made.network.start()
    made.watch.start()
    made.fleet.start()
    try:
        _harm(made)
        _finish(made)
    finally:
        _stop(made, readers)
    made.faults += [str(one) for one in made.fleet.exits if one.strange]
    made.faults += [f"not sent: {failure}" for failure in made.load.failures[:5]]
    made.faults += [f"{name} acted {made.size.rounds - left} times" for name, left in _missing(made).items()]
    return made


def _made(world: World, images: FlakyHost, size: Size, seed: int, folder: Path, stack: Devstack, say: Say) -> Run:
    network = Network(world)
    slots = [slot for group in world.groups for slot in _slots(group, size, network)]
    harmed = {group.name: [s.instance for s in slots if s.group == group.name] for group in world.groups}
    slots.append(_slot(world.groups[-1], WITNESS))
    return Run(
        size=size,
        seed=seed,
        say=say,
        world=world,
        fleet=Fleet(slots, folder / "workers"),
        load=Load(world, seed=seed, jobs=size.jobs, rate_s=size.rate_s),
        services=Services(stack, world.addresses.superuser_url),
        network=network,
        watch=Watch(world),
        images=images,
        ledger=Ledger(world.kafka, world.stand.owner_url, world.groups[0].topics.audit),
        events=schedule(size, harmed, seed=seed),
    )


def _slots(group: Group, size: Size, network: Network) -> list[Slot]:
    """The first worker of a group goes through the proxies. It asks for their address when it starts."""
    return [
        Slot(
            instance=f"{group.name}-{number}", group=group.name, environment=group.environment,
            through=network.through if number == 0 else None,
        )
        for number in range(size.workers)
    ]  # fmt: skip


def _slot(group: Group, instance: str) -> Slot:
    return Slot(instance=instance, group=group.name, environment=group.environment)


def _reader(made: Run, group: Group) -> ConcurrentReader:
    return ConcurrentReader(made.world.kafka, [group.topics.results, group.topics.dlq], name=group.name).start()


def _harm(made: Run) -> None:
    """The schedule, by the clock. Faults of services take their time, so they have a thread of their own."""
    made.load.start()
    began_s = time.monotonic()
    if not wait_until(lambda: any(name == WITNESS for _, name in made.fleet.commits), READY_S):
        made.faults.append(f"the {WITNESS} has committed nothing within {READY_S:.0f} s")
    _wait_for(max(began_s + planned.LEAD_S, time.monotonic() + 2 * SETTLED_S))  # its pools and clients are all open
    _sample(made, "baseline")
    apart = threading.Thread(target=_harm_services, args=(made, began_s), name="services", daemon=True)
    apart.start()
    for event in (one for one in made.events if one.kind not in OF_SERVICES):
        _wait_for(began_s + event.at_s)
        _do(made, event)
    apart.join()
    _make_up(made)


def _harm_services(made: Run, began_s: float) -> None:
    for event in (one for one in made.events if one.kind in OF_SERVICES):
        _wait_for(began_s + event.at_s)
        made.say(f"{event.kind} {event.target} (planned at {event.at_s:.0f} s); behind {made.watch.behind()}")
        try:
            _do(made, event)
        except Exception as error:  # the run is told as failed, not left hanging
            made.faults.append(f"{event.kind} {event.target}: {error!r}")


def _do(made: Run, event: Event) -> None:
    fleet, services = made.fleet, made.services
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
        case "network":
            made.network.play(event.target, event.seconds)
        case "service_kill":
            services.kill(event.target, event.seconds)
        case "service_freeze":
            services.freeze(event.target, event.seconds)
        case "backends":
            services.terminate_backends(event.target)


def _guest(world: World, instance: str) -> Slot:
    return _slot(next(group for group in world.groups if instance == planned.guest(group.name)), instance)


def _make_up(made: Run) -> None:
    """Points that were not reached often enough are armed again for their first hit, while the load goes on."""
    rng, until_s = random.Random(made.seed + 1), time.monotonic() + MAKE_UP_S
    targets = [(group.name, f"{group.name}-{n}") for group in made.world.groups for n in range(made.size.workers)]
    while (missing := list(_missing(made).elements())) and time.monotonic() < until_s:
        made.say(f"points to make up for: {dict(Counter(missing))}")
        rng.shuffle(targets)
        for name, (group, instance) in zip(missing, targets, strict=False):
            made.fleet.kill(instance, then=[Arming(name=name, what="kill@1")])
            for event in planned.provoked(name, instance, group, planned.PROVOKED_AFTER_S):
                threading.Timer(event.at_s, _do, (made, event)).start()
        wait_until(lambda: not made.fleet.armed(), ROUND_S)


def _missing(made: Run) -> Counter[str]:
    hits, wanted = made.fleet.hits(), made.size.rounds
    return Counter({name: wanted - hits.get(name, 0) for name in NAMES if hits.get(name, 0) < wanted})


def _finish(made: Run) -> None:
    """No more harm: the rest of the load, and then until nothing is left to do."""
    made.network.clear()
    made.fleet.disarm()
    made.load.hold = False
    made.say(f"no more harm; {made.load.sent} sent, behind {made.watch.behind()}")
    made.load.join()
    if not wait_until(made.watch.finished, QUIET_S, every_s=1.0):
        behind = f"{made.watch.behind()} records behind; {made.watch.trouble}"
        made.faults.append(f"not quiet within {QUIET_S:.0f} s: {behind}")
    made.say(f"quiet; {made.load.sent} sent")
    _wait_for(time.monotonic() + SETTLED_S)
    _sample(made, "end")


def _stop(made: Run, readers: Sequence[ConcurrentReader]) -> None:
    made.load.stop()
    codes = made.fleet.stop()
    made.network.stop()
    made.images.stop()
    made.ledger.stop()
    made.watch.stop()
    made.readers += [reader.stop() for reader in readers]
    made.services.keep_broker_log()
    made.faults += [f"{name} ended with {code} after SIGTERM" for name, code in codes.items() if code != 0]


def _sample(made: Run, moment: Moment) -> None:
    pid = made.fleet.pids().get(WITNESS)
    if pid is None:
        made.faults.append(f"the {WITNESS} is not alive at the {moment}")
    else:
        made.samples.append(process_sample(pid, f"{WITNESS} {pid}", moment))


def _wait_for(moment_s: float) -> None:
    threading.Event().wait(max(0.0, moment_s - time.monotonic()))
