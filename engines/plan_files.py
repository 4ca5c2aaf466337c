"""Plans kept from one start to the next: TensorRT's engines and OpenVINO's compiled models, each with a header that
says what it was built of and with. What a plan depends on names its file, so another version or machine finds none.

A plan is as good as native code: it is read from a folder that nobody but this user can write to, nowhere else.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Literal

from packaging.version import InvalidVersion, Version

from engines.errors import EngineRefused, RefusalCode
from engines.manifest import EngineManifest, sha256_hex
from engines.whole_files import replace_file

PlanBackend = Literal["openvino", "tensorrt"]
REBUILD: Final = "assay engine build RECIPE"
_MAGIC: Final = b"assay plan 1\n"
_DIGEST_BYTES: Final = 32
_LENGTH_BYTES: Final = 4
_LONGEST_HEADER: Final = 1 << 16
_OPENVINO_KEPT: Final = 16  # plans; one takes half a second to make again and some 10 MB to keep
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlanHeader:
    """`graph` names the rewrite that was built, "" for the signed graph; `machine` is a GPU's compute capability such
    as "9.0", or what of a processor counts; `version` the library's; `options` what its builder was told; `made_with`
    the driver and the newest CUDA that it runs, where there are."""

    backend: PlanBackend
    name: str
    onnx_sha256: str
    graph: str = ""
    profiles: tuple[int, ...]
    version: str
    machine: str
    options: tuple[tuple[str, str], ...] = ()
    made_with: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> str:
        """What the plan depends on; a newer driver runs it too."""
        fields = {**_fields(self), "made_with": {}, "name": ""}
        return sha256_hex(json.dumps(fields, sort_keys=True).encode())

    @property
    def told(self) -> str:
        return f"{self.backend} {self.version} on {self.machine}"


class PlanFolder:
    """Plans by what they were made of. Raises EngineRefused where others could write into the folder, and where it
    cannot be made."""

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = folder.stat()
        except OSError as error:
            raise _no_folder(f"{folder} cannot be made ({error.strerror})") from error
        if found.st_uid != os.geteuid() or found.st_mode & 0o022:
            fix = f"chown the folder to the worker's user and chmod 700 it, or name another one than {folder}"
            raise EngineRefused(RefusalCode.SIGNATURE_INVALID, f"others can write plans into {folder}", fix)
        self.folder = folder

    def read(self, wanted: PlanHeader) -> bytes | None:
        """The plan that `wanted` describes; None where there is none, or where the file was cut short or altered.
        Raises EngineRefused (wrong_version, wrong_gpu) for a whole plan of another machine in its place."""
        path = self._path(wanted)
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            return None
        found = _opened(raw)
        if found is None:
            _log.warning("the plan %s is damaged and will be built again", path)
            return None
        refuse_other_plan(found[0], wanted)
        os.utime(path)
        return found[1]

    def write(self, header: PlanHeader, plan: bytes) -> None:
        """Keep a plan; readers see all of it or nothing."""
        replace_file(self._path(header), _sealed(header, plan))
        if header.backend == "openvino":
            self._let_go()

    @contextmanager
    def alone(self, header: PlanHeader) -> Iterator[None]:
        """Of several processes that want this plan, one builds it here; the others wait, and read it."""
        with ExitStack() as held:
            with suppress(OSError):  # where nothing can be written no plan is kept either, and that is told then
                lock = held.enter_context(self._path(header).with_suffix(".lock").open("wb"))
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def forget(self, onnx_sha256: str) -> None:
        """Let go of a graph's plans."""
        for header in list(self.headers()):
            if header.onnx_sha256 == onnx_sha256:
                self._path(header).unlink(missing_ok=True)

    def headers(self) -> Iterator[PlanHeader]:
        """Of the whole plans that lie here."""
        for path in sorted(self.folder.glob("*.plan")):
            if (found := _opened(path.read_bytes())) is not None:
                yield found[0]

    def others(self, wanted: PlanHeader) -> list[PlanHeader]:
        """Plans of this graph for this backend that are for another version, machine or use."""
        alike = (h for h in self.headers() if _of(h) == _of(wanted))
        return [header for header in alike if header.key != wanted.key]

    def _path(self, header: PlanHeader) -> Path:
        return self.folder / f"{header.backend}-{header.key}.plan"

    def _let_go(self) -> None:
        """Of the plans that are cheap to make, keep those used last."""
        kept = sorted(self.folder.glob("openvino-*.plan"), key=lambda path: -path.stat().st_mtime)
        for path in kept[_OPENVINO_KEPT:]:
            path.unlink(missing_ok=True)


