"""`assay engine embed` through untrained engines, registry and PostgreSQL: another space's vectors, or what lacks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from ledger_parts import one_database
from PIL import Image
from sqlalchemy import Engine, text
from typer.testing import CliRunner, Result

from devstack import Addresses
from engines.manifest import EngineManifest, manifest_path
from engines.publish import seeded_model, write_public_key
from worker.adapters.database import connect
from worker.adapters.references import ReferenceStore
from worker.adapters.space_readiness import Missing, Newcomer, missing_for, tenants_behind
from worker.cli import engine_embed
from worker.cli.main import app
from worker.core.policy_json import VERSION
from worker.errors import AssayError

NAME = "resnet18"
SIDE = 64
PHOTOGRAPHS = 5
DID = ("--by", "ada", "--why", "a test")


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """Folders: of the engine that serves, of one of other weights and so of another space, of the key's public half."""

    key: Ed25519PrivateKey
    served: Path
    candidate: Path
    keys: Path

    @property
    def space(self) -> str:
        return EngineManifest.from_json(manifest_path(self.candidate, NAME).read_bytes(), "").embedding_space


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder, key = tmp_path_factory.mktemp("made"), Ed25519PrivateKey.generate()
    for place, seed in (("served", 1), ("candidate", 2)):
        seeded_model(folder / place, NAME, seed, key, image_size=SIDE)
    write_public_key(folder / "keys", "own", key)
    return Made(key=key, served=folder / "served", candidate=folder / "candidate", keys=folder / "keys")


@pytest.fixture(scope="module")
def enrolled(
    stack: Addresses, template_database: str, made: Made, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Life]:
    """References of two tenants with vectors in the served space: four genuine ones and a known counterfeit."""
    with one_database(stack, template_database) as url:
        life = Life(url=url, folder=tmp_path_factory.mktemp("life"), made=made, database=connect(url))
        life.enrol()
        yield life
        life.database.dispose()


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    url: str
    folder: Path
    made: Made
    database: Engine

    @property
    def evidence(self) -> Path:
        return self.folder / "evidence"

    def assay(self, *arguments: str, **settings: str) -> Result:
        env = {
            "ASSAY_DATABASE__URL": self.url,
            "ASSAY_EVIDENCE__KEEP": "all",
            "ASSAY_EVIDENCE__ROOT": str(self.evidence),
            "ASSAY_ENGINES__KEYS_DIR": str(self.made.keys),
            "ASSAY_ENGINES__ENCODERS": "{}",
            **settings,
        }
        return CliRunner().invoke(app, list(arguments), env=env)

    def engine(self, *arguments: str) -> Result:
        return self.assay("engine", *arguments, ASSAY_ENGINES__REGISTRY=str(self.folder / "registry"))

    def enrol(self) -> None:
        profiles = self.folder / "profiles.toml"
        profiles.write_text("[[bag.views]]\nview = 'logo'\n")
        for tenant, kinds in (("acme", ("genuine", "genuine", "counterfeit")), ("zeta", ("genuine", "genuine"))):
            goods = self.folder / "goods" / tenant
            for number, label in enumerate(kinds):
                specimen = goods / "BAG-1" / str(number)
                specimen.mkdir(parents=True)
                seed = [number, len(tenant), ord(tenant[0])]
                noise = np.random.default_rng(seed).integers(0, 256, (15, 15, 3), dtype=np.uint8)
                Image.fromarray(noise).resize((96, 96), Image.Resampling.BICUBIC).save(specimen / "logo.jpg")
                (specimen / "item.json").write_text(json.dumps({"category": "bag", "label": label}))
            given = ("--tenant", tenant, "--by", "ada", "--profiles", str(profiles))
            done = self.assay("enroll", str(goods), *given, ASSAY_ENGINES__MODELS_DIR=str(self.made.served))
            assert done.exit_code == 0, (done.output, done.exception)
        key = self.folder / "key.pem"
        private, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        key.write_bytes(self.made.key.private_bytes(serialization.Encoding.PEM, private, plain))
        key.chmod(0o600)
        given = ("--key", str(key), "--without-report", "untrained", *DID)
        assert self.engine("publish", str(self.made.candidate), NAME, *given).exit_code == 0
        assert self.engine("verify", NAME, *DID).exit_code == 0

    def missing(self) -> Missing:
        return missing_for(
            self.database,
            Newcomer(
                name=NAME,
                space=self.made.space,
                backend="openvino",
                digests=frozenset({"d"}),
                serves=lambda category, view: (category, view) == ("bag", "logo"),
            ),
        )

    def rows(self, statement: str) -> list[tuple[object, ...]]:
        with self.database.connect() as connection:
            return [tuple(row) for row in connection.execute(text(statement), {"space": self.made.space})]


def lacking(missing: Missing) -> int:
    return sum(one.count for one in missing.unembedded)


VECTORS = """
SELECT i.tenant, count(*) FROM assay.reference_embeddings e JOIN assay.reference_images i ON i.id = e.reference_id
WHERE e.space = :space GROUP BY 1 ORDER BY 1
"""


def embed(life: Life, *arguments: str) -> tuple[int, dict[str, object]]:
    done = life.engine("embed", NAME, "--by", "ada", "--json", *arguments)
    assert done.stdout, done.exception
    found: dict[str, object] = json.loads(done.stdout)
    return done.exit_code, found


@pytest.fixture
def life(enrolled: Life) -> Iterator[Life]:
    """Nothing is embedded, and the evidence store holds what enrolment kept."""
    kept = enrolled.folder / "kept"
    if not kept.exists():
        shutil.copytree(enrolled.evidence, kept)
    yield enrolled
    shutil.rmtree(enrolled.evidence)
    shutil.copytree(kept, enrolled.evidence)
    with enrolled.database.begin() as connection:
        connection.execute(
            text("DELETE FROM assay.reference_embeddings WHERE space = :space"), {"space": enrolled.made.space}
        )


