"""`assay enroll`: genuine and known-counterfeit photographs become references, and references change their state."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from sqlalchemy import Engine
from typer.core import TyperGroup

from worker.adapters.references import NewItem, NewReference, ReferenceStore
from worker.app import open_encoder, open_evidence, open_references
from worker.cli import terminal
from worker.cli.opening import open_database
from worker.cli.stored import enrolled_vectors, known_categories, reference_digests
from worker.enrol import BadPhotograph, Encoded, Found, PhotographKey, encode, find_photographs
from worker.errors import AssayError
from worker.items import Item, read_items
from worker.ports import EvidenceStore
from worker.profiles import read_profiles
from worker.settings import Settings, load_settings

SKIPPED = 1
TRANSACTION_PHOTOGRAPHS = 64


class PathOrCommand(TyperGroup):
    """`assay enroll PATH` is `assay enroll add PATH`. The context is of a click that typer keeps to itself."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["add", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=PathOrCommand,
    no_args_is_help=True,
    help="Enrol references: `assay enroll PATH --tenant T --by NAME`, and change the state of one.",
)
By = Annotated[str, typer.Option(help="Who answers for it.")]
TenantName = Annotated[str, typer.Option(help="Whose references.")]
NewState = Literal["active", "quarantined", "retired"]


@dataclass(slots=True, kw_only=True)
class Counts:
    """What an enrolment came to; `bad` grows while it runs."""

    added: int = 0
    known: int = 0
    activated: int = 0
    revision: int = 0
    bad: list[BadPhotograph] = field(default_factory=list)


@app.command()
def add(
    path: Annotated[Path, typer.Argument(help="A folder (SKU/view.jpg, SKU/specimen/view.jpg) or a JSONL manifest.")],
    tenant: TenantName,
    by: By,
    provenance: Annotated[str, typer.Option(help="Where the photographs came from, in words.")] = "",
    state: Annotated[Literal["active", "draft"], typer.Option(help="draft: encoded, but not used until approved.")] = (
        "active"
    ),
    counterfeit: Annotated[
        bool, typer.Option("--counterfeit", help="Items without a label are known counterfeits, not genuine.")
    ] = False,
    category: Annotated[str | None, typer.Option(help="Category of items that name none.")] = None,
    profiles: Annotated[Path | None, typer.Option(help="TOML or JSON file of category profiles to put first.")] = None,
    as_json: terminal.AsJson = False,
) -> None:
    """Encode the photographs of PATH as references of TENANT and publish a new gallery revision.

    Running it again enrols nothing twice. Photographs that cannot be used are listed and passed over, with exit code
    1. Needs a database role that may enrol, such as assay_curator.
    """
    settings = load_settings()
    items = read_items(path, category=category)
    why = provenance or f"enrolled from {path.name}"
    with open_database(settings) as database:
        store = open_references(settings, database)
        if profiles is not None:
            store.put_categories(read_profiles(profiles), by=by, why=f"profiles of {profiles.name}")
        desk = Desk(settings=settings, database=database, store=store, tenant=tenant, by=by, why=why)
        counts = desk.enrol(items, provenance, activate=state == "active", counterfeit=counterfeit)
    _print(counts, as_json)
    if counts.bad:
        raise typer.Exit(SKIPPED)


