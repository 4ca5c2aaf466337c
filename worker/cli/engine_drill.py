"""`assay engine drill`: what this deployment does with engines that must not serve, tried on scratch copies."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from engines.catalogue import VerifiedEngine, chosen_backend
from engines.manifest import sha256_hex
from worker.adapters.engine_opening import chosen_engines, open_registry, place_of
from worker.app import open_database
from worker.cli import terminal
from worker.cli.engine_drill_cases import Case, Scratch, Seen, cases
from worker.cli.engine_registry import refusals
from worker.errors import AssayError
from worker.settings import Settings, load_settings

COLUMNS: Final = ("case", "expected", "seen", "code", "ms", "")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the table; `ms` is how long the case took, its process included."""

    case: str
    expected: str
    seen: str
    code: str
    ms: float

    @property
    def as_expected(self) -> bool:
        return self.expected in (self.code, self.seen)


def drill(
    name: Annotated[str, typer.Option(help="Of this encoder; unset: the first that is served.")] = "",
    deadline_s: Annotated[float, typer.Option(min=0.1, help="An engine hangs that takes longer for a batch.")] = 5.0,
    patience_s: Annotated[float, typer.Option(min=1.0, help="For one case, its plan's build included.")] = 300.0,
    as_json: terminal.AsJson = False,
) -> None:
    """Try engines that must not serve, made of one that does, and print what became of each.

    Everything happens in a scratch folder, under a scratch key and in processes of its own; what is served is only
    read, and compared before and after. Exits 0 if all ended as expected, else 1.
    """
    settings = load_settings()
    with refusals():
        served = _served(settings)
        good = _one(served, name)
        with tempfile.TemporaryDirectory(prefix="assay-drill-") as folder:
            scratch = Scratch(
                folder=Path(folder),
                good=good,
                backend=chosen_backend(settings.engines.backend),
                key=Ed25519PrivateKey.generate(),
                deadline_s=deadline_s,
                patience_s=patience_s,
            )
            before = _state(settings, served)
            lines = [tried(case, scratch) for case in cases(scratch.backend)]
        lines.append(_untouched(before, _state(settings, _served(settings))))
    _tell(lines, as_json, f"{good.manifest.name} of {place_of(settings)} on {scratch.backend}")


def tried(case: Case, scratch: Scratch) -> Line:
    """Run a case; one that raises has found something too."""
    began = time.perf_counter()
    try:
        found = case.run(scratch)
    except Exception as error:
        found = Seen(how=f"raised {type(error).__name__}: {error}")
    ms = (time.perf_counter() - began) * 1e3
    return Line(case=case.name, expected=str(case.expected), seen=found.how, code=found.code, ms=ms)


def _served(settings: Settings) -> list[VerifiedEngine]:
    return chosen_engines(settings, open_database)


def _one(served: Sequence[VerifiedEngine], name: str) -> VerifiedEngine:
    found = [engine for engine in served if name in ("", engine.manifest.name)]
    if not found:
        there = ", ".join(engine.manifest.name for engine in served)
        raise AssayError(f"no engine {name} is served; there is {there}")
    return found[0]


def _state(settings: Settings, served: Sequence[VerifiedEngine]) -> tuple[tuple[str, str], ...]:
    """Everything that a drill must not change: the served bytes, and the registry's states."""
    bytes_of = [(one.manifest.name, sha256_hex(one.manifest.to_json() + one.model + one.golden)) for one in served]
    if settings.engines.registry is None:
        return tuple(bytes_of)
    database = open_database(settings)
    try:
        known = open_registry(settings, database).index.published()
    finally:
        database.dispose()
    return (*bytes_of, *((one.id, str(one.state)) for one in known))


def _untouched(before: object, after: object) -> Line:
    seen = "untouched" if before == after else "changed meanwhile"
    return Line(case="what is served", expected="untouched", seen=seen, code="", ms=0.0)


def _tell(lines: Sequence[Line], as_json: bool, what: str) -> None:
    good = all(line.as_expected for line in lines)
    if as_json:
        told = [dataclasses.asdict(line) | {"as_expected": line.as_expected} for line in lines]
        terminal.print_json({"drilled": what, "as_expected": good, "cases": told})
    else:
        rows = [
            (one.case, one.expected, one.seen, one.code, f"{one.ms:.0f}", "" if one.as_expected else "NOT AS EXPECTED")
            for one in lines
        ]
        terminal.print_table(COLUMNS, rows, empty="")
    terminal.say(f"Drilled {what}: {'all as expected' if good else 'not all as expected'}")
    if not good:
        raise typer.Exit(1)
