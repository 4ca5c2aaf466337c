"""What takes part in the race of engines: a graph by its source, its rewrite, and who chooses types. The graphs are
made and kept beforehand, while the GPU has other work."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final, Literal

import onnx
from onnx import ModelProto

from engines import recipes
from engines.gpu.device_graph import DeviceGraph, Recipe

Typing = Literal["strong", "weak"]
EMBEDDING: Final = ("embedding",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A graph file, how it is rewritten, and who chooses types. `by_fours`: an empty channel without more rewriting."""

    name: str
    source: str
    rewrite: Recipe
    typing: Typing = "strong"
    by_fours: bool = False

    @property
    def precision(self) -> str:
        return "fp16" if self.source == "fp32" else self.source.partition("-")[0]

    def graph(self, model: ModelProto, outputs: Sequence[str] = ()) -> DeviceGraph:
        """Raises ValueError where the rewrite is not possible."""
        return recipes.device_graph(recipes.four_channels(model) if self.by_fours else model, self.rewrite, outputs)


RESIDUAL: Final = (
    Entry(name="fp16", source="fp32", rewrite="half"),
    Entry(name="int8, int8 input, rest fp16", source="int8", rewrite="half-int8"),
    Entry(
        name="int8, pixels by fours, types left to the builder",
        source="int8",
        rewrite="signed",
        typing="weak",
        by_fours=True,
    ),
    Entry(name="int8, rest fp16", source="int8", rewrite="half"),
    Entry(name="int8, equal shortcuts, int8 input, rest fp16", source="int8-equal", rewrite="half-int8"),
    Entry(name="int8, pixels by fours, rest fp32", source="int8", rewrite="signed", by_fours=True),
    Entry(name="int8 as it is signed", source="int8", rewrite="signed"),
    Entry(name="fp16, types left to the builder", source="fp32", rewrite="signed", typing="weak"),
)
TRANSFORMER: Final = (
    Entry(name="fp16", source="fp32", rewrite="half"),
    Entry(name="int8 linears, rest fp16", source="int8", rewrite="half"),
    Entry(name="fp8 linears, rest fp16", source="fp8", rewrite="half"),
    Entry(name="int8 linears, types left to the builder", source="int8", rewrite="signed", typing="weak"),
    Entry(name="fp16, types left to the builder", source="fp32", rewrite="signed", typing="weak"),
)


def entries_of(recipe: str) -> tuple[Entry, ...]:
    return RESIDUAL if recipe == "residual" else TRANSFORMER


def keep_all(folder: Path, recipe: str) -> None:
    """Make and keep the graphs of every entry, for the embedding alone; what is not possible is left out."""
    for entry in entries_of(recipe):
        try:
            _keep(folder, entry, EMBEDDING)
        except (ValueError, OSError) as error:
            print(f"{entry.name}: {error}", flush=True)


def kept(folder: Path, entry: Entry, outputs: Sequence[str] = ()) -> DeviceGraph:
    """A kept graph; one that was not is made now. Raises ValueError where the rewrite is not possible."""
    place = _place(folder, entry, outputs)
    if not place.with_suffix(".json").exists():
        return _keep(folder, entry, outputs)
    told = json.loads(place.with_suffix(".json").read_text())
    return DeviceGraph(model=place.read_bytes(), **told)


def _keep(folder: Path, entry: Entry, outputs: Sequence[str]) -> DeviceGraph:
    made = entry.graph(onnx.load(folder / f"{entry.source}.onnx"), outputs)
    place = _place(folder, entry, outputs)
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(made.model)
    told = {field.name: getattr(made, field.name) for field in fields(made) if field.name != "model"}
    place.with_suffix(".json").write_text(json.dumps(told))
    return made


def _place(folder: Path, entry: Entry, outputs: Sequence[str]) -> Path:
    fours = "-by-fours" if entry.by_fours else ""
    return folder / "race" / f"{entry.source}-{entry.rewrite}{fours}-{'-'.join(outputs) or 'all'}.onnx"
