"""The verdict of a chaos run as JSON: every invariant, what it was checked on, and what was done to the system."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.chaos.checker import INVARIANTS, counted, violations_of
from tests.chaos.invariants import Case, look_up
from tests.chaos.observation import Chronicle, Observation, Recovery, Violation

SHOWN = 20  # violations of an invariant that the file holds


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`document` is what the file holds; `violations` are all of them."""

    document: Mapping[str, object]
    violations: tuple[Violation, ...]

    @property
    def held(self) -> bool:
        return not self.violations

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.document, indent=2) + "\n")


def reach_verdict(observation: Observation, chronicle: Chronicle) -> Verdict:
    """Check everything once, and put it beside what was done."""
    case = look_up(observation)
    violations = violations_of(case)
    document = {
        "held": not violations,
        "unproven": sorted(name for name, count in counted(case).items() if not count),
        "invariants": _invariants(case, violations),
        "counts": _counts(observation),
        **_done(chronicle),
    }
    return Verdict(document=document, violations=violations)


def _invariants(case: Case, violations: Sequence[Violation]) -> dict[str, object]:
    told: defaultdict[str, list[str]] = defaultdict(list)
    for violation in violations:
        told[violation.invariant].append(violation.detail)
    checked = counted(case)
    return {
        invariant.name: {
            "says": invariant.title,
            "state": _state(told[invariant.name], checked[invariant.name]),
            "checked": checked[invariant.name],
            "violations": len(told[invariant.name]),
            "examples": told[invariant.name][:SHOWN],
        }
        for invariant in INVARIANTS
    }


def _state(details: Sequence[str], checked: int) -> str:
    """Unproven: nothing was there to check, which is not the same as held."""
    if details:
        return "violated"
    return "held" if checked else "unproven"


def _counts(seen: Observation) -> dict[str, object]:
    return {
        "submissions": len(seen.submissions),
        "jobs": dict(Counter(job.state for job in seen.jobs)),
        "inputs": len(seen.inputs),
        "outputs": dict(Counter(output.kind for output in seen.outputs if output.committed)),
        "aborted_outputs": sum(not output.committed for output in seen.outputs),
        "dead_letters": dict(Counter(letter.code for letter in seen.letters)),
        "verdicts": dict(Counter(verdict.verdict for verdict in seen.verdicts)),
        "sightings_meanwhile": sum(len(reader.sightings) for reader in seen.readers),
        "readers_broken_off": [f"{r.name}: {r.broke_off}" for r in seen.readers if r.broke_off],
        "offset_samples": len(seen.offsets),
        "starts_left": len(seen.attempts),
    }


def _done(chronicle: Chronicle) -> dict[str, object]:
    kills = chronicle.kills
    return {
        "seed": chronicle.seed,
        "commit": chronicle.commit,
        "seconds": round((chronicle.ended_at_ms - chronicle.started_at_ms) / 1000, 1),
        "kills": _tally(f"{kill.service} {kill.how}" for kill in kills),
        "failpoints": _tally(kill.failpoint for kill in kills if kill.failpoint),
        "faults": _tally(fault.kind for fault in chronicle.faults),
        "rebalances": _tally(rebalance.protocol for rebalance in chronicle.rebalances),
        "recovery_s": _recoveries(chronicle.recoveries),
        "host": dict(chronicle.host),
    }


def _tally(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def _recoveries(recoveries: Sequence[Recovery]) -> dict[str, object]:
    by_service: defaultdict[str, list[float]] = defaultdict(list)
    for recovery in recoveries:
        by_service[recovery.service].append(recovery.seconds)
    return {
        service: {"count": len(times), "median": round(median(times), 2), "longest": round(max(times), 2)}
        for service, times in sorted(by_service.items())
    }
