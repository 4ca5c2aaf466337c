"""How an imported encoder wants its photographs: from its own config, as timm and Hugging Face write it, or flags."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from engines.drafts import MakingRefused
from engines.preprocess import Preprocessing

Triple = tuple[float, float, float]
_LEVELS = 255.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a config says; None: nothing. `mean` and `std` are fractions of full scale, RGB; `notes` what of it is not
    followed here."""

    size: int | None = None
    mean: Triple | None = None
    std: Triple | None = None
    notes: tuple[str, ...] = ()

    def over(self, other: Wanted) -> Wanted:
        """These values, and the other's where there are none."""
        return Wanted(
            size=self.size if self.size is not None else other.size,
            mean=self.mean or other.mean,
            std=self.std or other.std,
            notes=(*self.notes, *other.notes),
        )


def preprocessing(wanted: Wanted, size: int, ours: bool) -> Preprocessing:
    """The manifest's preprocessing for a graph that looks at `size` px. A graph of `ours` has the usual normalisation
    where nothing is said; of others it is not guessed. Raises MakingRefused."""
    if wanted.size is not None and wanted.size != size:
        fix = "export the graph for that size, or leave --size out"
        raise MakingRefused(f"the config says {wanted.size} px, the graph takes {size}", fix)
    if wanted.mean is None or wanted.std is None:
        if ours and wanted.mean is None and wanted.std is None:
            return Preprocessing(size=size)
        fix = (
            "give --config FILE (timm's or Hugging Face's), or --mean and --std as fractions, such as 0.485,0.456,0.406"
        )
        raise MakingRefused("nothing says how this encoder's photographs are normalised", fix)
    if min(wanted.std) <= 0 or max(*wanted.mean, *wanted.std) > 1.0 or min(wanted.mean) < 0:
        fix = "give both as fractions of full scale: 0 to 1, std above 0"
        raise MakingRefused(f"mean {wanted.mean} and std {wanted.std} are no fractions", fix)
    return Preprocessing(size=size, mean=_levels(wanted.mean), std=_levels(wanted.std))


def _levels(fractions: Triple) -> Triple:
    red, green, blue = (round(f * _LEVELS, 6) for f in fractions)
    return red, green, blue


def read_config(raw: bytes, source: str) -> Wanted:
    """timm's `config.json` (or its `pretrained_cfg`), or a Hugging Face `preprocessor_config.json`."""
    try:
        fields = json.loads(raw)
        if not isinstance(fields, dict):
            raise TypeError(f"a {type(fields).__name__}, not an object")
        fields = fields.get("pretrained_cfg") or fields
        return _huggingface(fields) if "image_mean" in fields else _timm(fields)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        fix = "give timm's config.json, a preprocessor_config.json, or --mean and --std"
        raise MakingRefused(f"{source} is no config that can be read ({error})", fix) from error


def _timm(fields: Mapping[str, Any]) -> Wanted:
    notes = []
    if float(fields.get("crop_pct") or 1.0) != 1.0:
        notes.append(f"crop_pct {fields['crop_pct']}: the whole centred square is looked at here")
    if fields.get("interpolation", "bilinear") != "bilinear":
        notes.append(f"interpolation {fields['interpolation']}: bilinear here, antialiased")
    sides = fields.get("input_size")
    return Wanted(size=_side(sides[1:]) if sides else None, notes=tuple(notes), **_normalisation(fields, "mean", "std"))


def _huggingface(fields: Mapping[str, Any]) -> Wanted:
    sides = fields.get("crop_size") or fields.get("size")
    found = list(sides.values()) if isinstance(sides, dict) else [sides]
    notes = () if fields.get("resample", 2) == 2 else (f"resample {fields['resample']}: bilinear here, antialiased",)
    return Wanted(
        size=_side(found) if sides else None, notes=notes, **_normalisation(fields, "image_mean", "image_std")
    )


def _normalisation(fields: Mapping[str, Any], mean: str, std: str) -> dict[str, Any]:
    return {"mean": triple(fields[mean]), "std": triple(fields[std])}


def triple(values: Sequence[Any]) -> Triple:
    red, green, blue = (float(v) for v in values)
    return red, green, blue


def _side(sides: Sequence[Any]) -> int:
    (side,) = {int(s) for s in sides}
    return side
