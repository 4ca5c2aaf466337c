"""The signed description of one engine: canonical JSON beside the ONNX file. What is signed is the canonical JSON
without its signature; it names the SHA-256 of the graph and of the golden outputs, so one signature covers all.

Schema 1 describes an engine; schema 2 adds its release: version, validity, and the machines that it is for."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from engines.errors import EngineRefused, RefusalCode
from engines.preprocess import Preprocessing
from engines.release import Release, release_fields, release_from

Precision = Literal["int8", "fp32"]
SCHEMA = 1
RELEASED_SCHEMA = 2
T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationCalibration:
    """How activation ranges were found: the method, how many images, and the digest of those images' pixels."""

    method: str
    images: int
    digest: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EngineManifest:
    """Everything a worker must know of an engine before it loads it. Grids are (rows, columns); digests are SHA-256
    in hex; `groups` gives the precision of each layer group; `report` the measured accuracy and parity figures;
    `release` is what a registry asks for, and stands in schema 2 alone."""

    name: str
    family: str
    onnx_sha256: str
    golden_sha256: str
    precision: Precision
    groups: tuple[tuple[str, str], ...]
    embedding_space: str
    preprocessing: Preprocessing
    channels: int = 3
    tiling: str
    embedding_dim: int
    patch_dim: int
    patch_grid: tuple[int, int]
    attention_grid: tuple[int, int]
    opset: int
    calibration: QuantizationCalibration | None
    profiles: tuple[int, ...]
    report: tuple[tuple[str, float], ...] = ()
    release: Release | None = None
    key_id: str = ""
    signature: str = ""

    def signed_bytes(self) -> bytes:
        """What the signature covers: every field but the signature."""
        return _canonical({k: v for k, v in self._fields().items() if k != "signature"})

    def to_json(self) -> bytes:
        """The file's bytes."""
        return _canonical(self._fields()) + b"\n"

    def _fields(self) -> dict[str, Any]:
        fields = dataclasses.asdict(self)
        fields |= {"schema": SCHEMA, "groups": dict(self.groups), "report": dict(self.report)}
        if self.release is None:
            del fields["release"]
            return fields
        return {**fields, "schema": RELEASED_SCHEMA, "release": release_fields(self.release)}

    @classmethod
    def from_json(cls, raw: bytes, source: str) -> Self:
        """Parse strictly: unknown, missing or mistyped fields raise EngineRefused (manifest_invalid)."""
        try:
            return cls(**_parsed(json.loads(raw)))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            fix = "publish the engine again with this version's tools"
            raise EngineRefused(RefusalCode.MANIFEST_INVALID, f"{source}: {error}", fix) from error


def _canonical(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


def _parsed(fields: dict[str, Any]) -> dict[str, Any]:
    """Constructor arguments from a decoded file; any departure from the schema raises."""
    schema = fields.pop("schema", None)
    if type(schema) is not int or schema not in (SCHEMA, RELEASED_SCHEMA):
        raise ValueError(f"not a manifest of schema {SCHEMA} or {RELEASED_SCHEMA}")
    expected = {f.name for f in dataclasses.fields(EngineManifest)} - ({"release"} if schema == SCHEMA else set())
    if fields.keys() != expected:
        raise ValueError(f"fields that differ from the schema: {sorted(fields.keys() ^ expected)}")
    texts = ("name", "family", "onnx_sha256", "golden_sha256", "embedding_space", "tiling", "key_id", "signature")
    numbers = ("channels", "embedding_dim", "patch_dim", "opset")
    if fields["precision"] not in ("int8", "fp32"):
        raise ValueError(f"precision {fields['precision']!r} is neither int8 nor fp32")
    return {
        **{n: _typed(fields, n, str) for n in texts},
        **{n: _typed(fields, n, int) for n in numbers},
        "precision": fields["precision"],
        "preprocessing": _preprocessing(fields["preprocessing"]),
        "calibration": None if fields["calibration"] is None else QuantizationCalibration(**fields["calibration"]),
        "patch_grid": _grid(fields["patch_grid"]),
        "attention_grid": _grid(fields["attention_grid"]),
        "profiles": tuple(int(p) for p in fields["profiles"]),
        "groups": tuple(sorted((str(k), str(v)) for k, v in fields["groups"].items())),
        "report": tuple(sorted((str(k), float(v)) for k, v in fields["report"].items())),
        "release": release_from(fields["release"]) if schema == RELEASED_SCHEMA else None,
    }


def _typed(fields: Mapping[str, Any], name: str, kind: type[T]) -> T:
    value = fields[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}, expected {kind.__name__}")
    return value


def _grid(value: Any) -> tuple[int, int]:
    rows, columns = (int(v) for v in value)
    if rows < 1 or columns < 1:
        raise ValueError(f"a grid of {rows} x {columns} cells")
    return rows, columns


def _preprocessing(fields: Mapping[str, Any]) -> Preprocessing:
    known = Preprocessing(**{**fields, "mean": tuple(fields["mean"]), "std": tuple(fields["std"])})
    if (known.resize, known.colour) != ("short_side_centre_crop", "sRGB"):
        raise ValueError(f"preprocessing this version does not know: {known.resize}, {known.colour}")
    return known


def is_residual(family: str) -> bool:
    """Which recipe a family takes: residual networks have convolutions quantised, all others linear layers alone."""
    return family.startswith("res")


def manifest_path(directory: Path, name: str) -> Path:
    return directory / f"{name}.manifest.json"


def model_path(directory: Path, name: str) -> Path:
    return directory / f"{name}.onnx"


def golden_path(directory: Path, name: str) -> Path:
    return directory / f"{name}.golden.npz"


def sha256_hex(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
