"""Drawn goods (tests.engine_life.goods) in folders as commands for engines take them, and drafts of a small encoder."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import onnx
from engine_graphs import residual

from engines.drafts import Draft, write_draft
from engines.evaluating import default_budget, limits
from engines.importing import ImportRequest, imported
from engines.importing_preprocess import Wanted
from engines.importing_taps import NamedTaps
from engines.manifest import EngineManifest, sha256_hex
from tests.engine_life.goods import SIDE, drawn

__all__ = ["SIDE", "drawn", "held_report", "labelled", "photographs", "twins"]


def photographs(folder: Path, specimens: Iterable[tuple[int, int]]) -> Path:
    """A flat folder of genuine photographs."""
    folder.mkdir(parents=True, exist_ok=True)
    for sku, specimen in specimens:
        drawn(sku, specimen).save(folder / f"{sku}-{specimen}.jpg", quality=95)
    return folder


def labelled(folder: Path, skus: int, genuine: int, forged: int) -> Path:
    """`genuine/SKU/specimen/logo.jpg` and `counterfeit/...`."""
    for label, count in (("genuine", genuine), ("counterfeit", forged)):
        for sku in range(skus):
            for specimen in range(count):
                place = folder / label / f"SKU-{sku}" / str(specimen)
                place.mkdir(parents=True)
                drawn(sku, 1000 + specimen, forged=label == "counterfeit").save(place / "logo.jpg", quality=95)
    return folder


def twins(folder: Path) -> tuple[Draft, Draft]:
    """Drafts of a very small encoder under `fp32` and `int8`; the second is called so, and has another digest, and is
    the same graph, so that whatever a test finds between them was put there."""
    wanted = Wanted(size=None, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    request = ImportRequest(name="small", wanted=wanted, taps=NamedTaps())
    exact = imported(residual().SerializeToString(), request, {})
    graph = onnx.load_from_string(exact.model)
    graph.doc_string = "a twin"
    model: bytes = graph.SerializeToString()
    coarse = replace(exact.manifest, precision="int8", onnx_sha256=sha256_hex(model))
    drafts = exact, replace(exact, model=model, manifest=coarse)
    for draft in drafts:
        write_draft(draft, folder / draft.manifest.precision)
    return drafts


def held_report(path: Path, manifest: EngineManifest, **found: float) -> Path:
    """A report as `assay engine evaluate` writes it, every bound just held but those `found` otherwise."""
    usual = limits(default_budget(manifest.family, manifest.precision))
    checks = [
        {"name": one.name, "found": one.value, "limit": one.value, "at_most": one.at_most, "told": "", "holds": True}
        | ({"found": found[one.name]} if one.name in found else {})
        for one in usual
    ]
    graphs = {"candidate": {"onnx_sha256": manifest.onnx_sha256}, "fp32": {"onnx_sha256": "f" * 64}}
    path.write_text(json.dumps({**graphs, "checks": checks}))
    return path
