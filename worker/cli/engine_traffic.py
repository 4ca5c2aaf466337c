"""`assay engine canary | shadow | take-back | promote | rollback`: which engine answers jobs; workers follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Final

import typer
from sqlalchemy import Engine

from engines.errors import EngineRefused, RefusalCode
from engines.lifecycle import State, Verb
from engines.runner import Backend
from worker.adapters.engine_control import ring
from worker.adapters.engine_index import EngineIndex, Published
from worker.adapters.engine_releases import Mode
from worker.adapters.release_gaps import gaps
from worker.adapters.release_starting import move_and_end, start_release
from worker.cli import terminal
from worker.cli.engine_choice import Chosen, choose
from worker.cli.engine_registry import SHORT, By, Id, Name, Version, Why, WithoutReport, refusals, tell
from worker.cli.opening import open_database
from worker.errors import AssayError
from worker.settings import Settings, load_settings

TRIED: Final = (State.VERIFIED, State.CANARY)
BACKENDS: Final[tuple[Backend, ...]] = ("openvino", "onnxruntime", "tensorrt")
SHARE_HELP: Final = "Share of the jobs that both engines look at, such as 5%."


def canary(
    name: Name,
    by: By,
    why: Why,
    share: Annotated[str, typer.Option(help=SHARE_HELP)] = "5%",
    version: Version = None,
    engine_id: Id = "",
    without_report: WithoutReport = "",
) -> None:
    """Try a verified engine on a share of the jobs: both engines look, the candidate's verdict is published. Given
    again with another share, the release goes on with that, counted anew."""
    wanted = _tried(name, version, engine_id)
    _start("canary", wanted, share_of(share), by=by, why=why, without_report=without_report)


def shadow(
    name: Name,
    by: By,
    why: Why,
    share: Annotated[str, typer.Option(help=SHARE_HELP)] = "100%",
    version: Version = None,
    engine_id: Id = "",
    without_report: WithoutReport = "",
) -> None:
    """Try a verified engine beside the current one, whose verdicts are published."""
    wanted = _tried(name, version, engine_id)
    _start("shadow", wanted, share_of(share), by=by, why=why, without_report=without_report)


def take_back(name: Name, by: By, why: Why, version: Version = None, engine_id: Id = "") -> None:
    """End a canary or shadow: the candidate is verified again, and no job sees it."""
    _move("take back", Chosen(name=name, version=version, engine_id=engine_id, states=(State.CANARY,)), by=by, why=why)


def promote(
    name: Name,
    by: By,
    why: Why,
    version: Version = None,
    engine_id: Id = "",
    without_report: WithoutReport = "",
) -> None:
    """Make verified or canary engines current; those that were become previous. Running workers swap to them."""
    _move("promote", _tried(name, version, engine_id), by=by, why=why, without_report=without_report)


def rollback(name: Name, by: By, why: Why, version: Version = None, engine_id: Id = "") -> None:
    """Make the previous engines current again; those that they replace are retired for good."""
    _move("rollback", Chosen(name=name, version=version, engine_id=engine_id, states=(State.PREVIOUS,)), by=by, why=why)


def share_of(text: str) -> float:
    """5% or 0.05, above 0 to 1. Raises AssayError."""
    number, percent = text.strip().removesuffix("%"), text.strip().endswith("%")
    try:
        share = float(number) / (100 if percent else 1)
    except ValueError:
        share = 0.0
    if not 0.0 < share <= 1.0:
        raise AssayError(f"a share of {text!r}: write it as 5% or 0.05, above 0 and at most 100%")
    return share


def _tried(name: str, version: int | None, engine_id: str) -> Chosen:
    return Chosen(name=name, version=version, engine_id=engine_id, states=TRIED, newest=True)


def _start(mode: Mode, wanted: Chosen, share: float, *, by: str, why: str, without_report: str) -> None:
    settings = load_settings()
    with refusals(), open_database(settings) as database:
        _, candidate = start_release(
            *(database, wanted.name, lambda known: choose(known, wanted), _completeness(settings, database)),
            mode=mode,
            share=share,
            by=by,
            why=why,
            without_report=without_report,
        )
    terminal.say(f"{candidate.id[:SHORT]}: {mode} of {share:.3g} of the jobs, version {candidate.variant.version}")
    _ring(settings, wanted.name)


def _move(verb: Verb, wanted: Chosen, *, by: str, why: str, without_report: str = "") -> None:
    settings = load_settings()
    with refusals(), open_database(settings) as database:
        moves = move_and_end(
            *(database, verb, wanted.name, lambda known: choose(known, wanted), _completeness(settings, database)),
            by=by,
            why=why,
            without_report=without_report,
        )
    tell(moves)
    _ring(settings, wanted.name)


def _ring(settings: Settings, name: str) -> None:
    kafka = settings.kafka
    failure = ring(kafka.client_config(), kafka.topics.control, name)
    if failure is not None:
        terminal.say(f"Workers were not told ({failure}): they see it within {settings.engines.poll_s:g} s")


def _completeness(settings: Settings, database: Engine) -> Callable[[Published, Published], None]:
    """Refuses an engine that lacks what the one it is to replace has."""

    def complete(candidate: Published, current: Published) -> None:
        if missing := _gaps(settings, database, candidate, current):
            message = f"{candidate.variant.name} version {candidate.variant.version} is not ready for traffic"
            raise EngineRefused(RefusalCode.INCOMPLETE, f"{message}: {'; '.join(missing)}", "bring what is missing")

    return complete


def _gaps(settings: Settings, database: Engine, candidate: Published, current: Published) -> Sequence[str]:
    engines = settings.engines
    others = [name for name in engines.names if name != candidate.variant.name]
    published = [one for name in others for one in EngineIndex(database).published(name, (State.CURRENT,))]
    target = candidate.release.target.backend
    found: list[str] = []
    for backend in BACKENDS if target == "any" else (target,):
        beside = {one.variant.name: one for one in published if one.release.target.backend in ("any", backend)}
        found += gaps(database, candidate, current, [*beside.values()], (backend,), engines.encoder_for)
    return tuple(dict.fromkeys(found))


def register(app: typer.Typer) -> None:
    """Mount the commands of this module."""
    app.command("take-back")(take_back)
    for command in (canary, shadow, promote, rollback):
        app.command()(command)
