"""The registry on a real PostgreSQL: what publishing and moving engines writes, who may, and what is refused."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool
from typer.testing import CliRunner, Result

from engines.catalogue import EngineFiles
from engines.errors import EngineRefused, RefusalCode
from engines.evaluating import default_budget, limits
from engines.export import ExportedEngine
from engines.keyring import read_keys
from engines.lifecycle import State
from engines.manifest import EngineManifest
from engines.matrix import Machine
from engines.proof import Bound, Proof
from engines.publish import publish, released, seeded_engine, signed, write_public_key
from engines.release import Target
from engines.store import FolderStore
from migrations.roles import set_role_password
from worker.adapters.database import connect
from worker.adapters.engine_index import EngineIndex, Published
from worker.adapters.engine_registry import EngineRegistry
from worker.cli.main import app
from worker.errors import AssayError, ConfigurationError

NAME = "resnet18"
MACHINE = Machine(versions={"openvino": "2026.1.0"}, opset=21)
DID = {"by": "ada", "why": "a test"}


@pytest.fixture(scope="module")
def made() -> ExportedEngine:
    return seeded_engine(NAME, 1, image_size=64)


@pytest.fixture(scope="module")
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@pytest.fixture
def keys_dir(tmp_path: Path, key: Ed25519PrivateKey) -> Path:
    write_public_key(tmp_path / "keys", "own", key)
    return tmp_path / "keys"


@pytest.fixture
def curator_url(database_url: str) -> str:
    return acting(database_url, "assay_curator")


def acting(url: str, role: str) -> str:
    """The database as one logs in as `role`; whoever asks last has its password."""
    password = secrets.token_urlsafe(18)
    set_role_password(url, role, password)
    return make_url(url).set(username=role, password=password).render_as_string(hide_password=False)


@pytest.fixture
def registry(curator_url: str, keys_dir: Path, tmp_path: Path) -> Iterator[EngineRegistry]:
    database = connect(curator_url)
    index = EngineIndex(database)
    yield EngineRegistry(index=index, store=FolderStore(tmp_path / "registry"), keys=read_keys(keys_dir))
    database.dispose()


Publish = Callable[..., str]


def made_release(made: ExportedEngine, **changes: Any) -> EngineManifest:
    given = {"version": 1, "machine": MACHINE, "proof": Proof(without="a test")} | changes
    return released(made.manifest, **given)


@pytest.fixture
def release(registry: EngineRegistry, made: ExportedEngine, key: Ed25519PrivateKey) -> Publish:
    """Publish a version; returns its id."""

    def publish(version: int, target: Target | None = None) -> str:
        manifest = signed(made_release(made, version=version, target=target), key)
        files = EngineFiles(manifest=manifest.to_json(), model=made.model, golden=made.golden)
        return registry.publish(files, NAME, **DID)[0]

    return publish


def move(registry: EngineRegistry, verb: str, *ids: str) -> None:
    registry.index.move(verb, NAME, lambda known: [one for one in known if one.id in ids], **DID)  # type: ignore[arg-type]


def states(registry: EngineRegistry) -> dict[int, str]:
    return {one.variant.version: str(one.state) for one in registry.index.published(NAME)}


def serve(registry: EngineRegistry, engine_id: str) -> None:
    move(registry, "verify", engine_id)
    move(registry, "promote", engine_id)


def refusal(act: Callable[[], object]) -> RefusalCode:
    with pytest.raises(EngineRefused) as refused:
        act()
    assert refused.value.fix
    return refused.value.code


def test_the_whole_life_is_recorded_with_who_and_why(registry: EngineRegistry, release: Publish) -> None:
    first = release(1)
    assert states(registry) == {1: "draft"}
    serve(registry, first)
    second = release(2)
    serve(registry, second)
    assert states(registry) == {1: "previous", 2: "current"}
    move(registry, "rollback", first)
    assert states(registry) == {1: "current", 2: "retired"}
    third = release(3)
    serve(registry, third)
    assert states(registry) == {1: "previous", 2: "retired", 3: "current"}
    events = registry.index.events(first)
    assert [str(event.state) for event in events] == ["draft", "verified", "current", "previous", "current", "previous"]
    assert {(event.by, event.why) for event in events} == {("ada", "a test")}
    assert [event.came_from for event in events[1:]] == [event.state for event in events[:-1]]


def test_published_twice_is_once(registry: EngineRegistry, release: Publish, made: ExportedEngine) -> None:
    engine_id = release(1)
    (one,) = registry.index.published()
    files = registry.store.get(engine_id)
    assert registry.publish(files, NAME, **DID) == (engine_id, False)
    assert len(registry.index.events(engine_id)) == 1
    assert one.manifest == registry.read(one).manifest
    assert registry.read(one).model == made.model


def test_another_engine_does_not_take_a_version(registry: EngineRegistry, release: Publish, key: object) -> None:
    release(1)
    (one,) = registry.index.published()
    assert isinstance(key, Ed25519PrivateKey)
    longer = signed(replace(one.manifest, release=replace(one.release, made_with=())), key)
    other = EngineFiles(manifest=longer.to_json(), model=registry.read(one).model, golden=registry.read(one).golden)
    assert refusal(lambda: registry.publish(other, NAME, **DID)) is RefusalCode.ALREADY_PUBLISHED


def test_what_a_worker_would_refuse_is_not_published(
    registry: EngineRegistry, made: ExportedEngine, keys_dir: Path, key: Ed25519PrivateKey
) -> None:
    stranger = Ed25519PrivateKey.generate()
    raw = signed(made_release(made), stranger).to_json()
    files = EngineFiles(manifest=raw, model=made.model, golden=made.golden)
    assert refusal(lambda: registry.publish(files, NAME, **DID)) is RefusalCode.KEY_UNKNOWN
    unversioned = replace(files, manifest=signed(made.manifest, key).to_json())
    assert refusal(lambda: registry.publish(unversioned, NAME, **DID)) is RefusalCode.MANIFEST_INVALID
    own = replace(files, manifest=signed(made_release(made), key).to_json())
    cut = replace(own, model=made.model[:-1])
    assert refusal(lambda: registry.publish(cut, NAME, **DID)) is RefusalCode.DIGEST_MISMATCH
    (keys_dir / "keys.toml").write_text(f'[keys.{next(iter(registry.keys))}]\nstate = "retiring"\n')
    retiring = replace(registry, keys=read_keys(keys_dir))
    assert refusal(lambda: retiring.publish(own, NAME, **DID)) is RefusalCode.KEY_RETIRING
    assert registry.index.published() == []


def test_no_way_leads_below_a_version_that_was_current(registry: EngineRegistry, release: Publish) -> None:
    old, older, new = release(2), release(1), release(5)
    for engine_id in (old, older):
        move(registry, "verify", engine_id)
    serve(registry, new)
    assert refusal(lambda: move(registry, "promote", old)) is RefusalCode.ROLLED_BACK
    assert refusal(lambda: move(registry, "canary", older)) is RefusalCode.ROLLED_BACK
    assert refusal(lambda: release(4)) is RefusalCode.ROLLED_BACK
    assert states(registry)[5] == "current"


def test_a_machine_gets_the_variant_made_for_it(registry: EngineRegistry, release: Publish) -> None:
    anywhere, closer, elsewhere = (
        release(1),
        release(1, Target(backend="openvino", requires=(("openvino", ">=2026.1"),))),
        release(1, Target(backend="tensorrt", capability="9.0")),
    )
    move(registry, "verify", anywhere, closer, elsewhere)
    move(registry, "promote", anywhere, closer, elsewhere)
    ((one, engine),) = registry.current([NAME], MACHINE, "openvino")
    assert (one.id, engine.manifest.release) == (closer, one.release)
    ((one, _),) = registry.current([NAME], MACHINE, "onnxruntime")
    assert one.id == anywhere
    assert refusal(lambda: registry.current(["vit_tiny16"], MACHINE, "openvino")) is RefusalCode.NOT_PUBLISHED


def test_two_promotions_at_once_leave_one_current(registry: EngineRegistry, release: Publish) -> None:
    ids = [release(version) for version in (1, 2)]
    move(registry, "verify", *ids)
    ends: list[object] = []

    def promote(engine_id: str) -> None:
        try:
            ends.append(move(registry, "promote", engine_id))
        except EngineRefused as refused:
            ends.append(refused.code)

    threads = [threading.Thread(target=promote, args=(engine_id,)) for engine_id in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert states(registry)[2] == "current"
    assert len(ends) == 2
    assert states(registry)[1] == ("verified" if RefusalCode.ROLLED_BACK in ends else "previous")


class TestTheDatabaseItself:
    """What the rules in Python cannot be talked out of, because the database keeps them too."""

    EVENT = "INSERT INTO assay.engine_events (engine, came_from, state, by, why) VALUES (:id, :was, :to, 'eve', 'x')"

    def refuses(self, url: str, statement: str, **values: object) -> str:
        database = create_engine(url, poolclass=NullPool)
        with database.connect() as connection, pytest.raises(DBAPIError) as refused:
            connection.execute(text(statement), values)
        return type(refused.value.orig).__name__

    @pytest.fixture
    def engine_id(self, registry: EngineRegistry, release: Publish) -> str:
        serve(registry, release(3))
        return release(3, Target(backend="openvino"))

    def test_a_curator_changes_no_row(self, curator_url: str, engine_id: str) -> None:
        denied = psycopg.errors.InsufficientPrivilege.__name__
        for statement in (
            "UPDATE assay.engines SET state = 'current'",
            "UPDATE assay.engines SET manifest = '{}'",
            "DELETE FROM assay.engines",
            "UPDATE assay.engine_events SET why = 'x'",
            "DELETE FROM assay.engine_events",
            "INSERT INTO assay.engines (id, state) VALUES ('x', 'current')",
            "INSERT INTO assay.engine_events (engine, state, by, why, at) VALUES ('x', 'draft', '', '', now())",
            "SELECT assay.move_engine()",
        ):
            assert self.refuses(curator_url, statement) == denied, statement

    def test_a_worker_reads_alone(self, database_url: str, engine_id: str) -> None:
        url = acting(database_url, "assay_worker")
        assert self.refuses(url, self.EVENT, id=engine_id, was="draft", to="verified") == "InsufficientPrivilege"
        index = EngineIndex(connect(url))
        assert len(index.published()) == 2
        assert index.events(engine_id)
        index.database.dispose()

    def test_a_forged_move_is_refused(self, curator_url: str, engine_id: str) -> None:
        illegal, raised = "CheckViolation", "RaiseException"
        for was, to, fault in (
            ("draft", "current", illegal),
            ("retired", "current", illegal),
            (None, "current", illegal),
            ("verified", "current", raised),
            (None, "draft", raised),
        ):
            assert self.refuses(curator_url, self.EVENT, id=engine_id, was=was, to=to) == fault, (was, to)

    def test_two_are_not_current_for_one_target(
        self, curator_url: str, registry: EngineRegistry, release: Publish
    ) -> None:
        serve(registry, release(1))
        second = release(2)
        move(registry, "verify", second)
        assert self.refuses(curator_url, self.EVENT, id=second, was="verified", to="current") == "UniqueViolation"

    def test_a_lower_version_is_refused_there_too(
        self, curator_url: str, registry: EngineRegistry, release: Publish
    ) -> None:
        lower = release(1, Target(backend="openvino"))
        move(registry, "verify", lower)
        serve(registry, release(2))
        assert self.refuses(curator_url, self.EVENT, id=lower, was="verified", to="current") == "RaiseException"


class TestCommands:
    @pytest.fixture
    def assay(
        self, curator_url: str, keys_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Callable[..., Result]:
        settings = {
            "ASSAY_DATABASE__URL": curator_url,
            "ASSAY_ENGINES__REGISTRY": str(tmp_path / "registry"),
            "ASSAY_ENGINES__KEYS_DIR": str(keys_dir),
        }
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        return lambda *arguments: CliRunner().invoke(app, ["engine", *arguments])

    @pytest.fixture
    def folder(self, tmp_path: Path, made: ExportedEngine) -> Path:
        """An engine as it was made, signed by nobody whom workers trust."""
        publish(made, tmp_path / "made", Ed25519PrivateKey.generate())
        return tmp_path / "made"

    DID = ("--by", "ada", "--why", "a test")
    BARE = ("--without-report", "untrained")

    def said(self, result: Result) -> str:
        assert isinstance(result.exception, AssayError), result.output
        return str(result.exception)

    def printed(self, result: Result) -> list[dict[str, object]]:
        assert result.exit_code == 0, (result.output, result.exception)
        found: list[dict[str, object]] = json.loads(result.stdout)
        return found

    def test_from_a_folder_to_service_and_back(
        self, assay: Callable[..., Result], folder: Path, tmp_path: Path, keys_dir: Path
    ) -> None:
        assert assay("keygen", str(tmp_path / "new.pem"), str(keys_dir / "new.pub")).exit_code == 0
        assert "do not exist yet" in self.said(assay("keygen", str(tmp_path / "new.pem"), str(keys_dir / "new.pub")))
        key = ("--key", str(tmp_path / "new.pem"))
        for _ in range(2):
            assert assay("publish", str(folder), NAME, *key, "--valid-days", "30", *self.BARE, *self.DID).exit_code == 0
        assert [line["version"] for line in self.printed(assay("list", "--json"))] == [2, 1]
        assert "no engine resnet18 is verified or canary" in self.said(assay("promote", NAME, *self.DID))
        (checked, _) = self.printed(assay("verify", NAME, "--json", *self.DID))
        assert (checked["state"], checked["fault"]) == ("verified", None)
        assert assay("promote", NAME, "--version", "1", *self.DID).exit_code == 0
        assert assay("promote", NAME, *self.DID).exit_code == 0
        assert assay("rollback", NAME, *self.DID).exit_code == 0
        assert {line["version"]: line["state"] for line in self.printed(assay("list", "--json"))} == {
            2: "retired",
            1: "current",
        }
        (shown,) = self.printed(assay("show", NAME, "--version", "1", "--json"))
        events = shown["events"]
        assert isinstance(events, list)
        assert [event["to"] for event in events] == ["draft", "verified", "current", "previous", "current"]
        assert "from current it may" in self.said(assay("retire", NAME, "--version", "1", *self.DID))
        assert "a test" in assay("show", NAME).stdout

    def test_what_fails_its_test_stays_a_draft_and_exits_1(
        self, assay: Callable[..., Result], folder: Path, release: Publish, tmp_path: Path
    ) -> None:
        engine_id = release(1)
        model = tmp_path / "registry" / engine_id / "model.onnx"
        model.write_bytes(model.read_bytes()[:-1] + b"x")
        result = assay("verify", NAME, "--json", *self.DID)
        assert result.exit_code == 1
        (line,) = json.loads(result.stdout)
        assert line["state"] == "draft"
        assert line["fault"].startswith("digest_mismatch: ")

    def test_every_refusal_is_one_line_with_the_fix(self, assay: Callable[..., Result], folder: Path) -> None:
        assert "key_unknown" in self.said(assay("publish", str(folder), NAME, *self.DID))
        report = ("--report", str(folder / "evaluation.json"))
        assert "give --key with --report" in self.said(assay("publish", str(folder), NAME, *report, *self.DID))
        assert "name the folder" in self.said(assay("publish", str(folder), "other", *self.DID))
        assert "there is none of that name" in self.said(assay("show", "other"))
        assert "--version or --id" in self.said(assay("retire", NAME, *self.DID))
        assert "--by and --why together" in self.said(assay("verify", NAME, "--by", "ada"))

    def test_a_registry_must_be_set(self, assay: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("ASSAY_ENGINES__REGISTRY")
        result = assay("list")
        assert isinstance(result.exception, ConfigurationError)
        assert "engines.registry is unset" in str(result.exception)


class TestTheGate:
    """Nothing gets nearer to traffic that proves no accuracy, but for a reason that is written down."""

    def proof(self, **found: float) -> Proof:
        usual = limits(default_budget(NAME))
        bounds = tuple(
            Bound(name=one.name, found=found.get(one.name, one.value), limit=one.value, at_most=one.at_most)
            for one in usual
        )
        return Proof(report_sha256="a" * 64, fp32_sha256="b" * 64, bounds=bounds)

    def files(self, made: ExportedEngine, key: Ed25519PrivateKey, proof: Proof | None, version: int = 1) -> EngineFiles:
        manifest = signed(made_release(made, proof=proof, version=version), key)
        return EngineFiles(manifest=manifest.to_json(), model=made.model, golden=made.golden)

    def test_an_engine_without_a_passing_report_is_not_published(
        self, registry: EngineRegistry, made: ExportedEngine, key: Ed25519PrivateKey
    ) -> None:
        bare = self.files(made, key, None)
        assert refusal(lambda: registry.publish(bare, NAME, **DID)) is RefusalCode.UNPROVEN
        worse = self.files(made, key, self.proof(**{"verdict flips": 0.01}))
        assert refusal(lambda: registry.publish(worse, NAME, **DID)) is RefusalCode.OVER_BUDGET
        assert registry.index.published() == []
        registry.publish(self.files(made, key, self.proof()), NAME, **DID)
        registry.publish(self.files(made, key, None, version=2), NAME, **DID, without_report="a trial")
        (event,) = registry.index.events(registry.index.published(NAME)[0].id)
        assert event.why == "a test (without a report: a trial)"

    def test_an_unproven_engine_is_not_moved_towards_traffic(
        self, registry: EngineRegistry, made: ExportedEngine, key: Ed25519PrivateKey
    ) -> None:
        (engine_id, _) = registry.publish(self.files(made, key, None), NAME, **DID, without_report="before the gate")
        assert refusal(lambda: move(registry, "verify", engine_id)) is RefusalCode.UNPROVEN
        registry.index.move("verify", NAME, list, **DID, without_report="looked at")
        for verb in ("canary", "promote"):
            assert refusal(lambda verb=verb: move(registry, verb, engine_id)) is RefusalCode.UNPROVEN  # type: ignore[misc]
        registry.index.move("promote", NAME, list, **DID, without_report="looked at")
        assert states(registry) == {1: "current"}
        assert registry.index.events(engine_id)[-1].why == "a test (without a report: looked at)"
        (proven, _) = registry.publish(self.files(made, key, self.proof(), version=2), NAME, **DID)
        serve(registry, proven)
        move(registry, "rollback", engine_id)  # the way back is never barred
        assert states(registry) == {1: "current", 2: "retired"}


def test_published_engines_know_their_state(registry: EngineRegistry, release: Publish) -> None:
    release(1)
    (one,) = registry.index.published(states=(State.DRAFT,))
    assert isinstance(one, Published)
    assert one.state is State.DRAFT
    assert registry.index.published(states=(State.CURRENT,)) == []
    assert registry.index.highest_version(NAME) == 1
    assert registry.index.highest_version("other") == 0
