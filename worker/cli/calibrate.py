"""`assay calibrate`: labelled items in, a score calibration and what it kept on held-out items out."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import Engine

from worker.adapters.gallery import PostgresGallery
from worker.adapters.references import ReferenceStore
from worker.app import open_encoder, open_evidence, open_references
from worker.calibrate import collect, with_budgets
from worker.cli import terminal
from worker.cli.opening import open_database
from worker.cli.reviewed import reviewed_items
from worker.core.calibration import CalibrationRefused, LabelledEvidence, fit
from worker.core.calibration_report import CalibrationReport, CategoryReport, Tally, wilson_interval
from worker.core.gallery import GallerySnapshot
from worker.core.matching import NumpyMatcher
from worker.core.policy import CategoryProfile, ScoreCalibration
from worker.core.policy_json import to_json
from worker.errors import AssayError
from worker.items import Item, read_items
from worker.report.calibration import render_calibration
from worker.settings import Settings, load_settings

Budget = Annotated[float | None, typer.Option(min=1e-6, max=0.5)]
CATEGORY_COLUMNS = ("category", "scores from", "genuine n", "needed", "counterfeit n", "needed", "budgets")
KIND_COLUMNS = ("category", "held out", "items", "authentic", "counterfeit", "inconclusive", "wrong", "95 % interval")


def calibrate(
    manifest: Annotated[Path, typer.Argument(help="A folder or JSONL manifest of labelled items, none enrolled.")],
    tenant: Annotated[str, typer.Option(help="Whose gallery the items are compared with.")],
    out: Annotated[Path | None, typer.Option(help="Write the calibration here as JSON.")] = None,
    page: Annotated[Path | None, typer.Option(help="Write a page of plots here, as HTML.")] = None,
    publish: Annotated[bool, typer.Option("--publish", help="Make it the active one of its engines.")] = False,
    by: Annotated[str, typer.Option(help="Who answers for it; needed with --publish.")] = "",
    alpha_accept: Budget = None,
    alpha_reject: Budget = None,
    seed: Annotated[int, typer.Option(help="Decides how the items are split.")] = 0,
    jitter: Annotated[float, typer.Option(min=0.0, help="Measured spread of a fused score over batches.")] = 0.0,
    category: Annotated[str | None, typer.Option(help="Category of items that name none.")] = None,
    reviewed: Annotated[
        bool, typer.Option("--reviewed", help="Add the tenant's reviewed jobs as labelled items.")
    ] = False,
    candidate: Annotated[
        str, typer.Option(help="Fit for the newest verified or canary engine of this name, not for the current one.")
    ] = "",
    as_json: terminal.AsJson = False,
) -> None:
    """Fit the score calibration of the engines that run here on labelled items, and say what it keeps.

    Facts of an item (`meta`) that help: `family` of the forgery, and `forged_views`, comma-separated, that show it.

    --alpha-accept bounds counterfeits called authentic, --alpha-reject genuine items called counterfeit; with
    --publish they also become the budgets of the items' categories. A budget that the items cannot support is
    refused: jobs of that category stay inconclusive, and the table says how many items it needs.
    """
    if publish and not by:
        raise AssayError("--publish needs --by NAME: who answers for this calibration")
    settings = load_settings()
    items = read_items(manifest, category=category)
    with open_database(settings) as database, tempfile.TemporaryDirectory() as folder:
        if reviewed:
            items += reviewed_items(database, open_evidence(settings), tenant, Path(folder))
        gallery = _gallery(database, tenant, settings.gallery.max_medoids)
        used = {item.category for item in items} & set(gallery.policy.profiles)
        chosen = {name: gallery.policy.profiles[name] for name in sorted(used)}
        profiles = with_budgets(chosen, alpha_accept=alpha_accept, alpha_reject=alpha_reject)
        labelled = _evidence(settings, items, gallery, candidate)
        calibration, report = _fit(labelled, profiles, seed, jitter)
        if out is not None:
            out.write_text(json.dumps(to_json(calibration), indent=1) + "\n", encoding="utf-8")
        if publish:
            changed = [profile for name, profile in profiles.items() if profile != chosen[name]]
            _publish(
                open_references(settings, database),
                calibration,
                changed,
                n=len(labelled),
                by=by,
                why=f"calibrated on {manifest.name}",
            )
    if page is not None:
        page.write_text(render_calibration(report), encoding="utf-8")
    _print(report, as_json)


def _gallery(database: Engine, tenant: str, max_medoids: int) -> GallerySnapshot:
    with contextlib.redirect_stdout(sys.stderr):  # its log lines: standard output is for the report alone
        return PostgresGallery(database, max_medoids=max_medoids).snapshot(tenant)


def _evidence(
    settings: Settings, items: Sequence[Item], gallery: GallerySnapshot, candidate: str
) -> list[LabelledEvidence]:
    encoder = open_encoder(settings, candidate)
    try:
        found = collect(
            items,
            encoder,
            NumpyMatcher(),
            gallery,
            encoder_for=settings.engines.encoder_for,
            batch_images=settings.batch.max_images,
        )
        return list(_counted(found, total=len(items)))
    finally:
        encoder.close()


def _counted(found: Iterator[LabelledEvidence], *, total: int) -> Iterator[LabelledEvidence]:
    with terminal.progress() as bar:
        task = bar.add_task("Measuring items", total=total)
        for item in found:
            yield item
            bar.advance(task)


def _fit(
    labelled: Sequence[LabelledEvidence], profiles: Mapping[str, CategoryProfile], seed: int, jitter: float
) -> tuple[ScoreCalibration, CalibrationReport]:
    try:
        return fit(labelled, profiles, seed=seed, jitter=jitter)
    except CalibrationRefused as refused:
        raise AssayError(f"no calibration was made: {refused}") from refused


def _publish(
    store: ReferenceStore,
    calibration: ScoreCalibration,
    profiles: Sequence[CategoryProfile],
    *,
    n: int,
    by: str,
    why: str,
) -> None:
    if profiles:
        store.put_categories(profiles, by=by, why=why)
    revision = store.put_calibration(calibration, n=n, by=by, why=why)
    terminal.say(f"Calibration {calibration.calibration_id} is active; gallery revision {revision}")


def _print(report: CalibrationReport, as_json: bool) -> None:
    if as_json:
        terminal.print_json(_as_json(report))
        return
    terminal.print_facts({"calibration": report.calibration_id})
    terminal.print_table(CATEGORY_COLUMNS, [_budget_row(found) for found in report.categories], empty="")
    terminal.print_table(KIND_COLUMNS, [row for c in report.categories for row in _kind_rows(c)], empty="")
    why = [(c.category, code.value, count) for c in report.categories for code, count in c.reasons.items()]
    terminal.print_table(("category", "inconclusive because", "items"), why, empty="No held-out item was inconclusive.")


def _budget_row(found: CategoryReport) -> tuple[object, ...]:
    told = "supported" if found.supported else "refused: too few items"
    genuine = (found.genuine_n, found.genuine_needed)
    return (found.category, found.level, *genuine, found.counterfeit_n, found.counterfeit_needed, told)


def _kind_rows(found: CategoryReport) -> Iterator[tuple[object, ...]]:
    yield _kind_row(found.category, "genuine", found.genuine, found.genuine.counterfeit)
    yield _kind_row(found.category, "counterfeit", found.counterfeit, found.counterfeit.authentic)
    for family, tally in found.families.items():
        yield _kind_row(found.category, f"counterfeit: {family}", tally, tally.authentic)


def _kind_row(category: str, kind: str, tally: Tally, wrong: int) -> tuple[object, ...]:
    low, high = wilson_interval(wrong, tally.items)
    share = f"{wrong / tally.items:.1%}" if tally.items else "—"
    said = (tally.items, tally.authentic, tally.counterfeit, tally.abstained)
    return (category, kind, *said, share, f"{low:.1%} to {high:.1%}")


def _as_json(report: CalibrationReport) -> dict[str, object]:
    return {
        "calibration_id": report.calibration_id,
        "categories": [{**asdict(found), "supported": found.supported} for found in report.categories],
        "cells": [asdict(cell) for cell in report.cells],
    }