def test_every_reference_of_every_tenant_gets_its_vectors_and_workers_are_told_once(life: Life) -> None:
    assert lacking(life.missing()) == PHOTOGRAPHS
    code, told = embed(life)
    assert (code, told["embedded"], told["missing"]) == (0, PHOTOGRAPHS, [])
    assert life.rows(VECTORS) == [("acme", 3), ("zeta", 2)]
    revisions = told["gallery_revisions"]
    assert isinstance(revisions, dict)
    assert set(revisions) == {"acme", "zeta"}
    assert life.missing().unembedded == ()
    same = "SELECT count(DISTINCT engine_digest), count(DISTINCT space) FROM assay.reference_embeddings"
    assert life.rows(same) == [(2, 2)]
    code, again = embed(life)
    assert (code, again["embedded"], again["gallery_revisions"]) == (0, 0, {})


def test_an_embedding_that_was_broken_off_goes_on_and_ends_as_a_whole_one(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_embed, "TRANSACTION_REFERENCES", 3)
    real, calls = ReferenceStore.add_vectors, []

    def dies(store: ReferenceStore, probes: dict[str, object]) -> None:
        calls.append(len(probes))
        if len(calls) > 1:
            raise KeyboardInterrupt
        real(store, probes)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(ReferenceStore, "add_vectors", dies)
        assert life.engine("embed", NAME, "--by", "ada").exit_code != 0
    assert life.rows(VECTORS) == [("acme", 3)]
    with life.database.connect() as connection:
        assert tenants_behind(connection, life.made.space) == ["acme"]
    code, told = embed(life)
    assert (code, told["embedded"]) == (0, 2)
    assert set(told["gallery_revisions"]) == {"acme", "zeta"}  # type: ignore[call-overload]


def test_photographs_that_were_not_kept_are_named_and_taken_from_a_folder(life: Life) -> None:
    kept = sorted(path for path in life.evidence.rglob("*") if path.is_file() and "zeta" in path.parts)
    for path in kept:
        path.unlink()
    code, told = embed(life)
    assert (code, told["embedded"]) == (1, 3)
    missing = told["missing"]
    assert isinstance(missing, list)
    assert {(one["tenant"], one["why"]) for one in missing} == {("zeta", "its photograph was not kept")}
    assert {one["sha256"] for one in missing} == {path.name for path in kept}
    (sentence, _) = life.missing().sentences()
    assert "2 references have no vectors in its embedding space (2 of zeta)" in sentence
    said = life.engine("embed", NAME, "--by", "ada")
    assert "--photographs FOLDER" in said.output
    code, told = embed(life, "--photographs", str(life.folder / "goods"))
    assert (code, told["embedded"], told["missing"]) == (0, 2, [])
    assert [path for path in kept if not path.exists()] == [], "what was found is kept from now on"


def test_a_photograph_that_is_no_longer_what_it_was_is_not_embedded(life: Life) -> None:
    altered = next(path for path in life.evidence.rglob("*") if path.is_file())
    altered.write_bytes(b"\xff\xd8\xff other")
    code, told = embed(life)
    assert (code, told["embedded"]) == (1, PHOTOGRAPHS - 1)


def test_what_does_not_serve_is_asked_for_nothing(life: Life) -> None:
    with life.database.begin() as connection:
        connection.execute(text("UPDATE assay.reference_images SET state = 'quarantined' WHERE NOT genuine"))
    try:
        assert lacking(life.missing()) == PHOTOGRAPHS - 1
        assert embed(life)[1]["embedded"] == PHOTOGRAPHS, "it may become active again"
    finally:
        with life.database.begin() as connection:
            connection.execute(text("UPDATE assay.reference_images SET state = 'active'"))
    other = Newcomer(name="x", space="y", backend="b", digests=frozenset(), serves=lambda category, view: False)
    assert missing_for(life.database, other).unembedded == ()


def test_without_a_score_calibration_for_all_that_serve_it_is_incomplete(life: Life) -> None:
    found = life.missing()
    assert (found.complete, found.uncalibrated) == (False, True)
    put = """INSERT INTO assay.calibrations (id, backend, engine_digests, document, n, active)
        VALUES (:id, :backend, :digests, jsonb_build_object('version', CAST(:version AS int)), 1, :active)"""
    rows = [
        {"id": "unreadable", "backend": "openvino", "digests": ["d", "e"], "active": True, "version": VERSION - 1},
        {"id": "other backend", "backend": "tensorrt", "digests": ["d", "e"], "active": True, "version": VERSION},
        {"id": "replaced", "backend": "openvino", "digests": ["d", "e"], "active": False, "version": VERSION},
        {"id": "other engines", "backend": "openvino", "digests": ["e"], "active": True, "version": VERSION},
    ]
    with life.database.begin() as connection:
        connection.execute(text(put), rows)
    assert life.missing().uncalibrated
    with life.database.begin() as connection:
        connection.execute(text("UPDATE assay.calibrations SET active = true"))
    assert not life.missing().uncalibrated
    with life.database.begin() as connection:
        connection.execute(text("DELETE FROM assay.calibrations"))


def test_a_folder_that_is_none_and_a_name_that_is_unknown_are_refused(life: Life) -> None:
    refused = life.engine("embed", NAME, "--by", "ada", "--photographs", "/nowhere").exception
    assert isinstance(refused, AssayError)
    assert "is no folder" in str(refused)
    assert "there is none of that name" in str(life.engine("embed", "other", "--by", "ada").exception)
