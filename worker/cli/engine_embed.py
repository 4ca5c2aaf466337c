"""`assay engine embed`: gives the references vectors in the embedding space of an engine that is to serve."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import Engine

from engines.catalogue import VerifiedEngine, open_session
from engines.lifecycle import State
from worker.adapters.encoder import SessionEncoder
from worker.adapters.engine_index import Published
from worker.adapters.engine_opening import open_registry, session_options
from worker.adapters.engine_registry import EngineRegistry
from worker.adapters.references import ReferenceStore
from worker.adapters.space_readiness import tenants_behind, unembedded
from worker.app import open_evidence, open_references
from worker.cli import terminal
from worker.cli.engine_choice import Chosen, choose
from worker.cli.engine_registry import By, Id, Name, Version, refusals
from worker.cli.opening import open_database
from worker.errors import AssayError
from worker.ports import EvidenceStore
from worker.reembed import Reembedded, ReferencePhotograph, Unembedded, photograph_at, photographs_in, reembed
from worker.settings import Settings, load_settings

INCOMPLETE = 1
TRANSACTION_REFERENCES = 64
FIX = "name a folder that holds them: --photographs FOLDER; they are matched by SHA-256"


@dataclass(slots=True, kw_only=True)
class Embedding:
    """What it came to; grows while it runs."""

    embedded: int = 0
    failed: list[Unembedded] = field(default_factory=list)
    revisions: dict[str, int] = field(default_factory=dict)  # by tenant


def embed(
    name: Name,
    by: By,
    version: Version = None,
    engine_id: Id = "",
    photographs: Annotated[
        Path | None, typer.Option(help="Folder of photographs that the evidence store did not keep.")
    ] = None,
    as_json: terminal.AsJson = False,
) -> None:
    """Compute embeddings and patches of all references, of all tenants, in the space of a published engine.

    Of the newest one that is verified, canary or current, unless named. Can be broken off and run again: what has its
    vectors is passed over. Workers see them once it ends. Exits 1 while references are missing.
    """
    if photographs is not None and not photographs.is_dir():
        raise AssayError(f"{photographs} is no folder; {FIX}")
    settings = load_settings()
    with refusals(), open_database(settings) as database:
        registry, store = open_registry(settings, database), open_references(settings, database)
        engine = _chosen(registry, Chosen(name=name, version=version, engine_id=engine_id, states=OFFERED))
        space = engine.manifest.embedding_space
        wanted = _wanted(database, space, _serves(settings, name))
        done = Embedding()
        if wanted:
            kept = _Kept(open_evidence(settings), photographs)
            with _encoder(settings, registry.read(engine)) as encoder:
                batch = settings.batch.max_images
                _store(store, reembed(wanted, kept.get, encoder, name=name, batch_images=batch), done, len(wanted))
        _publish(store, database, space, done, by=by)
    _print(done, space, as_json)
    if done.failed:
        raise typer.Exit(INCOMPLETE)


OFFERED = (State.VERIFIED, State.CANARY, State.CURRENT)


def _chosen(registry: EngineRegistry, wanted: Chosen) -> Published:
    """Of several variants of one version any will do: they share the space."""
    found = choose(registry.index.published(wanted.name), wanted)
    return max(found, key=lambda one: (one.variant.version, one.release.target.backend in ("any", "openvino")))


def _serves(settings: Settings, name: str) -> Callable[[str, str], bool]:
    return lambda category, view: settings.engines.encoder_for(category, view) == name


def _wanted(database: Engine, space: str, serves: Callable[[str, str], bool]) -> list[ReferencePhotograph]:
    with database.connect() as connection:
        lacking = unembedded(connection, space, serves)
    return [
        ReferencePhotograph(
            reference_id=one.reference_id, tenant=one.tenant, sku=one.sku, view=one.view, sha256=one.sha256
        )
        for one in lacking
    ]


@contextlib.contextmanager
def _encoder(settings: Settings, engine: VerifiedEngine) -> Iterator[SessionEncoder]:
    encoder = SessionEncoder(open_session([engine], settings.engines.backend, session_options(settings)))
    try:
        yield encoder
    finally:
        encoder.close()


class _Kept:
    """Photographs from the evidence store, else from a folder; what is found there is kept from then on."""

    def __init__(self, evidence: EvidenceStore, folder: Path | None) -> None:
        self._evidence = evidence
        self._paths: Mapping[str, Path] = _paths(folder) if folder is not None else {}

    def get(self, tenant: str, sha256: str) -> bytes | None:
        data = self._evidence.get(tenant, sha256)
        if data is None and sha256 in self._paths:
            data = photograph_at(self._paths[sha256], sha256)
            if data is not None:
                self._evidence.put(tenant, sha256, data)
        return data


def _paths(folder: Path) -> Mapping[str, Path]:
    try:
        return photographs_in(folder)
    except OSError as error:
        raise AssayError(f"{error.filename}: {error.strerror}; {FIX}") from error


def _store(store: ReferenceStore, results: Iterator[Reembedded | Unembedded], done: Embedding, total: int) -> None:
    with terminal.progress() as bar:
        task = bar.add_task("Embedding", total=total)
        while chunk := list(islice(results, TRANSACTION_REFERENCES)):
            done.failed += [one for one in chunk if isinstance(one, Unembedded)]
            probes = {one.photograph.reference_id: one.probe for one in chunk if isinstance(one, Reembedded)}
            store.add_vectors(probes)
            done.embedded += len(probes)
            bar.advance(task, len(chunk))


def _publish(store: ReferenceStore, database: Engine, space: str, done: Embedding, *, by: str) -> None:
    """Also for those whom an earlier run embedded before it was broken off."""
    with database.connect() as connection:
        behind = tenants_behind(connection, space)
    for tenant in behind:
        done.revisions[tenant] = store.publish(tenant, f"references embedded in space {space[:12]}", by)


def _print(done: Embedding, space: str, as_json: bool) -> None:
    failed: Sequence[dict[str, object]] = [
        {
            "tenant": one.photograph.tenant,
            "sku": one.photograph.sku,
            "view": one.photograph.view,
            "reference": one.photograph.reference_id,
            "sha256": one.photograph.sha256,
            "why": one.why,
        }
        for one in done.failed
    ]
    told = {"space": space, "embedded": done.embedded, "gallery_revisions": done.revisions}
    if as_json:
        terminal.print_json({**told, "missing": failed})
    else:
        terminal.print_facts({**told, "gallery_revisions": len(done.revisions), "missing": len(failed)})
        if failed:
            terminal.print_table(list(failed[0]), [list(one.values()) for one in failed], empty="")
    absent = sum(not one.kept for one in done.failed)
    if absent:
        terminal.say(f"{absent} photographs were not kept; {FIX}")
