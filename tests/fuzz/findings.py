"""What a part of the fuzz run has found: how many inputs ended how, and every input that broke a promise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

FAULTS_SHOWN = 20


@dataclass(slots=True, kw_only=True)
class Findings:
    """`codes` counts how the inputs ended; `facts` are measurements, printed and not judged; `faults` fail the run."""

    part: str
    codes: Counter[str] = field(default_factory=Counter)
    facts: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @property
    def tried(self) -> int:
        return self.codes.total()

    def ended(self, code: str) -> None:
        self.codes[code] += 1

    def expect(self, true: bool, fault: str) -> None:
        if not true:
            self.faults.append(fault)

    def lines(self) -> list[str]:
        """For the terminal."""
        counted = [f"  {count:>7,}  {code}" for code, count in self.codes.most_common()]
        measured = [f"  {name}: {value}" for name, value in self.facts.items()]
        broken = [f"  FAULT {fault}" for fault in self.faults[:FAULTS_SHOWN]]
        left = [f"  and {len(self.faults) - FAULTS_SHOWN} more"] if len(self.faults) > FAULTS_SHOWN else []
        return [f"{self.part}: {self.tried:,} inputs, {len(self.faults)} faults", *counted, *measured, *broken, *left]


def closing_line(parts: Sequence[Findings]) -> str:
    failed = sum(len(part.faults) for part in parts)
    return f"{sum(part.tried for part in parts) - failed} passed, {failed} failed"
