"""The cases of `assay engine drill`: each makes a bad engine of a good one, in a scratch folder and under a scratch
key, and says what has to become of it."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from onnx import numpy_helper

from engines.catalogue import EngineFiles, VerifiedEngine
from engines.errors import EngineRefused, RefusalCode
from engines.export import ExportedEngine
from engines.lifecycle import State, Variant
from engines.machine import this_machine
from engines.manifest import EngineManifest, sha256_hex
from engines.matrix import refuse_misfit
from engines.plan_files import PlanFolder, PlanHeader
from engines.publish import publish, released, signed, write_public_key
from engines.release import Target
from engines.runner import Backend
from engines.signing import TrustedKey, TrustedKeys, key_id
from engines.store import FolderStore, opened
from worker.adapters.encoder import EXIT_ENGINE

VERSION: Final = 7
CHILD: Final = "worker.cli.engine_drill_child"
ENDED: Final = f"the worker ends with {EXIT_ENGINE}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scratch:
    """A folder that is thrown away, a key of its own, and the good engine; `deadline_s` of the engine for a batch,
    `patience_s` for a whole case."""

    folder: Path
    good: VerifiedEngine
    backend: Backend
    key: Ed25519PrivateKey
    deadline_s: float
    patience_s: float

    @property
    def name(self) -> str:
        return self.good.manifest.name

    @property
    def keys(self) -> TrustedKeys:
        public = self.key.public_key()
        return {key_id(public): TrustedKey(verifier=public)}

    def files(self, key: Ed25519PrivateKey | None = None, **release: Any) -> EngineFiles:
        """The good engine as a release with these changes."""
        given: dict[str, Any] = {"version": VERSION, "machine": this_machine()} | release
        made = released(self.good.manifest, **given)
        manifest = signed(made, key or self.key).to_json()
        return EngineFiles(manifest=manifest, model=self.good.model, golden=self.good.golden)

    def opened(self, files: EngineFiles, published: EngineFiles | None = None, keys: TrustedKeys | None = None) -> None:
        """From a scratch registry, as a worker opens what the serving one holds. Raises EngineRefused."""
        root = Path(tempfile.mkdtemp(prefix="registry-", dir=self.folder))
        store = FolderStore(root)
        where = store.put(published or files)
        if published is not None:
            place = root / where
            for part, data in (("manifest.json", files.manifest), ("model.onnx", files.model)):
                (place / part).write_bytes(data)
        variant = Variant(id=where, name=self.name, version=VERSION, slot="any", state=State.CURRENT)
        opened(store.get(where), variant, self.keys if keys is None else keys)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """How a case ended: in words, and the refusal's code where there is one."""

    how: str
    code: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """`expected` is how it has to end: a refusal's code, or words."""

    name: str
    expected: str
    run: Callable[[Scratch], Seen]


def in_child(scratch: Scratch, folder: Path, fault: str = "") -> Seen:
    """What becomes of the engine in `folder` in a process of its own."""
    given = {
        "name": scratch.name,
        "backend": scratch.backend,
        "plans": str(scratch.folder / "plans"),
        "fault": fault,
        "deadline_s": scratch.deadline_s,
    }
    command = [sys.executable, "-m", CHILD, str(folder), json.dumps(given)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=scratch.patience_s)  # noqa: S603
    except subprocess.TimeoutExpired:
        return Seen(how=f"nothing within {scratch.patience_s:g} s")
    if done.returncode not in (0, EXIT_ENGINE) or not done.stdout.strip():
        return Seen(how=f"the process ended with {done.returncode}: {done.stderr.strip()[-200:]}")
    return _told(done.returncode, json.loads(done.stdout.splitlines()[-1]))


def _told(returncode: int, told: Mapping[str, Any]) -> Seen:
    if told["end"] == "refused":
        return Seen(how="refused", code=told["code"])
    if told["end"] == "ended":
        return Seen(how=f"the worker ends with {returncode}")
    views = told["views"]
    return Seen(how="serves" if set(views) == {"seen"} else "serves, " + ", ".join(sorted(set(views) - {"seen"})))


def planted(fault: str) -> Callable[[Scratch], Seen]:
    """The good engine, which fails once it serves."""
    return lambda scratch: in_child(scratch, laid(scratch, "good", scratch.good.model), fault)


def laid(scratch: Scratch, name: str, model: bytes, golden: bytes | None = None) -> Path:
    """A folder of models with that graph, signed as it is: what is wrong with it, only loading shows."""
    folder = scratch.folder / name
    kept = scratch.good.golden if golden is None else golden
    manifest = dataclasses.replace(scratch.good.manifest, onnx_sha256=sha256_hex(model), golden_sha256=sha256_hex(kept))
    publish(ExportedEngine(manifest=manifest, model=model, golden=kept), folder, scratch.key)
    write_public_key(folder, "drill", scratch.key)
    return folder


def serves(scratch: Scratch) -> Seen:
    return in_child(scratch, laid(scratch, "good", scratch.good.model))


def altered_graph(scratch: Scratch) -> Seen:
    files = scratch.files()
    last = bytes([files.model[-1] ^ 1])
    return refused(lambda: scratch.opened(dataclasses.replace(files, model=files.model[:-1] + last), files))


def altered_manifest(scratch: Scratch) -> Seen:
    files = scratch.files(valid_days=1)
    fields = json.loads(files.manifest)
    fields["release"]["expires_at"] = None
    changed = dataclasses.replace(files, manifest=json.dumps(fields).encode())
    return refused(lambda: scratch.opened(changed, files))


