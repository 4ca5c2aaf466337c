"""What makes an engine a release: its version, how long it is valid, and the machines that it is for.

A variant is told apart by its target. A graph that any runtime takes has the backend `any`; one that was tuned for a
backend, a compute capability or exact versions names them, and is refused anywhere else before it is loaded.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal, cast, get_args

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from engines.proof import Proof, proof_fields, proof_from

TargetBackend = Literal["any", "openvino", "onnxruntime", "tensorrt"]
VERSIONED: Final = ("cuda", "driver", "onnxruntime", "openvino", "tensorrt")
LARGEST_VERSION: Final = 2**31 - 1  # an integer of the index
_CAPABILITY = re.compile(r"\d{1,2}\.\d")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """`capability` is a GPU's compute capability such as "9.0", "" for any; `requires` are versions of what must be
    there, as PEP 440 writes them: (("tensorrt", "==10.6.*"),). Raises ValueError for what it cannot mean."""

    backend: TargetBackend = "any"
    capability: str = ""
    requires: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if self.backend not in get_args(TargetBackend):
            raise ValueError(f"backend {self.backend!r} is none of {', '.join(get_args(TargetBackend))}")
        if self.capability and not _CAPABILITY.fullmatch(self.capability):
            raise ValueError(f"compute capability {self.capability!r} is not written like 9.0")
        if self.capability and self.backend != "tensorrt":
            raise ValueError(f"compute capability {self.capability} with backend {self.backend}: it needs tensorrt")
        for name, versions in self.requires:
            if name not in VERSIONED:
                raise ValueError(f"a required version of {name!r}: known are {', '.join(VERSIONED)}")
            _specifiers(name, versions)

    @property
    def required(self) -> str:
        """The required versions in one line, "" where any do; equal targets have equal lines."""
        return " ".join(f"{name}{versions}" for name, versions in sorted(self.requires))

    def __str__(self) -> str:
        return " ".join(part for part in (self.backend, self.capability, self.required) if part)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """`version` only grows for a name; times are aware UTC, whole seconds; `made_with` names the libraries, and where
    there was one the GPU's driver, of the machine that signed it; `proof` what is known of its accuracy. Raises
    ValueError for what it cannot mean."""

    version: int
    issued_at: datetime
    expires_at: datetime | None = None
    target: Target = Target()
    made_with: tuple[tuple[str, str], ...] = ()
    proof: Proof | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.version <= LARGEST_VERSION:
            raise ValueError(f"version {self.version} is not from 1 to {LARGEST_VERSION}")
        if self.expires_at is not None and self.expires_at <= self.issued_at:
            raise ValueError(f"it expires at {self.expires_at} and was issued at {self.issued_at}")


def whole_seconds(moment: datetime) -> datetime:
    """As a manifest keeps it."""
    return moment.astimezone(UTC).replace(microsecond=0)


def release_fields(release: Release) -> dict[str, Any]:
    """The JSON fields of a release; release_from reads them."""
    target = {**dataclasses.asdict(release.target), "requires": dict(release.target.requires)}
    proof = {} if release.proof is None else {"proof": proof_fields(release.proof)}
    return {
        **proof,
        "version": release.version,
        "issued_at": _written(release.issued_at),
        "expires_at": None if release.expires_at is None else _written(release.expires_at),
        "target": target,
        "made_with": dict(release.made_with),
    }


def release_from(fields: Any) -> Release:
    """Parse strictly; any departure raises ValueError, TypeError, KeyError or AttributeError. Releases from before the
    gate have no proof."""
    if not isinstance(fields, dict):
        raise TypeError(f"a release is {fields!r}")
    _exactly({"proof": None, **fields}, Release)
    if type(fields["version"]) is not int:
        raise TypeError(f"version is {fields['version']!r}, expected a whole number")
    expires = fields["expires_at"]
    return Release(
        version=fields["version"],
        issued_at=_moment(fields["issued_at"]),
        expires_at=None if expires is None else _moment(expires),
        target=_target(fields["target"]),
        made_with=_texts(fields["made_with"]),
        proof=proof_from(fields["proof"]) if "proof" in fields else None,
    )


def _target(fields: Any) -> Target:
    _exactly(fields, Target)
    return Target(
        backend=cast(TargetBackend, fields["backend"]),
        capability=_text(fields["capability"]),
        requires=_texts(fields["requires"]),
    )


def _exactly(fields: Any, kind: type) -> None:
    wanted = {field.name for field in dataclasses.fields(kind)}
    if not isinstance(fields, dict) or fields.keys() != wanted:
        found = sorted(fields) if isinstance(fields, dict) else fields
        raise ValueError(f"a {kind.__name__.lower()} has {sorted(wanted)}, not {found}")


def _texts(fields: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((_text(name), _text(value)) for name, value in fields.items()))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _written(moment: datetime) -> str:
    return whole_seconds(moment).strftime("%Y-%m-%dT%H:%M:%SZ")


def _moment(value: Any) -> datetime:
    moment = datetime.strptime(_text(value), "%Y-%m-%dT%H:%M:%SZ")
    return moment.replace(tzinfo=UTC)


def _specifiers(name: str, versions: str) -> SpecifierSet:
    try:
        return SpecifierSet(versions)
    except InvalidSpecifier as error:
        raise ValueError(f"required version of {name}: {versions!r} is not written like >=10.6,<11") from error
