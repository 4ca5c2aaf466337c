"""`assay engine list | show | verify | publish | retire | keygen`: the registry of engines."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from engines import gate
from engines.catalogue import EngineFiles, VerifiedEngine, chosen_backend, open_runner
from engines.errors import EngineRefused
from engines.gate import proof_of, refuse_unproven
from engines.gpu.opened import Gpu
from engines.keyring import load_signer, make_hmac, make_pair
from engines.lifecycle import Move, State
from engines.machine import this_machine
from engines.manifest import EngineManifest, golden_path, manifest_path
from engines.matrix import refuse_misfit
from engines.packing import read_model
from engines.proof import Proof, proof_fields
from engines.publish import released, signed
from engines.release import Target, TargetBackend
from engines.runner import Backend
from worker.adapters.engine_index import Event, Published, those
from worker.adapters.engine_opening import open_registry
from worker.adapters.engine_registry import EngineRegistry
from worker.cli import terminal
from worker.cli.engine_choice import Chosen, choose
from worker.cli.opening import open_database
from worker.errors import AssayError
from worker.settings import load_settings

SHORT: Final = 12  # digits of an id that people are shown
COLUMNS: Final = ("name", "version", "state", "target", "precision", "space", "id", "published", "expires")
Name = Annotated[str, typer.Argument(help="The encoder's name.")]
By = Annotated[str, typer.Option(help="Who answers for it.")]
Why = Annotated[str, typer.Option(help="On what grounds.")]
Version = Annotated[int | None, typer.Option(help="Of this version alone.", min=1)]
WithoutReport = Annotated[
    str, typer.Option("--without-report", help="Why no passing report is needed; recorded for good.")
]
Id = Annotated[str, typer.Option("--id", help="Of this engine alone: the first digits of its id.")]


def list_engines(
    name: Annotated[str | None, typer.Argument(help="Of this encoder alone.")] = None,
    state: Annotated[list[State] | None, typer.Option(help="In this state; may be given again.")] = None,
    as_json: terminal.AsJson = False,
) -> None:
    """List the published engines, newest version first."""
    with opened_registry() as registry:
        found = registry.index.published(name, state or ())
    if as_json:
        terminal.print_json([_fields(one) for one in found])
        return
    terminal.print_table(COLUMNS, [_row(one) for one in found], empty="No engine is published.")


def show(
    name: Name, version: Version = None, engine_id: Id = "", as_json: terminal.AsJson = False
) -> None:  # fmt: skip
    """Show a name's engines with their manifests and every change of their state."""
    with opened_registry() as registry:
        found = choose(registry.index.published(name), Chosen(name=name, version=version, engine_id=engine_id))
        told = [(one, registry.index.events(one.id)) for one in found]
    if as_json:
        terminal.print_json([_shown(one, events) for one, events in told])
        return
    for one, events in told:
        terminal.print_facts(_facts(one))
        for bound in gate.told(one.release.proof).get("bounds", []):
            terminal.say(f"  {bound}")
        rows = [(e.at, e.came_from, e.state, e.by, e.why, e.role) for e in events]
        terminal.print_table(("at", "from", "to", "by", "why", "role"), rows, empty="It went through nothing.")


