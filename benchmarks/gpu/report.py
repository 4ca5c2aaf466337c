"""From the sections' records to one table, one JSON file by goal, and plots."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from benchmarks import findings
from benchmarks.findings import Finding
from benchmarks.gpu.goals import GOALS, finding
from benchmarks.gpu.machine import source_digest
from benchmarks.gpu.plots import draw
from benchmarks.gpu.record import write_json

EXPLAINED: Final = 90  # characters of it in a line


def merge(folder: Path, *, brief: bool = False) -> int:
    """Print the table, or a line a goal, and write `gpu.json` from the records of this source below `folder`. 1 where a
    section failed."""
    records = [record for record in _records(folder) if _digest(record) == source_digest()]
    made = merged(records)
    content = {f.id: f.as_json() for f in made} | {"sections": {r["section"]: _told(r) for r in records}}
    write_json(folder / "gpu.json", content)
    draw(records, folder)
    console = Console(width=150)
    if brief:
        print("\n".join(_line(one) for one in made))
    else:
        console.print(findings.table(made))
    failed = [f"{r['section']}: {name}" for r in records for name, s in r["steps"].items() if s["state"] == "failed"]
    for line in failed:
        console.print(f"failed: {line}", highlight=False, markup=False)
    console.print(f"written: {folder / 'gpu.json'}", highlight=False)
    return 1 if failed else 0


def merged(records: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Every goal in order: what was found, or that it was not run. Of two records the later counts."""
    found: dict[str, Mapping[str, Any]] = {}
    for record in records:
        found |= record["findings"]
    return [
        finding(name, found[name]["value"], found[name].get("explained", ""))
        if name in found
        else finding(name, None, "not run")
        for name in GOALS
    ]


def _line(one: Finding) -> str:
    value = "-" if one.value is None else f"{one.value:.4g}"
    met = {True: "met", False: "short", None: "not run"}[one.met]
    asked = f"{'>=' if one.better == 'higher' else '<='} {one.goal:g}"
    return f"{one.id:17s} {value:>9s} {asked:9s} {met:8s} {one.explained[:EXPLAINED]}"


def _records(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("*.json"), key=lambda p: p.stat().st_mtime):
        content = json.loads(path.read_text())
        if "section" in content:
            yield content


def _digest(record: Mapping[str, Any]) -> object:
    return record["facts"].get("environment", {}).get("digest")


def _told(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: record[name] for name in ("dry", "steps", "facts")}
