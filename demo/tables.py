"""What came out beside the truth: counts, never opinions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from demo.scenario import Example, Truth
from schemas.codes import Verdict

RIGHT: Mapping[Truth, Verdict] = {"genuine": Verdict.AUTHENTIC, "counterfeit": Verdict.COUNTERFEIT}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Verdicts of jobs whose truth is known."""

    jobs: int
    right: int
    wrong: int
    inconclusive: int

    @property
    def abstention(self) -> float:
        return self.inconclusive / self.jobs if self.jobs else 0.0

    @property
    def accuracy(self) -> float | None:
        """Of the jobs that were decided; None where none was."""
        decided = self.right + self.wrong
        return self.right / decided if decided else None

    def cells(self) -> tuple[str, ...]:
        accuracy = "-" if self.accuracy is None else f"{self.accuracy:.0%}"
        return f"{self.right}", f"{self.wrong}", f"{self.inconclusive}", accuracy, f"{self.abstention:.0%}"


Judged = Sequence[tuple[Example, Verdict]]


def tally(judged: Iterable[tuple[Example, Verdict]]) -> Tally:
    found = [(RIGHT[example.truth], verdict) for example, verdict in judged if example.truth is not None]
    return Tally(
        jobs=len(found),
        right=sum(verdict is right for right, verdict in found),
        wrong=sum(verdict not in (right, Verdict.INCONCLUSIVE) for right, verdict in found),
        inconclusive=sum(verdict is Verdict.INCONCLUSIVE for _, verdict in found),
    )


def by_kind(judged: Judged) -> dict[str, Judged]:
    """Genuine jobs, forgeries by family, and all of them."""
    families = sorted({example.family for example, _ in judged if example.family})
    groups: dict[str, Judged] = {"genuine": [pair for pair in judged if pair[0].truth == "genuine"]}
    groups |= {f"forged: {family}": [pair for pair in judged if pair[0].family == family] for family in families}
    return groups | {"all forged": [pair for pair in judged if pair[0].truth == "counterfeit"], "all": judged}


def accuracy_table(int8: Judged, twin: Judged) -> Table:
    """Accuracy, abstention and false verdicts, INT8 beside its float twin. For forgeries `wrong` is a false accept."""
    title = "Labelled jobs, INT8 engines | their float twins (accuracy: of the decided ones)"
    table = Table("", title=title, title_justify="left")
    names = ("right", "wrong", "inconcl.", "accuracy", "abstains")
    for name in ("jobs", *names, "|", *names):
        table.add_column(name, justify="right", no_wrap=True)
    twins = by_kind(twin)
    for kind, pairs in by_kind(int8).items():
        table.add_row(kind, str(len(pairs)), *tally(pairs).cells(), "|", *tally(twins[kind]).cells())
    return table


def flips(int8: Judged, twin: Judged) -> tuple[int, int]:
    """Between authentic and counterfeit, and to or from inconclusive."""
    pairs = [(a, b) for (_, a), (_, b) in zip(int8, twin, strict=True) if a is not b]
    soft = sum(Verdict.INCONCLUSIVE in pair for pair in pairs)
    return len(pairs) - soft, soft
