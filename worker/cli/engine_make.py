"""`assay engine import | quantize | evaluate`: from a float graph to an INT8 draft that is known to keep its budget."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, get_args

import numpy as np
import typer

from engines import evaluating as ev
from engines.calibration import Method
from engines.catalogue import open_runner
from engines.decoder import PillowDecoder
from engines.drafts import Draft, MakingRefused, check_new, new_folder, read_draft, write_draft
from engines.drafts import as_json as json_text
from engines.errors import EngineRefused
from engines.evaluating_page import as_record, render_page
from engines.importing import ImportRequest, imported
from engines.importing_preprocess import Wanted, read_config, triple
from engines.importing_taps import NamedTaps
from engines.importing_torch import Library, exported
from engines.photographs import Photographs, photograph_files, read_photographs
from engines.quantizing import MOST, QuantizeRequest, default_budget, quantized
from engines.runner import Runner
from engines.session import EncoderSession
from worker.adapters.encoder import SessionEncoder
from worker.cli import terminal
from worker.core.policy import CategoryProfile
from worker.engine_trial import Photo, Seen, Trial, parted, profiles_of, run_trial
from worker.errors import AssayError
from worker.items import Item, Label, read_items
from worker.profiles import read_profiles

OVER_BUDGET = 1
CPU_BACKENDS = Literal["auto", "openvino", "onnxruntime"]
TIMED_PHOTOGRAPHS = 16
Fractions = Annotated[str | None, typer.Option(help="Three fractions of full scale, R,G,B.")]
Out = Annotated[Path, typer.Option(help="The folder to make; it must not exist yet.")]
BOUND_COLUMNS = ("bound", "found", "budget", "", "")


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """What the makers refuse becomes the command's one line."""
    try:
        yield
    except (MakingRefused, EngineRefused) as refused:
        raise AssayError(str(refused)) from refused


def import_(
    source: Annotated[Path, typer.Argument(help="An FP32 ONNX file; with --library, weights.")],
    name: Annotated[str, typer.Option(help="The engine's name, such as resnet18.")],
    out: Out,
    config: Annotated[Path | None, typer.Option(help="The model's config.json or preprocessor_config.json.")] = None,
    size: Annotated[int | None, typer.Option(min=32, max=4096, help="Side of its images, px.")] = None,
    mean: Fractions = None,
    std: Fractions = None,
    features: Annotated[
        str | None, typer.Option(help="Tensor of the last feature map [N,C,h,w], or of the final tokens [N,T,D].")
    ] = None,
    tokens: Annotated[str | None, typer.Option(help="Tensor of a middle map or middle tokens: the patches.")] = None,
    embedding: Annotated[
        str | None, typer.Option(help="Tensor of the embedding [N,D]; else pooled or class token.")
    ] = None,
    residual_rule: Annotated[
        bool, typer.Option("--residual-rule", help="Take a ViT without a class token, by its tokens' mean.")
    ] = False,
    library: Annotated[
        Library | None, typer.Option(help="Build the model from this library, with SOURCE's weights.")
    ] = None,
    model: Annotated[str, typer.Option(help="The model's name in the library.")] = "",
) -> None:
    """Wrap an encoder to the three outputs (embedding, patches, attention) and write it as an unsigned FP32 draft.

    A graph that has these outputs passes through. Others are tapped where that is safe to find, else the refusal says
    which tensor to name. Normalisation comes from --config or --mean and --std, and is never guessed.
    """
    with one_line():
        check_new(out)
        said = Wanted(size=size, mean=_fractions(mean), std=_fractions(std))
        if config is not None:
            said = said.over(read_config(_bytes(config), config.name))
        raw, wanted = exported(library, model, source, size) if library else (_bytes(source), Wanted())
        taps = NamedTaps(features=features, tokens=tokens, embedding=embedding, residual_rule=residual_rule)
        origin: dict[str, object] = {"file": source.name, "library": library, "model": model or None}
        draft = imported(raw, ImportRequest(name=name, wanted=said.over(wanted), taps=taps), origin)
        write_draft(draft, out)
    _say_draft(draft, out, draft.record["preprocessing_notes"])


