"""The version matrix: which machines an engine is for, and what this build itself needs. Pure; engines.machine looks at
the machine. Checked before a byte of an engine is deserialised."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeVar

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from engines.errors import EngineRefused, RefusalCode
from engines.manifest import EngineManifest
from engines.release import Target
from engines.runner import Backend

OLDEST_OPSET: Final = 13  # QuantizeLinear with an axis, which the explicit INT8 of these graphs needs
# Of what this build was written for; pyproject.toml says the same to installers, and a test compares them.
SUPPORTED: Final[Mapping[str, str]] = {
    "openvino": ">=2026.1",
    "onnxruntime": ">=1.23",
    "tensorrt": ">=10.6",
    "pycuda": ">=2026.1",
}
PACKAGES_OF: Final[Mapping[Backend, tuple[str, ...]]] = {
    "openvino": ("openvino",),
    "onnxruntime": ("onnxruntime",),
    "tensorrt": ("tensorrt", "pycuda"),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A GPU; `capability` is its compute capability, such as 9.0."""

    name: str
    capability: str
    memory_bytes: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What an engine can need of a machine. `versions` by name (cuda, driver, onnx, onnxruntime, openvino, pycuda,
    tensorrt), without those that are not there; `opset` is the newest that the installed onnx knows."""

    versions: Mapping[str, str]
    opset: int
    cards: tuple[Card, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Misfit:
    """Why an engine is not for a machine."""

    code: RefusalCode
    message: str
    fix: str


def misfits(manifest: EngineManifest, machine: Machine, backend: Backend) -> list[Misfit]:
    """Everything that keeps `backend` on `machine` from running the engine."""
    target = manifest.release.target if manifest.release is not None else Target()
    found = [
        *_opset(manifest, machine),
        *_backend(target, backend),
        *_card(target, machine, backend),
        *_versions(target, machine),
    ]
    return [dataclasses.replace(one, message=f"{manifest.name}: {one.message}") for one in found]


def refuse_misfit(manifest: EngineManifest, machine: Machine, backend: Backend) -> None:
    """Raises EngineRefused for the first misfit; its message tells the others as well."""
    found = misfits(manifest, machine, backend)
    if found:
        message = "; ".join(one.message for one in found)
        raise EngineRefused(found[0].code, message, "; ".join(dict.fromkeys(one.fix for one in found)))


def unsupported(machine: Machine, backend: Backend) -> list[Misfit]:
    """What this build needs for `backend` and the machine has not, whatever the engine."""
    return [one for name in PACKAGES_OF[backend] for one in _version(name, SUPPORTED[name], machine)]


Offered = TypeVar("Offered")


def best(
    name: str, offered: Sequence[tuple[EngineManifest, Offered]], machine: Machine, backend: Backend
) -> tuple[EngineManifest, Offered]:
    """The variant that is most closely made for this machine. Raises EngineRefused: it tells why each is not."""
    fitting = [one for one in offered if not misfits(one[0], machine, backend)]
    if fitting:
        return max(fitting, key=lambda one: _closeness(one[0]))
    if not offered:
        fix = f"publish one and promote it: assay engine publish FOLDER {name}, then verify and promote"
        raise EngineRefused(RefusalCode.NOT_PUBLISHED, f"no variant of {name} is current", fix)
    faults = [one for manifest, _ in offered for one in misfits(manifest, machine, backend)]
    message = f"no variant of {name} is for {backend} here: " + "; ".join(one.message for one in faults)
    raise EngineRefused(faults[0].code, message, faults[0].fix)


def _closeness(manifest: EngineManifest) -> tuple[bool, bool, int, int]:
    """A fitting variant that asks for more was made for fewer machines."""
    if manifest.release is None:
        return (False, False, 0, 0)
    target = manifest.release.target
    return (bool(target.capability), target.backend != "any", len(target.requires), manifest.release.version)


def _opset(manifest: EngineManifest, machine: Machine) -> Iterator[Misfit]:
    if not OLDEST_OPSET <= manifest.opset <= machine.opset:
        yield Misfit(
            code=RefusalCode.WRONG_VERSION,
            message=f"its graph is of ONNX opset {manifest.opset}, known here are {OLDEST_OPSET} to {machine.opset}",
            fix=f"export the graph with an opset from {OLDEST_OPSET} to {machine.opset}, or install a newer onnx",
        )


def _backend(target: Target, backend: Backend) -> Iterator[Misfit]:
    if target.backend not in ("any", backend):
        yield Misfit(
            code=RefusalCode.WRONG_BACKEND,
            message=f"it is for {target.backend}, and {backend} runs here",
            fix=f"set engines.backend to {target.backend}, or {_publish(backend)}",
        )


def _card(target: Target, machine: Machine, backend: Backend) -> Iterator[Misfit]:
    if not target.capability or backend != "tensorrt":
        return  # a CPU is the wrong backend, which is told already
    found = machine.cards[0] if machine.cards else None  # the worker's GPU: CUDA_VISIBLE_DEVICES puts it first
    if found is None or found.capability != target.capability:
        here = f"{found.name} has {found.capability}" if found is not None else "no GPU is seen"
        yield Misfit(
            code=RefusalCode.WRONG_GPU,
            message=f"it is for compute capability {target.capability}, and {here}",
            fix=_publish(backend, found.capability if found is not None else ""),
        )


def _versions(target: Target, machine: Machine) -> Iterator[Misfit]:
    for name, wanted in target.requires:
        for fault in _version(name, wanted, machine):
            yield dataclasses.replace(fault, fix=f"{fault.fix}, or publish a variant for the one that is here")


def _version(name: str, wanted: str, machine: Machine) -> Iterator[Misfit]:
    found = machine.versions.get(name)
    if found is None or not contains(wanted, found):
        here = f"{found} is here" if found is not None else "there is none"
        message = f"{name} {wanted} is needed, and {here}"
        yield Misfit(code=RefusalCode.WRONG_VERSION, message=message, fix=f"install {name}{wanted}")


def contains(wanted: str, found: str) -> bool:
    """Whether version `found` is one of `wanted`; builds such as 580.65.06 or 2026.1.0-19900-abc count by their
    numbers."""
    try:
        version = Version(found.partition("-")[0])
    except InvalidVersion:
        return False
    return SpecifierSet(wanted).contains(version, prereleases=True)


def _publish(backend: Backend, capability: str = "") -> str:
    option = f" --capability {capability}" if capability else ""
    return f"publish a variant for this machine: assay engine publish FOLDER NAME --backend {backend}{option}"


def versions_line(versions: Iterable[tuple[str, str]]) -> str:
    """Versions in one line, for people."""
    return ", ".join(f"{name} {version}" for name, version in versions)