@app.command("state")
def change_state(
    reference: Annotated[str, typer.Argument(help="The reference's id.")],
    to: Annotated[NewState, typer.Option(help="retired is for good.")],
    by: By,
    why: Annotated[str, typer.Option(help="On what grounds.")],
) -> None:
    """Approve a draft, quarantine a doubtful reference or retire one. Verdicts already made stay as they are."""
    settings = load_settings()
    with open_database(settings) as database:
        store = open_references(settings, database)
        move = {"active": store.activate, "quarantined": store.quarantine, "retired": store.retire}[to]
        revision = move(_owner_of(database, reference), [reference], by=by, why=why)
    terminal.say(f"Reference {reference} is {to}; gallery revision {revision}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """One enrolment of one tenant's items."""

    settings: Settings
    database: Engine
    store: ReferenceStore
    tenant: str
    by: str
    why: str

    def enrol(self, items: Sequence[Item], provenance: str, *, activate: bool, counterfeit: bool) -> Counts:
        """Raises AssayError where a category has no profile, and ConfigurationError for engines that cannot serve."""
        _check_categories(self.database, items)
        encoder = open_encoder(self.settings)
        try:
            spaces = {name: engine.embedding_space for name, engine in encoder.engines.items()}
            found = find_photographs(
                items, tenant=self.tenant, known=self._known(items, spaces), counterfeit=counterfeit
            )
            counts = Counts(known=len(found.known), bad=list(found.bad))
            self.store.ensure_items(self.tenant, [NewItem(sku=item.sku, category=item.category) for item in items])
            results = encode(
                found.photographs,
                encoder,
                encoder_for=self.settings.engines.encoder_for,
                batch_images=self.settings.batch.max_images,
            )
            self._store(results, counts, provenance, total=len(found.photographs))
        finally:
            encoder.close()
        self._publish(found, counts, activate)
        return counts

    def _store(
        self, results: Iterator[Encoded | BadPhotograph], counts: Counts, provenance: str, *, total: int
    ) -> None:
        evidence = open_evidence(self.settings)
        with terminal.progress() as bar:
            task = bar.add_task("Enrolling", total=total)
            while chunk := list(islice(results, TRANSACTION_PHOTOGRAPHS)):
                counts.bad.extend(one for one in chunk if isinstance(one, BadPhotograph))
                encoded = [one for one in chunk if isinstance(one, Encoded)]
                counts.added += len(self._add(encoded, evidence, provenance))
                bar.advance(task, len(chunk))

    def _add(self, encoded: Sequence[Encoded], evidence: EvidenceStore, provenance: str) -> list[str]:
        for one in encoded:
            evidence.put(self.tenant, one.probe.sha256, one.loaded.data)
        new = [
            NewReference(
                sku=one.loaded.photograph.item.sku,
                genuine=one.loaded.photograph.genuine,
                probe=one.probe,
                provenance={
                    "source": provenance,
                    "file": one.loaded.photograph.path.name,
                    "item": one.loaded.photograph.item.name,
                },
            )
            for one in encoded
        ]
        return self.store.add(self.tenant, new, by=self.by, why=self.why)

    def _publish(self, found: Found, counts: Counts, activate: bool) -> None:
        """Drafts of these photographs become active; what was quarantined or retired stays so."""
        drafts = self._drafts_of(found) if activate else []
        counts.activated = len(drafts)
        if drafts:
            counts.revision = self.store.activate(self.tenant, drafts, by=self.by, why=self.why)
        elif counts.added:
            counts.revision = self.store.publish(self.tenant, self.why, self.by)

    def _drafts_of(self, found: Found) -> list[str]:
        mine = {one.key for one in (*found.photographs, *found.known)}
        drafts = self.store.enrolled(self.tenant, states=["draft"])
        return [one.reference_id for one in drafts if (one.sku, one.view, one.sha256) in mine]

    def _known(self, items: Sequence[Item], spaces: Mapping[str, str]) -> dict[PhotographKey, bool]:
        """Photographs that have vectors in the space of the encoder that would look at them now."""
        categories = {item.sku: item.category for item in items}
        encoder_for = self.settings.engines.encoder_for
        return {
            (one.sku, one.view, one.sha256): one.genuine
            for one in enrolled_vectors(self.database, self.tenant, list(categories))
            if one.space == spaces[encoder_for(categories[one.sku], one.view)]
        }


def _check_categories(database: Engine, items: Sequence[Item]) -> None:
    missing = sorted({item.category for item in items} - known_categories(database))
    if missing:
        raise AssayError(f"category {missing[0]!r} has no profile: give one with --profiles FILE")


def _owner_of(database: Engine, reference: str) -> str:
    owner = reference_digests(database, [reference]).get(reference)
    if owner is None:
        raise AssayError(f"there is no reference {reference!r}: the view analyst.references lists them")
    return owner[0]


def _print(counts: Counts, as_json: bool) -> None:
    bad = [dataclasses.asdict(one) for one in counts.bad]
    told = {"added": counts.added, "already_enrolled": counts.known, "activated": counts.activated}
    revision = counts.revision or None
    if as_json:
        terminal.print_json({**told, "gallery_revision": revision, "skipped": bad})
        return
    terminal.print_facts({name.replace("_", " "): count for name, count in told.items()})
    terminal.print_facts({"gallery revision": revision or "unchanged", "skipped": len(bad)})
    if bad:
        terminal.print_table(("item", "view", "file", "why"), [tuple(one.values()) for one in bad], empty="")
