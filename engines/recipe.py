"""Recipes of `assay engine build`: a TOML file that names what is built of what. Digests and versions that it pins are
held; a build writes the recipe with all of them pinned, so that it can be made again or be found to be another."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from engines.drafts import MakingRefused
from engines.release import VERSIONED
from engines.runner import Backend

MOST_BATCH: Final = 512
_BACKENDS: Final = ("openvino", "tensorrt")
_FIX: Final = "correct the recipe; docs/engines.md shows one"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A draft to race, and the report that proves its accuracy; paths as the recipe writes them."""

    draft: str
    report: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """Least cosine to FP32, on every golden image, of the embedding and of the maps; of patches the mean."""

    embedding: float = 0.99
    patches: float = 0.95
    attention: float = 0.95


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """`golden` is a folder of photographs, "" for the images that every engine carries; `batches` become the profiles,
    () for the draft's; `seed` chooses among more golden photographs than are used; `digests` pin files by path,
    `versions` libraries by name."""

    name: str
    fp32: str
    candidates: tuple[Candidate, ...]
    backend: Backend = "openvino"
    batches: tuple[int, ...] = ()
    golden: str = ""
    golden_images: int = 32
    threads: int = 0
    rounds: int = 5
    seed: int = 0
    version_compatible: bool = False
    require_reports: bool = True
    parity: Parity = Parity()
    digests: tuple[tuple[str, str], ...] = ()
    versions: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if self.backend not in _BACKENDS:
            raise ValueError(f"backend {self.backend!r} is none of {', '.join(_BACKENDS)}, which have plans")
        if not self.candidates:
            raise ValueError("no [[candidates]] to race")
        if any(not 1 <= batch <= MOST_BATCH for batch in self.batches):
            raise ValueError(f"batches {list(self.batches)} are not from 1 to {MOST_BATCH}")
        if self.version_compatible and self.backend != "tensorrt":
            raise ValueError("version_compatible is for tensorrt: OpenVINO's plans are for one version")
        if not (1 <= self.rounds <= 1000 and 1 <= self.golden_images <= 1000 and 0 <= self.threads <= 1024):
            raise ValueError("rounds and golden_images are from 1 to 1000, threads from 0 to 1024")
        unknown = sorted({name for name, _ in self.versions} - {*VERSIONED, "onnx", "pycuda"})
        if unknown:
            raise ValueError(f"versions of {', '.join(unknown)}: known are {', '.join(VERSIONED)}, onnx, pycuda")

    def pinned(self, digests: Mapping[str, str], versions: Mapping[str, str]) -> Recipe:
        """The same, with what was found."""
        return dataclasses.replace(
            self, digests=tuple(sorted(digests.items())), versions=tuple(sorted(versions.items()))
        )

    def refuse_other(self, digests: Mapping[str, str], versions: Mapping[str, str]) -> None:
        """Raises MakingRefused where a pinned digest or version is not the one that is here."""
        for what, pins, found in (("file", self.digests, digests), ("version", self.versions, versions)):
            for name, wanted in pins:
                here = found.get(name, "none")
                if here != wanted:
                    message = f"the recipe pins {what} {name} to {wanted}, and {here} is here"
                    raise MakingRefused(message, "bring that one, or take the line out of the recipe")


def read_recipe(path: Path) -> Recipe:
    """Raises MakingRefused."""
    try:
        return _recipe(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise MakingRefused(f"{path} cannot be read ({error.strerror})", "name a recipe's file") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise MakingRefused(f"{path} is no recipe: {error}", _FIX) from error


def _recipe(fields: dict[str, Any]) -> Recipe:
    _known(fields, Recipe)
    given = dict(fields)
    for name in ("digests", "versions"):
        table = given.pop(name, {})
        given[name] = tuple(sorted((key, _typed(value, str, f"{name}.{key}")) for key, value in table.items()))
    candidates = given.pop("candidates", [])
    parity = given.pop("parity", {})
    _known(parity, Parity)
    given["batches"] = tuple(_typed(batch, int, "batches") for batch in given.get("batches", ()))
    for name in ("name", "fp32", "backend", "golden"):
        given[name] = _typed(given.get(name, getattr(_DEFAULTS, name)), str, name)
    for name in ("golden_images", "threads", "rounds", "seed"):
        given[name] = _typed(given.get(name, getattr(_DEFAULTS, name)), int, name)
    for name in ("version_compatible", "require_reports"):
        given[name] = _typed(given.get(name, getattr(_DEFAULTS, name)), bool, name)
    if not given["name"] or not given["fp32"]:
        raise ValueError("name and fp32 are needed")
    return Recipe(
        **given,
        candidates=tuple(_candidate(one) for one in candidates),
        parity=Parity(**{name: float(value) for name, value in parity.items()}),
    )


_DEFAULTS: Final = Recipe(name="", fp32="", candidates=(Candidate(draft=""),))


def _candidate(fields: Any) -> Candidate:
    _known(fields, Candidate)
    return Candidate(**{name: _typed(value, str, name) for name, value in fields.items()})


def _known(fields: Any, kind: type) -> None:
    if not isinstance(fields, dict):
        raise TypeError(f"{fields!r} is no table")
    unknown = sorted(fields.keys() - {field.name for field in dataclasses.fields(kind)})
    if unknown:
        raise ValueError(f"unknown: {', '.join(unknown)}")


def _typed(value: Any, kind: type, name: str) -> Any:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TypeError(f"{name} is {value!r}, expected {kind.__name__}")
    return value


def as_toml(recipe: Recipe) -> str:
    """The recipe's file; read_recipe reads the same back."""
    plain = [f for f in dataclasses.fields(recipe) if f.name not in ("candidates", "parity", "digests", "versions")]
    lines = [f"{field.name} = {_value(getattr(recipe, field.name))}" for field in plain]
    tables: dict[str, dict[str, object]] = {
        "parity": dataclasses.asdict(recipe.parity),
        "digests": dict(recipe.digests),
        "versions": dict(recipe.versions),
    }
    for name, table in tables.items():
        lines += ["", f"[{name}]", *(f"{json.dumps(key)} = {_value(value)}" for key, value in table.items())]
    for candidate in recipe.candidates:
        lines += ["", "[[candidates]]", *(f"{k} = {_value(v)}" for k, v in dataclasses.asdict(candidate).items())]
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value)