class KeptTimings:
    """TensorRT's timings of layers in a folder of plans, from one build to the next."""

    def __init__(self, plans: PlanFolder, name: str) -> None:
        self._path = plans.folder / f"{name}.timing"

    def read(self) -> bytes:
        """b"" where there are none, or where the file was cut short or altered."""
        try:
            raw = self._path.read_bytes()
        except FileNotFoundError:
            return b""
        digest, cache = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES:]
        return cache if hashlib.sha256(cache).digest() == digest else b""

    def keep(self, cache: bytes) -> None:
        replace_file(self._path, hashlib.sha256(cache).digest() + cache)


def default_folder() -> Path:
    """Among the user's caches. Raises EngineRefused where the user has no home."""
    try:
        return Path.home() / ".cache" / "assay" / "plans"
    except RuntimeError as error:
        raise _no_folder("this user has no home for them") from error


def _no_folder(why: str) -> EngineRefused:
    fix = "set engines.plans_dir to a folder of the worker's user"
    return EngineRefused(RefusalCode.BACKEND_UNAVAILABLE, f"plans cannot be kept: {why}", fix)


def refuse_other_plan(found: PlanHeader, wanted: PlanHeader) -> None:
    """A plan serves the graph, profiles, version and machine that it was built for, and no older driver. Raises
    EngineRefused."""
    fix = f"build it on this machine: {REBUILD}"
    if (_of(found), found.profiles) != (_of(wanted), wanted.profiles):
        told = f"{found.onnx_sha256[:12]} for batches {list(found.profiles)}"
        asked = f"{wanted.onnx_sha256[:12]} for {list(wanted.profiles)}"
        message = f"a plan of graph {told} lies in the place of {wanted.name}'s, {asked}"
        raise EngineRefused(RefusalCode.NOT_THE_PUBLISHED, message, fix)
    if found.machine != wanted.machine:
        message = f"{wanted.name}'s plan was built for {found.machine}, and {wanted.machine} is here"
        raise EngineRefused(RefusalCode.WRONG_GPU, message, fix)
    if (found.backend, found.version, found.options) != (wanted.backend, wanted.version, wanted.options):
        told, asked = (f"{h.backend} {h.version} {dict(h.options)}" for h in (found, wanted))
        message = f"{wanted.name}'s plan was built by {told}, and {asked} is here"
        raise EngineRefused(RefusalCode.WRONG_VERSION, message, fix)
    for name in ("driver", "cuda"):
        built, here = dict(found.made_with).get(name), dict(wanted.made_with).get(name)
        if built and here and _older(here, built):
            message = f"{wanted.name}'s plan was built with {name} {built}, and {here} is here"
            raise EngineRefused(RefusalCode.WRONG_VERSION, message, f"install {name}>={built}, or {fix}")


def made_with_driver(versions: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """What of a machine's versions a plan's header records beside its library's."""
    return tuple((name, versions[name]) for name in ("cuda", "driver") if name in versions)


def profiles_of(manifest: EngineManifest) -> tuple[int, ...]:
    return tuple(sorted(manifest.profiles))


def _of(header: PlanHeader) -> tuple[str, str, str]:
    return header.backend, header.onnx_sha256, header.graph


def _older(here: str, built: str) -> bool:
    try:
        return Version(here) < Version(built)
    except InvalidVersion:
        return False


def _fields(header: PlanHeader) -> dict[str, Any]:
    fields = dataclasses.asdict(header)
    return {**fields, "options": dict(header.options), "made_with": dict(header.made_with)}


def _sealed(header: PlanHeader, plan: bytes) -> bytes:
    told = json.dumps(_fields(header), sort_keys=True).encode()
    body = len(told).to_bytes(_LENGTH_BYTES, "big") + told + plan
    return _MAGIC + hashlib.sha256(body).digest() + body


def _opened(raw: bytes) -> tuple[PlanHeader, bytes] | None:
    """Header and plan of a whole file; None for any other."""
    if not raw.startswith(_MAGIC):
        return None
    digest, body = raw[len(_MAGIC) :][:_DIGEST_BYTES], raw[len(_MAGIC) + _DIGEST_BYTES :]
    if hashlib.sha256(body).digest() != digest:
        return None
    length = int.from_bytes(body[:_LENGTH_BYTES], "big")
    if length > _LONGEST_HEADER:
        return None
    told, plan = body[_LENGTH_BYTES:][:length], body[_LENGTH_BYTES + length :]
    try:
        return _header(json.loads(told)), plan
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _header(fields: Mapping[str, Any]) -> PlanHeader:
    pairs = {name: tuple(sorted(dict(fields[name]).items())) for name in ("options", "made_with")}
    return PlanHeader(**{**fields, **pairs, "profiles": tuple(fields["profiles"])})
