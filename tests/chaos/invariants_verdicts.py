"""I8, I9 and I10, as far as stored verdicts show them: the same photographs, broken numbers, the audit chain."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from schemas.codes import ReasonCode
from tests.chaos.invariants import Case, violations
from tests.chaos.observation import VerdictRow, Violation

# Such a verdict may differ: it depends on other jobs, or says itself that its score lies within the jitter.
DIFFERS = {ReasonCode.IMAGE_REUSED.value, ReasonCode.SCORE_NEAR_THRESHOLD.value}


def verdicts_repeat(case: Case) -> Iterator[Violation]:
    """I8."""
    for (content, engine), rows in alike(case).items():
        found = {row.verdict: row.result_id for row in rows}
        if len(found) > 1:
            told = f"photographs {content[:12]} with engine {engine[:12]} are {found}"
            yield Violation(invariant="I8", detail=told)
    least = case.seen.limits.least_cosine
    for spread in case.seen.spreads:
        if not spread.least_cosine >= least:
            told = f"photograph {spread.photograph[:12]}: {spread.embeddings} embeddings, cosine {spread.least_cosine}"
            yield Violation(invariant="I8", detail=f"{told} where {least} is the least")


def alike(case: Case) -> dict[tuple[str, str], list[VerdictRow]]:
    """Verdicts on the same photographs by the same engines, where there are several."""
    groups: defaultdict[tuple[str, str], list[VerdictRow]] = defaultdict(list)
    for row in case.seen.verdicts:
        if not DIFFERS.intersection(row.reasons):
            groups[row.content, row.engine].append(row)
    return {group: rows for group, rows in groups.items() if len(rows) > 1}


def numbers_hold(case: Case) -> Iterator[Violation]:
    """I9: a batch that a device broke shows as numbers that are none."""
    broken = (verdict for verdict in case.seen.verdicts if not verdict.numbers_finite)
    yield from violations("I9", (f"verdict {v.result_id} holds a number that is not finite" for v in broken))


def audit_verifies(case: Case) -> Iterator[Violation]:
    """I10."""
    yield from violations("I10", case.seen.audit_findings or ())


def strays_told(case: Case) -> Iterator[Violation]:
    """What reading found amiss, under the invariant that it named."""
    return (Violation(invariant=stray.invariant, detail=stray.detail) for stray in case.seen.strays)
