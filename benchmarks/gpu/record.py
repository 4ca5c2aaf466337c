"""What a section measured, on disk after every step: a step that fails or ends the process loses nothing before it."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

from benchmarks.gpu.goals import finding

T = TypeVar("T")
_TAIL = 1500  # characters of a failure


class Section:
    """One section on its way. `folder` gets its record, and what other processes are told through."""

    def __init__(self, name: str, folder: Path, *, budget_s: float, dry: bool = False) -> None:
        self.name = name
        self.folder = folder
        self.dry = dry
        self._until = monotonic() + budget_s
        self._record: dict[str, Any] = {"section": name, "dry": dry, "steps": {}, "facts": {}, "findings": {}}
        folder.mkdir(parents=True, exist_ok=True)
        self._write()

    @property
    def left_s(self) -> float:
        """What is left of the budget."""
        return self._until - monotonic()

    def step(self, name: str, expected_s: float, call: Callable[[], T], *, kept_s: float = 0.0) -> T | None:
        """Run `call`, unless less time is left than it is expected to take, beside `kept_s` for steps after it. None
        where it did not run or failed; its record says which, and a value that JSON can hold stands in it."""
        if self.left_s < expected_s + kept_s:
            kept = f" and {kept_s:.0f} s for steps after it" if kept_s else ""
            print(f"-- {name}: skipped, {self.left_s:.0f} s left of the {expected_s:.0f} s it takes{kept}", flush=True)
            told = f"needed {expected_s:.0f} s{kept}, {max(self.left_s, 0):.0f} s were left"
            self._ended(name, "skipped", 0.0, told)
            return None
        began = monotonic()
        try:
            made = call()
        except Exception as error:  # whatever a library raises: the next step goes on
            told = "".join(traceback.format_exception(error))[-_TAIL:]
            self._ended(name, "failed", monotonic() - began, told)
            print(f"-- {name}: FAILED after {monotonic() - began:.1f} s: {type(error).__name__}: {error}", flush=True)
            return None
        self._ended(name, "done", monotonic() - began, made)
        print(f"-- {name}: {monotonic() - began:.1f} s {_short(made)}", flush=True)
        return made

    @property
    def facts(self) -> Mapping[str, Any]:
        """What was kept so far, by name."""
        facts: Mapping[str, Any] = self._record["facts"]
        return facts

    def fact(self, name: str, value: object) -> None:
        self._record["facts"][name] = value
        self._write()

    def find(self, goal_id: str, value: float | None, explained: str = "") -> None:
        """A measured value beside its goal, kept at once."""
        made = finding(goal_id, value, explained)
        self._record["findings"][goal_id] = made.as_json()
        print(f"== {goal_id} {made.measure}: {value} (goal {made.goal:g}, met: {made.met})", flush=True)
        self._write()

    def _ended(self, name: str, state: str, seconds: float, value: object) -> None:
        step = {"state": state, "seconds": round(seconds, 2)}
        if is_plain(value):
            step["value"] = value
        self._record["steps"][name] = step
        self._write()

    def _write(self) -> None:
        write_json(record_path(self.folder, self.name), self._record)


def record_path(folder: Path, section: str) -> Path:
    return folder / f"{section}.json"


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """All of it or what was there before."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
    part.replace(path)


def is_plain(value: object) -> bool:
    """Whether JSON holds it as it is."""
    if isinstance(value, Mapping):
        return all(isinstance(k, str) and is_plain(v) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return all(is_plain(v) for v in value)
    return value is None or isinstance(value, (str, int, float, bool))


def _short(value: object) -> str:
    return str(value)[:300] if is_plain(value) and value is not None else ""