def publish(
    folder: Annotated[Path, typer.Argument(help="Folder of NAME.onnx, NAME.golden.npz and NAME.manifest.json.")],
    name: Name,
    by: By,
    why: Why,
    key: Annotated[
        Path | None, typer.Option(help="Private key (PEM) or HMAC key (*.hmac); unset: it is a signed release already.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="evaluation.json of `assay engine evaluate` on this very engine.")
    ] = None,
    without_report: WithoutReport = "",
    version: Annotated[int | None, typer.Option(help="Unset: one above the highest published.", min=1)] = None,
    valid_days: Annotated[int | None, typer.Option(help="Refused after so many days; unset: never.", min=1)] = None,
    backend: Annotated[TargetBackend, typer.Option(help="The only backend that it is for.")] = "any",
    capability: Annotated[str, typer.Option(help="The only compute capability that it is for, such as 9.0.")] = "",
    requires: Annotated[
        list[str] | None, typer.Option(help="A version that must be there: 'tensorrt==10.6.*'; may be given again.")
    ] = None,
    as_json: terminal.AsJson = False,
) -> None:
    """Sign an engine, with what its accuracy report proves, and enter it as a draft. Workers do not see it until it
    is verified and promoted."""
    with opened_registry() as registry:
        files = _read(folder, name)
        if key is not None:
            target = _target(backend, capability, requires or ())
            number = version or registry.index.highest_version(name) + 1
            proof = _proof(files, name, report, without_report)
            files = _signed(files, name, key, target=target, version=number, valid_days=valid_days, proof=proof)
        elif report is not None:
            raise AssayError("a report goes under the signature: give --key with --report")
        engine_id, new = registry.publish(files, name, by=by, why=why, without_report=without_report)
    if as_json:
        terminal.print_json({"id": engine_id, "new": new})
    terminal.say(f"{'Published' if new else 'Known already:'} {name} as {engine_id[:SHORT]}; next: assay engine verify")


def verify(
    name: Name,
    version: Version = None,
    engine_id: Id = "",
    backend: Annotated[
        Literal["auto", "openvino", "onnxruntime", "tensorrt"], typer.Option(help="What runs it for the test.")
    ] = "auto",
    by: Annotated[str, typer.Option(help="Who answers for it: drafts that pass become verified.")] = "",
    why: Annotated[str, typer.Option(help="On what grounds; needed with --by.")] = "",
    without_report: WithoutReport = "",
    as_json: terminal.AsJson = False,
) -> None:
    """Read engines back as a worker would, check their bytes and what their reports prove, run them on the golden
    images. Exits 1 if any fails."""
    if bool(by) != bool(why):
        raise AssayError("give --by and --why together, or neither to check alone")
    with opened_registry() as registry:
        wanted = Chosen(name=name, version=version, engine_id=engine_id, states=_UNRETIRED)
        found = choose(registry.index.published(name), wanted)
        results = {one.id: _tested(registry, one, chosen_backend(backend), not without_report) for one in found}
        passed = {one.id for one in found if results[one.id] is None and one.state is State.DRAFT}
        if by and passed:
            registry.index.move("verify", name, those(passed), by=by, why=why, without_report=without_report)
        states = {one.id: one.state for one in registry.index.published(name)}
    rows = [(one.variant.version, one.variant.slot, states[one.id], results[one.id] or "passed") for one in found]
    if as_json:
        lines = [{"id": one.id, "state": states[one.id], "fault": results[one.id]} for one in found]
        terminal.print_json(lines)
    else:
        terminal.print_table(("version", "target", "state", "result"), rows, empty="")
    if any(results.values()):
        raise typer.Exit(1)


def retire(name: Name, by: By, why: Why, version: Version = None, engine_id: Id = "") -> None:
    """Take engines out for good. The current one is replaced first: promote another, or roll back."""
    if version is None and not engine_id:
        raise AssayError("say which: give --version or --id")
    wanted = Chosen(name=name, version=version, engine_id=engine_id, states=_UNRETIRED)
    with opened_registry() as registry:
        tell(registry.index.move("retire", name, lambda known: choose(known, wanted), by=by, why=why))


def tell(moves: Sequence[Move]) -> None:
    """What changed, a line each."""
    for move in moves:
        terminal.say(f"{move.id[:SHORT]}: {move.came_from} -> {move.to}")


def keygen(
    key: Annotated[Path, typer.Argument(help="File of the new private key, or of the HMAC key (*.hmac).")],
    public: Annotated[
        Path | None, typer.Argument(help="File of the new public key (*.pub), for engines.keys_dir.")
    ] = None,
    hmac: Annotated[
        bool, typer.Option("--hmac", help="One secret that signs and verifies, for a closed site.")
    ] = False,
) -> None:
    """Make a pair of keys that sign engines, or an HMAC key. Overwrites nothing."""
    if hmac == (public is not None):
        raise AssayError("give two files for a pair of keys, or --hmac and one file")
    with refusals():
        made = make_pair(key, public) if public is not None else make_hmac(key)
    terminal.say(f"Made key {made}; whoever reads {key} can sign engines.")


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """What engines refuse becomes one line. Raises AssayError."""
    try:
        yield
    except EngineRefused as refusal:
        raise AssayError(str(refusal)) from refusal


@contextlib.contextmanager
def opened_registry() -> Iterator[EngineRegistry]:
    """The registry that the settings name. Raises AssayError."""
    settings = load_settings()
    with refusals(), open_database(settings) as database:
        yield open_registry(settings, database)


_UNRETIRED: Final = tuple(state for state in State if state is not State.RETIRED)


def _read(folder: Path, name: str) -> EngineFiles:
    try:
        manifest, golden = manifest_path(folder, name).read_bytes(), golden_path(folder, name).read_bytes()
        model = read_model(folder, name)
    except OSError as error:
        raise AssayError(f"{error.filename}: {error.strerror}; name the folder that the engine was made in") from error
    return EngineFiles(manifest=manifest, model=model, golden=golden)


def _signed(
    files: EngineFiles,
    name: str,
    key: Path,
    *,
    target: Target,
    version: int,
    valid_days: int | None,
    proof: Proof | None,
) -> EngineFiles:
    made, machine = EngineManifest.from_json(files.manifest, f"{name}.manifest.json"), this_machine()
    release = released(made, version=version, machine=machine, target=target, valid_days=valid_days, proof=proof)
    manifest = signed(release, load_signer(key)).to_json()
    return EngineFiles(manifest=manifest, model=files.model, golden=files.golden)


def _proof(files: EngineFiles, name: str, report: Path | None, without: str) -> Proof | None:
    if report is None:
        return Proof(without=without) if without else None
    try:
        raw = report.read_bytes()
    except OSError as error:
        raise AssayError(f"{report}: {error.strerror}; name the evaluation.json of this engine") from error
    return proof_of(raw, EngineManifest.from_json(files.manifest, f"{name}.manifest.json"), without=without)


def _target(backend: TargetBackend, capability: str, requires: Sequence[str]) -> Target:
    named = [(text.rstrip("<>=!~.*,0123456789 "), text) for text in requires]
    try:
        return Target(
            backend=backend,
            capability=capability,
            requires=tuple(sorted((name, text.removeprefix(name).strip()) for name, text in named)),
        )
    except ValueError as error:
        raise AssayError(f"a target that cannot be: {error}") from error


def _tested(registry: EngineRegistry, published: Published, backend: Backend, proven: bool) -> str | None:
    """What is wrong with an engine; None where it proves its accuracy and runs here as it did where it was made."""
    try:
        if proven:
            refuse_unproven(published.manifest)
        _run_once(registry.read(published), backend)
    except EngineRefused as refusal:
        return str(refusal)
    return None


def _run_once(engine: VerifiedEngine, backend: Backend) -> None:
    refuse_misfit(engine.manifest, this_machine(), backend)
    gpu = Gpu.opened(load_settings().engines.plans_dir) if backend == "tensorrt" else None
    try:
        open_runner(engine, backend, gpu=gpu).close()
    finally:
        if gpu is not None:
            gpu.close()


def _row(one: Published) -> tuple[object, ...]:
    chosen, manifest = one.variant, one.manifest
    ends = one.release.expires_at
    space = manifest.embedding_space[:SHORT]
    named = (chosen.name, chosen.version, chosen.state, chosen.slot, manifest.precision)
    return (*named, space, chosen.id[:SHORT], one.published_at, ends)


def _fields(one: Published) -> dict[str, object]:
    """For machines: nothing shortened."""
    named = dict(zip(COLUMNS, _row(one), strict=True))
    return {**named, "id": one.id, "space": one.manifest.embedding_space, "digest": one.digest}


def _facts(one: Published) -> dict[str, object]:
    made_with = ", ".join(f"{name} {version}" for name, version in one.release.made_with)
    grids = " x ".join(str(side) for side in one.manifest.patch_grid)
    return {
        **_fields(one),
        "family": one.manifest.family,
        "key": one.manifest.key_id,
        "issued": one.release.issued_at,
        "opset": one.manifest.opset,
        "input": f"{one.manifest.preprocessing.size} px, {grids} patches",
        "made with": made_with,
        "proven": gate.told(one.release.proof)["proven"],
    }


def _shown(one: Published, events: Sequence[Event]) -> dict[str, object]:
    facts = {name.replace(" ", "_"): value for name, value in _facts(one).items()}
    changes = [
        {"at": e.at, "from": e.came_from, "to": e.state, "by": e.by, "why": e.why, "role": e.role} for e in events
    ]
    proof = None if one.release.proof is None else proof_fields(one.release.proof)
    told = {"made_with": dict(one.release.made_with), "report": dict(one.manifest.report), "proof": proof}
    return {**facts, **told, "events": changes}


def register(app: typer.Typer) -> None:
    """Mount the commands of this module."""
    app.command("list")(list_engines)
    for command in (show, publish, verify, retire, keygen):
        app.command()(command)
