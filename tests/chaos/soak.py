"""`python -m tests.chaos.soak`: a steady load for a while with an occasional fault; does anything grow?

Two workers share a group. One is looked at and never harmed itself; the other and the services are. Writes soak.json,
soak.md and soak.svg; ends with 1 where a job was left, a worker ended strangely, or memory clearly grows.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import cycle
from pathlib import Path

from benchmarks.host import commit, host_facts
from devstack import Devstack
from devstack.ports import free_port
from tests.chaos.flaky_host import FlakyHost
from tests.chaos.fleet import Fleet, Slot, wait_until
from tests.chaos.load import Load
from tests.chaos.reading import process_sample
from tests.chaos.services import Services
from tests.chaos.soak_series import MIB, Buckets, Sample, latency_buckets, plot, quantile, table, trends
from tests.chaos.watch import Watch
from tests.chaos.world import World, new_world
from worker.observe import configure_logs

ROOT = Path(__file__).resolve().parents[2]
OUT = Path(__file__).resolve().parent / "out" / "soak"
STEADY, HARMED = "soak-steady", "soak-harmed"
READY_S, QUIET_S = 90.0, 120.0
FAULT_EVERY_S = (15.0, 45.0)  # an eighth of the run, within these
MOST_MIB_HOUR = 1.0  # more is a leak
LONG_ENOUGH_S = 1_800.0  # below, growth of a young process and noise are larger than what a leak would show
Say = Callable[[str], None]


@dataclass(slots=True, kw_only=True)
class Soak:
    """All that takes part, and what came of it: `harm` is (second, what), `faults` are of the run itself."""

    world: World
    fleet: Fleet
    load: Load
    services: Services
    watch: Watch
    health: str
    say: Say
    began_s: float = 0.0
    samples: list[Sample] = field(default_factory=list)
    harm: list[tuple[float, str]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def now_s(self) -> float:
        return time.monotonic() - self.began_s


HARM: Mapping[str, Callable[[Soak], None]] = {
    "the other worker is killed": lambda soak: soak.fleet.kill(HARMED),
    "PostgreSQL stands still for 3 s": lambda soak: soak.services.freeze("postgres", 3.0),
    "the other worker is stopped and started": lambda soak: soak.fleet.terminate(HARMED),
    "all database sessions are ended": lambda soak: soak.services.terminate_backends("assay_worker"),
    "Kafka stands still for 3 s": lambda soak: soak.services.freeze("kafka", 3.0),
    "Redis is killed": lambda soak: soak.services.kill("redis", 1.0),
    "the other worker freezes for 4 s": lambda soak: soak.fleet.freeze(HARMED, 4.0),
    "PostgreSQL is killed": lambda soak: soak.services.kill("postgres", 1.0),
}


def main(argv: Sequence[str] | None = None) -> int:
    given = _arguments(argv)
    configure_logs(level="error", form="console")
    shutil.rmtree(given.out, ignore_errors=True)
    given.out.mkdir(parents=True)
    began_s = time.monotonic()

    def say(line: str) -> None:
        sys.stdout.write(f"[{time.monotonic() - began_s:6.1f} s] {line}\n")
        sys.stdout.flush()

    stack = Devstack(given.stack)
    stack.reset()
    try:
        soak = _made(given, stack, say)
        _run(soak, given.minutes * 60.0)
        return _told(soak, given)
    finally:
        stack.down()


def _made(given: argparse.Namespace, stack: Devstack, say: Say) -> Soak:
    host = FlakyHost()
    host.start()  # to the end of the process
    whole = new_world(stack.up(), given.out, host)
    group = next(group for group in whole.groups if group.name == "cooperative")
    world, port = replace(whole, groups=(group,)), free_port()
    watched = {**group.environment, "ASSAY_OBSERVE__PORT": str(port)}
    slots = [
        Slot(instance=STEADY, group=group.name, environment=watched),
        Slot(instance=HARMED, group=group.name, environment=group.environment),
    ]
    return Soak(
        world=world,
        fleet=Fleet(slots, given.out / "workers"),
        load=Load(world, seed=given.seed, jobs=0, rate_s=given.rate),
        services=Services(stack, world.addresses.superuser_url),
        watch=Watch(world),
        health=f"http://127.0.0.1:{port}",
        say=say,
    )


def _run(soak: Soak, duration_s: float) -> None:
    """Load, samples and harm for `duration_s`, then until nothing is left to do."""
    soak.fleet.start()
    soak.load.start()
    try:
        if not wait_until(lambda: len({name for _, name in soak.fleet.commits}) == 2, READY_S):
            soak.faults.append(f"not both workers have committed within {READY_S:.0f} s")
        soak.began_s = time.monotonic()
        ending = threading.Event()
        apart = threading.Thread(target=_harm, args=(soak, duration_s, ending), name="harm", daemon=True)
        apart.start()
        _look(soak, duration_s)
        ending.set()
        apart.join()
        _finish(soak)
    finally:
        soak.load.stop()
        codes = soak.fleet.stop()
    soak.faults += [f"{name} ended with {code} after SIGTERM" for name, code in codes.items() if code != 0]
    soak.faults += [str(one) for one in soak.fleet.exits if one.strange or one.instance == STEADY]


def _harm(soak: Soak, duration_s: float, ending: threading.Event) -> None:
    least_s, most_s = FAULT_EVERY_S
    for what, act in cycle(HARM.items()):
        if ending.wait(max(least_s, min(most_s, duration_s / 8.0))):
            return
        soak.harm.append((soak.now_s(), what))
        soak.say(f"{what}; behind {soak.watch.behind()}")
        try:
            act(soak)
        except Exception as error:  # the run is told as failed, not left hanging
            soak.faults.append(f"{what}: {error!r}")


def _look(soak: Soak, duration_s: float) -> None:
    """About 200 samples, however long the run."""
    every_s, pause = max(1.0, duration_s / 200.0), threading.Event()
    before_s, before = soak.now_s(), _buckets(soak, {})
    while soak.now_s() < duration_s:
        pause.wait(every_s)
        pid, now_s, now = soak.fleet.pids().get(STEADY), soak.now_s(), _buckets(soak, before)
        if pid is None:
            continue
        seen = process_sample(pid, STEADY, "baseline")
        jobs = max(now.values(), default=0.0) - max(before.values(), default=0.0)
        sample = Sample(
            at_s=now_s, rss_mib=seen.rss_bytes / MIB, descriptors=seen.handles, threads=seen.threads,
            connections=seen.connections, jobs_s=jobs / (now_s - before_s), p99_s=quantile(before, now, 0.99),
        )  # fmt: skip
        soak.samples.append(sample)
        before_s, before = now_s, now


def _buckets(soak: Soak, otherwise: Buckets) -> Buckets:
    try:
        return latency_buckets(soak.health)
    except OSError:
        return otherwise


def _finish(soak: Soak) -> None:
    soak.load.stop()
    soak.load.join()
    soak.say(f"no more load; {soak.load.sent} sent, behind {soak.watch.behind()}")
    if not wait_until(soak.watch.finished, QUIET_S, every_s=1.0):
        soak.faults.append(f"not quiet within {QUIET_S:.0f} s: {soak.watch.behind()} records behind")


def _told(soak: Soak, given: argparse.Namespace) -> int:
    """Write the record, print it, and return the exit code."""
    duration_s = given.minutes * 60.0
    found = trends(soak.samples, duration_s)
    memory = found["memory, MiB"]
    if memory is not None and duration_s >= LONG_ENOUGH_S and memory.clearly_above(MOST_MIB_HOUR):
        soak.faults.append(f"memory grows: {memory} MiB")
    lines = [f"- {name}: {one or 'too few samples'}" for name, one in found.items()]
    short = "" if duration_s >= LONG_ENOUGH_S else "A run this short is told, and fails for no growth.\n"
    text = f"{table(soak.samples)}\n\nTrend after the first fifth:\n\n" + "\n".join(lines) + f"\n\n{short}"
    document = {
        "seed": given.seed, "minutes": given.minutes, "rate_s": given.rate, "commit": commit(), "host": host_facts(),
        "sent": soak.load.sent, "starts": soak.fleet.starts, "faults": soak.faults, "harm": soak.harm,
        "trends": {name: asdict(one) if one else None for name, one in found.items()},
        "samples": [asdict(one) for one in soak.samples],
    }  # fmt: skip
    (given.out / "soak.json").write_text(json.dumps(document, indent=1, default=str) + "\n")
    (given.out / "soak.md").write_text(text)
    (given.out / "soak.svg").write_text(plot(soak.samples, soak.harm))
    shutil.rmtree(given.out / "stand", ignore_errors=True)
    soak.say(f"{soak.load.sent} jobs, {len(soak.harm)} faults\n\n{text}\nfaults of the run: {soak.faults or 'none'}")
    return 1 if soak.faults else 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=15.0, help="jobs a second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--stack", type=Path, default=ROOT / ".devstack" / "soak")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