def quantize(
    draft: Annotated[Path, typer.Argument(help="The FP32 draft that `assay engine import` wrote.")],
    photographs: Annotated[Path, typer.Argument(help="A folder of 100 to 500 photographs of your own goods.")],
    out: Out,
    references: Annotated[
        Path | None, typer.Option(help="A folder of the enrolled photographs, to compare with.")
    ] = None,
    method: Annotated[Method | None, typer.Option(help="Take this one; unset: the best on held-out ones.")] = None,
    cosine_mean: Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Least mean cosine to FP32.")] = None,
    cosine_p1: Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Least first percentile of it.")] = None,
) -> None:
    """Make the INT8 draft of an FP32 draft: explicit Q/DQ, symmetric, ranges from your photographs.

    Methods are compared and layers rated on photographs held out; the most harmful go back to float until the budget
    holds. NAME.record.json in the new folder holds every figure and digest.
    """
    with one_line():
        check_new(out)
        source = read_draft(draft)
        files = photograph_files(photographs)
        if len(files) > MOST:
            terminal.say(f"{len(files)} photographs: {MOST} of them are used, spread evenly")
            files = [files[i * len(files) // MOST] for i in range(MOST)]
        side = source.manifest.preprocessing.size
        found = read_photographs(files, side)
        _say_faults(found)
        enrolled = read_photographs(photograph_files(references), side) if references else None
        usual = default_budget(source.manifest.family)
        budget = replace(
            usual,
            mean=usual.mean if cosine_mean is None else cosine_mean,
            p1=usual.p1 if cosine_p1 is None else cosine_p1,
        )
        request = QuantizeRequest(budget=budget, methods=(method,) if method else get_args(Method))
        made = quantized(source, found, request, references=enrolled, say=terminal.say)
        write_draft(made, out)
    _say_draft(made, out, [])


def evaluate(
    fp32: Annotated[Path, typer.Argument(help="The FP32 draft: its folder or manifest.")],
    candidate: Annotated[Path, typer.Argument(help="The engine to judge: its folder or manifest.")],
    labelled: Annotated[
        Path, typer.Argument(help="Labelled items as for `assay calibrate`, or a folder of genuine/ and counterfeit/.")
    ],
    out: Annotated[Path | None, typer.Option(help="A new folder for evaluation.json and evaluation.html.")] = None,
    references: Annotated[
        Path | None, typer.Option(help="Items to compare with; else some of the genuine ones.")
    ] = None,
    references_per_sku: Annotated[int, typer.Option(min=2, max=50)] = 3,
    category: Annotated[str | None, typer.Option(help="Category of items that name none.")] = None,
    profiles: Annotated[Path | None, typer.Option(help="Category profiles; else every view counts.")] = None,
    alpha_accept: Annotated[float, typer.Option(min=1e-6, max=0.5, help="Without --profiles.")] = 0.01,
    alpha_reject: Annotated[float, typer.Option(min=1e-6, max=0.5, help="Without --profiles.")] = 0.02,
    recall_loss: Annotated[float | None, typer.Option(min=0.0, help="Budget, as a share: 0.003 is 0.3 points.")] = None,
    cosine_mean: Annotated[float | None, typer.Option(max=1.0, help="Budget.")] = None,
    cosine_p1: Annotated[float | None, typer.Option(max=1.0, help="Budget.")] = None,
    file_share: Annotated[float | None, typer.Option(min=0.0, help="Budget: bytes over FP32's.")] = None,
    backend: Annotated[CPU_BACKENDS, typer.Option(help="What runs both.")] = "auto",
    seed: Annotated[int, typer.Option(help="Decides how items are parted.")] = 0,
    as_json: terminal.AsJson = False,
) -> None:
    """Compare an engine with its FP32 original on labelled items, and hold it to the accuracy budget.

    Exit code 1, and a line that names the bounds, where the engine is over its budget: such an engine is not published.
    """
    with one_line():
        if out is not None:
            check_new(out)
        exact, coarse = read_draft(fp32), read_draft(candidate)
        check_pair(exact, coarse)
        items = labelled_items(labelled, category)
        own = read_items(references, category=category) if references else []
        parts = parted(items, own, per_sku=references_per_sku, seed=seed)
        chosen = _profiles(profiles, items, alpha_accept, alpha_reject)
        with contextlib.ExitStack() as closing:
            opened = [closing.enter_context(opened_engine(draft, backend)) for draft in (exact, coarse)]
            encoders, runners = zip(*opened, strict=True)
            encoders[1].engines = {coarse.manifest.name: encoders[0].engines[exact.manifest.name]}
            names = (exact.manifest.name, coarse.manifest.name)
            trial = run_trial(parts, *encoders, names=names, profiles=chosen, seed=seed)
            rates = _rates(runners, parts.probes, exact.manifest.preprocessing.size)
        found = evaluation(trial, exact, coarse, rates, runners[0].info.backend)
        budget = _budget(coarse, recall_loss, cosine_mean, cosine_p1, file_share)
        checks = ev.checks(found, budget)
        told: dict[str, object] = {
            "set": labelled.name,
            "references": len(trial.references),
            "photographs": len(trial.probes),
            "unusable": trial.unusable,
            "seed": seed,
        }
        record = as_record(found, checks, told)
        if out is not None:
            with new_folder(out) as part:
                (part / "evaluation.json").write_text(json_text(record), encoding="utf-8")
                (part / "evaluation.html").write_text(render_page(found, checks, coarse.record, told), encoding="utf-8")
    _print(checks, record, as_json)


def check_pair(exact: Draft, coarse: Draft) -> None:
    """Vectors of different spaces are never compared. Raises MakingRefused."""
    if exact.manifest.precision != "fp32":
        raise MakingRefused(f"{exact.manifest.name} is {exact.manifest.precision}", "name the FP32 draft first")
    if exact.manifest.embedding_space != coarse.manifest.embedding_space:
        spaces = f"{exact.manifest.embedding_space[:16]} and {coarse.manifest.embedding_space[:16]}"
        raise MakingRefused(f"the engines are of different embedding spaces, {spaces}", "name engines of one import")


def labelled_items(path: Path, category: str | None) -> list[Item]:
    """Labelled items of a folder or manifest; under `genuine` and `counterfeit` the folder is the label."""
    folders = [(label, path / label) for label in get_args(Label) if (path / label).is_dir()]
    if not folders:
        return read_items(path, category=category)
    return [
        replace(item, label=label, name=f"{label}/{item.name}")
        for label, folder in folders
        for item in read_items(folder, category=category)
    ]


@contextlib.contextmanager
def opened_engine(draft: Draft, backend: CPU_BACKENDS) -> Iterator[tuple[SessionEncoder, Runner]]:
    """A draft behind the workers' own session, self-tested."""
    runner = open_runner(draft.unsigned(), backend)
    decoder = PillowDecoder(draft.manifest.preprocessing.size, len(os.sched_getaffinity(0)))
    encoder = SessionEncoder(EncoderSession({draft.manifest.name: runner}, decoder))
    try:
        yield encoder, runner
    finally:
        encoder.close()


def evaluation(trial: Trial, exact: Draft, coarse: Draft, rates: Mapping[str, float], backend: str) -> ev.Evaluation:
    """The trial in figures. Raises MakingRefused where nothing was seen."""
    references = [p for p in trial.references if p.genuine and _seen_by_both(p, trial)]
    probes = [p for p in trial.probes if _seen_by_both(p, trial)]
    if not references or not probes:
        raise MakingRefused("no photograph of the set could be used", "check that their short side is large enough")
    labels = ev.Labels(
        references=tuple((p.role, p.sku) for p in references),
        probes=tuple((p.role, p.sku) for p in probes),
        genuine=np.array([p.genuine for p in probes], bool),
    )
    seen = [_embedded(engine, references, probes) for engine in (trial.exact, trial.coarse)]
    truth = [said.genuine for said in trial.exact.said]
    names = [said.item for said in trial.exact.said]
    judged = (_judged(trial.exact), _judged(trial.coarse))
    figures = [
        _figures(draft, embedded, labels, said, truth, rates[key], backend)
        for draft, embedded, said, key in zip((exact, coarse), seen, judged, ("exact", "coarse"), strict=True)
    ]
    return ev.Evaluation(
        exact=figures[0],
        candidate=figures[1],
        cosines=(seen[0].probes * seen[1].probes).sum(-1).clip(-1, 1),
        moved=None if trial.no_verdicts else ev.moved(judged[0], judged[1], names),
        no_verdicts=trial.no_verdicts,
    )


def _seen_by_both(photo: Photo, trial: Trial) -> bool:
    return photo.key in trial.exact.embeddings and photo.key in trial.coarse.embeddings


def _embedded(engine: Seen, references: Sequence[Photo], probes: Sequence[Photo]) -> ev.Embedded:
    return ev.Embedded(
        references=np.stack([engine.embeddings[p.key] for p in references]),
        probes=np.stack([engine.embeddings[p.key] for p in probes]),
    )


def _judged(engine: Seen) -> ev.Judged:
    return ev.Judged(
        verdicts=tuple(said.verdict.value for said in engine.said),
        p_genuine=tuple(said.p_genuine for said in engine.said),
    )


def _figures(
    draft: Draft,
    embedded: ev.Embedded,
    labels: ev.Labels,
    judged: ev.Judged,
    truth: Sequence[bool],
    rate: float,
    backend: str,
) -> ev.Figures:
    auc, roc = ev.verification(embedded, labels)
    error, reliability = ev.calibration_error(judged, truth)
    return ev.Figures(
        name=draft.manifest.name,
        precision=draft.manifest.precision,
        backend=backend,
        onnx_sha256=draft.manifest.onnx_sha256,
        bytes=len(draft.model),
        images_per_s=rate,
        recall_at_1=ev.recall_at_1(embedded, labels),
        auc=auc,
        calibration_error=error,
        roc=roc,
        reliability=reliability,
    )


def _rates(runners: Sequence[Runner], items: Sequence[Item], size: int) -> dict[str, float]:
    files = [path for item in items for path in item.views.values() if isinstance(path, Path)]
    pixels = read_photographs(files[:TIMED_PHOTOGRAPHS], size).pixels
    if not len(pixels):
        raise MakingRefused("no photograph of the set could be used", "check that their short side is large enough")
    return ev.images_per_s(dict(zip(("exact", "coarse"), runners, strict=True)), pixels)


def _budget(
    candidate: Draft, recall_loss: float | None, mean: float | None, p1: float | None, size: float | None
) -> ev.Budget:
    usual = ev.default_budget(candidate.manifest.family, candidate.manifest.precision)
    given = {"recall_loss": recall_loss, "cosine_mean": mean, "cosine_p1": p1, "size": size}
    return replace(usual, **{name: value for name, value in given.items() if value is not None})


def _profiles(
    path: Path | None, items: Sequence[Item], alpha_accept: float, alpha_reject: float
) -> dict[str, CategoryProfile]:
    if path is not None:
        return {profile.category: profile for profile in read_profiles(path)}
    return profiles_of(items, alpha_accept=alpha_accept, alpha_reject=alpha_reject)


def _print(checks: Sequence[ev.Check], record: Mapping[str, object], as_json: bool) -> None:
    if as_json:
        terminal.print_json(record)
    else:
        terminal.print_table(BOUND_COLUMNS, [_row(check) for check in checks], empty="")
    over = [check for check in checks if not check.holds]
    if over:
        named = "; ".join(f"{c.name} {_found(c)} (budget {_limit(c)})" for c in over)
        terminal.say(f"Over its accuracy budget, not to be published: {named}")
        raise typer.Exit(OVER_BUDGET)
    terminal.say("Within its accuracy budget")


def _row(check: ev.Check) -> tuple[object, ...]:
    return check.name, _found(check), _limit(check), "holds" if check.holds else "does not hold", check.told


def _found(check: ev.Check) -> str:
    return "not measured" if check.found is None else f"{check.found:.5f}"


def _limit(check: ev.Check) -> str:
    return f"at {'most' if check.at_most else 'least'} {check.limit:g}"


def _fractions(text: str | None) -> tuple[float, float, float] | None:
    try:
        return None if text is None else triple(text.split(","))
    except ValueError as error:
        raise MakingRefused(f"{text!r} is not three numbers", "write them as 0.485,0.456,0.406") from error


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise MakingRefused(f"{path} cannot be read ({error.strerror})", "name a file") from error


def _say_faults(found: Photographs) -> None:
    for name, why in found.faults[:5]:
        terminal.say(f"passed over: {name}: {why}")
    if len(found.faults) > 5:
        terminal.say(f"passed over: {len(found.faults) - 5} more")


def _say_draft(draft: Draft, out: Path, notes: object) -> None:
    for note in notes if isinstance(notes, list) else []:
        terminal.say(f"note: {note}")
    manifest = draft.manifest
    terminal.print_facts(
        {
            "name": manifest.name,
            "precision": manifest.precision,
            "family": manifest.family,
            "looks at": f"{manifest.preprocessing.size} px",
            "embedding": manifest.embedding_dim,
            "patches": f"{manifest.patch_grid[0]} x {manifest.patch_grid[1]} of {manifest.patch_dim}",
            "attention": f"{manifest.attention_grid[0]} x {manifest.attention_grid[1]}",
            "embedding space": manifest.embedding_space[:16],
            "graph": f"{manifest.onnx_sha256[:16]}, {len(draft.model) / 1e6:.2f} MB",
        }
    )
    terminal.say(f"Wrote {out} (unsigned)")
