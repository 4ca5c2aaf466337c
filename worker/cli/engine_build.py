"""`assay engine build`: from a recipe to plans for this machine, raced and proven."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from engines.building import Built, Raced, built, read_inputs
from engines.drafts import as_json as json_text
from engines.drafts import check_new, new_folder, write_draft
from engines.machine import processor, this_machine
from engines.plan_files import PlanFolder, default_folder
from engines.recipe import Recipe, as_toml, read_recipe
from worker.cli import terminal
from worker.cli.engine_make import Out, one_line
from worker.settings import load_settings

COLUMNS: Final = ("draft", "plan", "cosine to FP32", "images/s", "at batch", "build s", "load s", "MB", "")


def build(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a TOML file; its paths are taken from its folder.")],
    out: Out,
    keep: Annotated[
        bool, typer.Option(help="Lay the winner's plan where this machine's workers look for it as well.")
    ] = True,
    as_json: terminal.AsJson = False,
) -> None:
    """Build the engines of a recipe for this machine: race all that pass, prove the very plans against FP32.

    The new folder holds engine/ (the fastest draft, to publish) with its report, plans/, build.json with the whole
    table, and recipe.lock.toml, the recipe with every digest and version pinned.
    """
    with one_line():
        check_new(out)
        wanted = read_recipe(recipe)
        inputs = read_inputs(wanted, recipe.parent)
        with new_folder(out) as part:
            made = built(wanted, inputs, part / "plans", terminal.say)
            write_draft(made.winner, part / "engine")
            if made.report:
                (part / "evaluation.json").write_bytes(made.report)
            pinned = wanted.pinned(inputs.digests, this_machine().versions)
            (part / "recipe.lock.toml").write_text(as_toml(pinned), encoding="utf-8")
            record = as_record(pinned, made, len(inputs.golden))
            (part / "build.json").write_text(json_text(record), encoding="utf-8")
        kept = _keep(made) if keep else None
    if as_json:
        terminal.print_json(record)
    else:
        terminal.print_table(COLUMNS, [row(line, made.line) for line in made.raced], empty="")
    if kept is not None:
        terminal.say(f"The plan lies in {kept}, where workers of this user find it")
    report = f" --report {out}/evaluation.json" if made.report else ""
    terminal.say(f"Wrote {out}; next: assay engine publish {out}/engine {wanted.name} --key KEY{report}")


def as_record(recipe: Recipe, made: Built, golden_images: int) -> dict[str, object]:
    """The build as JSON values."""
    machine, found = this_machine(), processor()
    return {
        "recipe": dataclasses.asdict(recipe),
        "golden_images": golden_images,
        "machine": {
            "versions": dict(machine.versions),
            "gpus": [dataclasses.asdict(card) for card in machine.cards],
            "processor": dataclasses.asdict(found),
        },
        "raced": [dataclasses.asdict(line) for line in made.raced],
        "winner": {"draft": made.line.draft, "plan": made.line.plan, "onnx_sha256": made.line.onnx_sha256},
        "version_compatible_cost": compatible_cost(made.raced, made.line),
        "plans": [dataclasses.asdict(header) for header, _ in made.plans],
    }


def compatible_cost(raced: Sequence[Raced], winner: Raced) -> float | None:
    """Share of its rate that the winner's draft loses to a version-compatible plan; None where only one kind ran."""
    rates = {line.plan: line.best_rate for line in raced if line.draft == winner.draft and line.rates}
    plain, compatible = rates.get("plain"), rates.get("version-compatible")
    return None if not plain or compatible is None else 1 - compatible / plain


def row(line: Raced, winner: Raced) -> tuple[object, ...]:
    told = line.why or ("taken" if line is winner else "to compare with" if line.yardstick else "")
    if not line.rates:
        return (line.draft, line.plan, _cosine(line), "", "", "", "", "", told)
    batch, rate = line.rates[-1]
    times = (f"{line.build_s:.1f}", f"{line.load_s:.2f}", f"{line.plan_bytes / 1e6:.1f}")
    return (line.draft, line.plan, _cosine(line), f"{rate:.1f}", batch, *times, told)


def _cosine(line: Raced) -> str:
    return f"{dict(line.cosines)['embedding']:.5f}" if line.cosines else ""


def _keep(made: Built) -> Path:
    """Raises EngineRefused where others can write there."""
    folder = load_settings().engines.plans_dir or default_folder()
    plans = PlanFolder(folder)
    for header, plan in made.plans:
        plans.write(header, plan)
    return folder
