"""Measures beside their goals: the table, the JSON file, and the rule that what falls short is explained."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One measure. `value` None: not measured here, and `explained` says why."""

    id: str
    measure: str
    value: float | None
    goal: float | None = None
    stretch: float | None = None
    better: Literal["higher", "lower"] = "higher"
    unit: str = ""
    explained: str = ""

    @property
    def met(self) -> bool | None:
        """None where nothing was measured or nothing was asked."""
        if self.value is None or self.goal is None:
            return None
        return self.value >= self.goal if self.better == "higher" else self.value <= self.goal

    def as_json(self) -> dict[str, object]:
        return {
            "measure": self.measure,
            "value": self.value,
            "unit": self.unit,
            "goal": self.goal,
            **({"stretch": self.stretch} if self.stretch is not None else {}),
            "better": self.better,
            "met": self.met,
            **({"explained": self.explained} if self.explained else {}),
        }


def table(findings: Sequence[Finding]) -> Table:
    made = Table(title="Goals")
    for name, justify in (("id", "left"), ("measure", "left"), ("value", "right"), ("goal", "right"), ("", "left")):
        made.add_column(name, justify=justify)  # type: ignore[arg-type]
    for finding in findings:
        made.add_row(finding.id, finding.measure, _figure(finding), _goal(finding), _word(finding))
    return made


def _figure(finding: Finding) -> str:
    return "-" if finding.value is None else f"{finding.value:.4g} {finding.unit}".rstrip()


def _goal(finding: Finding) -> str:
    if finding.goal is None:
        return "-"
    stretch = "" if finding.stretch is None else f" ({finding.stretch:g})"
    return f"{'>=' if finding.better == 'higher' else '<='} {finding.goal:g}{stretch}"


def _word(finding: Finding) -> str:
    if finding.value is None:
        return f"not measured: {finding.explained}"
    return {True: "[green]met[/]", False: f"[bold red]short[/] {finding.explained}", None: ""}[finding.met]


def write(path: Path, findings: Sequence[Finding], facts: Mapping[str, object]) -> None:
    """The findings by id, and what belongs to all of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {**{finding.id: finding.as_json() for finding in findings}, **facts}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