def expired(scratch: Scratch) -> Seen:
    """A signature that was good until yesterday."""
    then = datetime.now(UTC) - timedelta(days=2)
    return refused(lambda: scratch.opened(scratch.files(valid_days=1, now=then)))


def key_unknown(scratch: Scratch) -> Seen:
    return refused(lambda: scratch.opened(scratch.files(Ed25519PrivateKey.generate())))


def key_revoked(scratch: Scratch) -> Seen:
    revoked = {name: dataclasses.replace(key, state="revoked") for name, key in scratch.keys.items()}
    return refused(lambda: scratch.opened(scratch.files(), keys=revoked))


def rolled_back(scratch: Scratch) -> Seen:
    """An older version, signed just as well, in the place of a newer one."""
    return refused(lambda: scratch.opened(scratch.files(version=VERSION - 1), scratch.files()))


def wrong_gpu(scratch: Scratch) -> Seen:
    return _for(scratch, Target(backend="tensorrt", capability="1.0"), "tensorrt")


def wrong_version(scratch: Scratch) -> Seen:
    return _for(scratch, Target(requires=(("openvino", "<1"),)), scratch.backend)


def _for(scratch: Scratch, target: Target, backend: Backend) -> Seen:
    manifest = EngineManifest.from_json(scratch.files(target=target).manifest, scratch.name)
    return refused(lambda: refuse_misfit(manifest, this_machine(), backend))


def plan_of_another_gpu(scratch: Scratch) -> Seen:
    """A folder of plans that was copied from another machine."""
    plans = PlanFolder(scratch.folder / "copied")
    digest = scratch.good.manifest.onnx_sha256
    here, there = (
        PlanHeader(backend="tensorrt", name="x", onnx_sha256=digest, profiles=(1,), version="10.6", machine=machine)
        for machine in ("9.0", "1.0")
    )
    plans.write(there, b"plan")
    (scratch.folder / "copied" / f"tensorrt-{there.key}.plan").rename(
        scratch.folder / "copied" / f"tensorrt-{here.key}.plan"
    )
    return refused(lambda: plans.read(here))


def corrupt_plan(scratch: Scratch) -> Seen:
    """A plan that was damaged is built again."""
    folder, plans = laid(scratch, "good", scratch.good.model), scratch.folder / "plans"
    in_child(scratch, folder)
    kept = list(plans.glob("*.plan"))
    for path in kept:
        path.write_bytes(path.read_bytes()[:-7] + b"damaged")
    before = [path.read_bytes() for path in kept]
    found = in_child(scratch, folder)
    built = bool(kept) and all(path.read_bytes() != raw for path, raw in zip(kept, before, strict=True))
    return dataclasses.replace(found, how=f"{found.how}, {'built again' if built else 'no plan was built again'}")


def unloadable(scratch: Scratch) -> Seen:
    return in_child(scratch, laid(scratch, "unloadable", scratch.good.model[: len(scratch.good.model) // 2]))


def not_a_number(scratch: Scratch) -> Seen:
    """Weights that are no numbers, signed by a trusted key; but INT8's scales, with which TensorRT builds nothing."""
    graph = onnx.load_from_string(scratch.good.model)
    scales = {node.input[1] for node in graph.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    for weights in graph.graph.initializer:
        if weights.name in scales or weights.data_type != onnx.TensorProto.FLOAT:
            continue
        if (values := numpy_helper.to_array(weights)).ndim > 0:
            spoilt = numpy_helper.from_array(np.full_like(values, np.nan), weights.name)
            weights.CopyFrom(spoilt)
    return in_child(scratch, laid(scratch, "nan", graph.SerializeToString()))


def refused(act: Callable[[], object]) -> Seen:
    try:
        act()
    except EngineRefused as refusal:
        return Seen(how="refused", code=refusal.code.value)
    return Seen(how="taken")


def cases(backend: Backend) -> tuple[Case, ...]:
    """In the order of the table. ONNX Runtime keeps no plans."""
    planned = () if backend == "onnxruntime" else (
        Case(name="corrupt plan", expected="serves, built again", run=corrupt_plan),
    )  # fmt: skip
    return (
        Case(name="good engine", expected="serves", run=serves),
        Case(name="altered graph", expected=RefusalCode.DIGEST_MISMATCH, run=altered_graph),
        Case(name="altered manifest", expected=RefusalCode.SIGNATURE_INVALID, run=altered_manifest),
        Case(name="expired signature", expected=RefusalCode.EXPIRED, run=expired),
        Case(name="unknown key", expected=RefusalCode.KEY_UNKNOWN, run=key_unknown),
        Case(name="revoked key", expected=RefusalCode.KEY_REVOKED, run=key_revoked),
        Case(name="older version put back", expected=RefusalCode.ROLLED_BACK, run=rolled_back),
        Case(name="engine for another GPU", expected=RefusalCode.WRONG_GPU, run=wrong_gpu),
        Case(name="engine for another version", expected=RefusalCode.WRONG_VERSION, run=wrong_version),
        Case(name="plan of another GPU", expected=RefusalCode.WRONG_GPU, run=plan_of_another_gpu),
        *planned,
        Case(name="unloadable engine", expected=RefusalCode.OUTPUTS_UNEXPECTED, run=unloadable),
        Case(name="NaN engine", expected=RefusalCode.GOLDEN_MISMATCH, run=not_a_number),
        Case(name="NaN for one photograph", expected="serves, encoder_failed", run=planted("nan")),
        Case(name="hanging engine", expected=ENDED, run=planted("hang")),
        Case(name="slow engine", expected=ENDED, run=planted("slow")),
    )
