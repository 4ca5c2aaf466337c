"""Which engine takes traffic, on a real PostgreSQL: what commands refuse and write, and what workers then read."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import make_url, text
from typer.testing import CliRunner, Result

from engines.catalogue import EngineFiles
from engines.errors import EngineRefused
from engines.export import ExportedEngine
from engines.keyring import read_keys
from engines.machine import this_machine
from engines.proof import Proof
from engines.publish import released, seeded_engine, signed, write_public_key
from engines.store import FolderStore
from migrations.roles import set_role_password
from schemas.verdict import EngineUse
from worker.adapters.alarm_outbox import Outbox
from worker.adapters.database import connect
from worker.adapters.engine_failures import EngineFailures
from worker.adapters.engine_index import EngineIndex
from worker.adapters.engine_opening import chosen_engines
from worker.adapters.engine_registry import EngineRegistry
from worker.adapters.engine_wanted import Wanted, read_wanted
from worker.adapters.references import NewItem, NewReference, ReferenceStore
from worker.cli.engine_traffic import share_of
from worker.cli.main import app
from worker.core.evidence import ViewProbe
from worker.core.fallback import Failure, FailureKind
from worker.core.policy import CategoryProfile
from worker.errors import AssayError, ConfigurationError
from worker.settings import load_settings

NAME = "resnet18"
DID = {"by": "ada", "why": "a test"}
NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def made() -> list[ExportedEngine]:
    """Of three embedding spaces."""
    return [seeded_engine(NAME, seed, image_size=64) for seed in (1, 2, 3)]


def acting(url: str, role: str) -> str:
    password = secrets.token_urlsafe(18)
    set_role_password(url, role, password)
    return make_url(url).set(username=role, password=password).render_as_string(hide_password=False)


class Deployment:
    def __init__(self, owner_url: str, folder: Path, made: list[ExportedEngine]) -> None:
        self.owner_url, self.curator_url = owner_url, acting(owner_url, "assay_curator")
        self.key = Ed25519PrivateKey.generate()
        write_public_key(folder / "keys", "own", self.key)
        self.database = connect(self.curator_url)
        self.index = EngineIndex(self.database)
        store = FolderStore(folder / "registry")
        self.registry = EngineRegistry(index=self.index, store=store, keys=read_keys(folder / "keys"))
        self.made = made
        self.ids = [self._verified(version) for version in (1, 2, 3)]

    def _verified(self, version: int) -> str:
        made = self.made[version - 1]
        proof = Proof(without="a test")
        release = released(made.manifest, version=version, machine=this_machine(), proof=proof)
        manifest = signed(release, self.key)
        files = EngineFiles(manifest=manifest.to_json(), model=made.model, golden=made.golden)
        engine_id, _ = self.registry.publish(files, NAME, **DID)
        self.index.move("verify", NAME, lambda known: [one for one in known if one.id == engine_id], **DID)
        return engine_id

    def enrol(self, *versions: int) -> None:
        """One active reference, with a vector in the space of each of these engines."""
        store = ReferenceStore(self.database)
        store.put_categories([CategoryProfile(category="bag", views=())], **DID)
        store.ensure_items("t", [NewItem(sku="s", category="bag")])
        for version in versions:
            ids = store.add("t", [NewReference(sku="s", genuine=True, probe=self._probe(version))], **DID)
        store.activate("t", ids, **DID)

    def _probe(self, version: int) -> ViewProbe:
        manifest = self.made[version - 1].manifest
        engine = EngineUse(
            name=NAME, digest="d", backend="openvino", precision="int8", embedding_space=manifest.embedding_space
        )
        vector = np.eye(1, manifest.embedding_dim, dtype=np.float32)[0]
        return ViewProbe(
            view="logo", sha256="ab" * 32, engine=engine, embedding=vector, patches=np.ones((4, 2), np.float32),
            patch_grid=(2, 2), attention=np.ones((2, 2), np.float32), quality={}, phash=1, source_size=(64, 64),
        )  # fmt: skip

    def states(self) -> dict[int, str]:
        return {one.variant.version: str(one.state) for one in self.index.published(NAME)}

    def releases(self) -> list[tuple[object, ...]]:
        with self.database.connect() as connection:
            found = connection.execute(text("SELECT mode, share, state FROM assay.engine_releases ORDER BY started_at"))
            return [tuple(row) for row in found]

    def wanted(self) -> Wanted:
        """As a worker reads it."""
        database = connect(acting(self.owner_url, "assay_worker"))
        try:
            return read_wanted(EngineIndex(database), [NAME], this_machine(), "openvino")
        finally:
            database.dispose()


@pytest.fixture
def deployment(database_url: str, tmp_path: Path, made: list[ExportedEngine]) -> Iterator[Deployment]:
    found = Deployment(database_url, tmp_path, made)
    yield found
    found.database.dispose()


@pytest.fixture
def engine(deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """`assay engine ...`, without Kafka: workers are told by nobody, and would poll."""
    settings = {
        "ASSAY_DATABASE__URL": deployment.curator_url,
        "ASSAY_ENGINES__REGISTRY": str(tmp_path / "registry"),
        "ASSAY_ENGINES__KEYS_DIR": str(tmp_path / "keys"),
        "ASSAY_ENGINES__ENCODERS": "{}",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("worker.cli.engine_traffic.ring", lambda *_: "no broker here")
    return lambda *arguments: CliRunner().invoke(
        app, ["engine", *arguments, "--by", "ada", "--why", "a test"], catch_exceptions=True
    )


def done(result: Result) -> None:
    assert result.exit_code == 0, (result.output, result.exception)
    assert "within 5 s" in result.output


def refused(result: Result) -> str:
    assert isinstance(result.exception, AssayError), result.output
    return str(result.exception)


def test_a_release_runs_is_changed_and_is_promoted(deployment: Deployment, engine: Callable[..., Result]) -> None:
    assert "nothing is current" in refused(engine("canary", NAME, "--version", "1"))
    done(engine("promote", NAME, "--version", "1"))
    done(engine("shadow", NAME, "--version", "2"))
    done(engine("canary", NAME, "--version", "2", "--share", "20%"))
    assert deployment.releases() == [("shadow", 1.0, "held"), ("canary", 0.2, "running")]
    assert "is being tried" in refused(engine("canary", NAME, "--version", "3"))
    wanted = deployment.wanted()
    assert wanted.trial is not None
    assert (wanted.trial.candidate.id, wanted.trial.replaces) == (deployment.ids[1], deployment.ids[0])
    assert (wanted.trial.share, wanted.trial.publishes) == (0.2, True)
    assert [(step.engines, step.backend) for step in wanted.steps] == [
        (((NAME, deployment.ids[0]),), "openvino"),
        (((NAME, deployment.ids[0]),), "onnxruntime"),
    ]
    done(engine("promote", NAME, "--version", "2"))
    assert deployment.releases()[-1] == ("canary", 0.2, "promoted")
    assert deployment.states() == {1: "previous", 2: "current", 3: "verified"}
    wanted = deployment.wanted()
    assert wanted.trial is None
    assert [dict(step.engines)[NAME] for step in wanted.steps] == [
        deployment.ids[1], deployment.ids[0], deployment.ids[1]
    ]  # fmt: skip


def test_a_release_ends_with_what_it_compares_with(deployment: Deployment, engine: Callable[..., Result]) -> None:
    done(engine("promote", NAME, "--version", "1"))
    done(engine("canary", NAME, "--version", "2"))
    done(engine("take-back", NAME))
    assert (deployment.releases(), deployment.states()[2]) == ([("canary", 0.05, "taken_back")], "verified")
    done(engine("promote", NAME, "--version", "2"))
    done(engine("canary", NAME, "--version", "3"))
    done(engine("rollback", NAME))
    assert [state for _, _, state in deployment.releases()] == ["taken_back", "held"]
    assert deployment.states() == {1: "current", 2: "retired", 3: "verified"}
    (event,) = deployment.index.events(deployment.ids[2])[-1:]
    assert (event.by, event.why) == ("ada", "its release ended: a test")
    assert deployment.wanted().trial is None
    done(engine("canary", NAME, "--version", "3"))
    assert deployment.wanted().trial is not None


def test_an_engine_whose_gallery_is_incomplete_takes_no_traffic(
    deployment: Deployment, engine: Callable[..., Result]
) -> None:
    done(engine("promote", NAME, "--version", "1"))
    deployment.enrol(1)
    for command in ("canary", "shadow", "promote"):
        said = refused(engine(command, NAME, "--version", "2"))
        assert said.startswith("incomplete: "), said
        assert "1 references have no vectors" in said
    assert (deployment.releases(), deployment.states()) == ([], {1: "current", 2: "verified", 3: "verified"})
    deployment.enrol(2)
    done(engine("canary", NAME, "--version", "2"))
    done(engine("promote", NAME, "--version", "2"))


def test_what_a_worker_s_engines_did_is_known_to_its_next_process_alone(database_url: str) -> None:
    database = connect(acting(database_url, "assay_worker"))
    outbox = Outbox(topic="alerts", source="assay")
    own = EngineFailures(database=database, instance="w1", process=uuid4(), outbox=outbox)
    found = [
        Failure(step="a", kind=FailureKind.DIED, at=NOW - timedelta(hours=30)),
        Failure(step="a", kind=FailureKind.DIED, at=NOW - timedelta(minutes=5)),
        Failure(step="b", kind=FailureKind.GOLDEN, at=NOW),
    ]
    for failure in found:
        own.add(failure, "it hangs")
    assert own.known(NOW) == found[1:]
    assert EngineFailures(database=database, instance="w2", process=uuid4(), outbox=outbox).known(NOW) == []
    own.degraded("a", "a worker serves a, not b", NOW)
    own.degraded("c", "a worker serves c, not b", NOW)
    open_alarms = text(
        "SELECT labels ->> 'step', event IS NOT NULL FROM assay.alarms"
        " WHERE kind = 'engine_degraded' AND cleared_at IS NULL"
    )
    with database.connect() as connection:
        assert connection.execute(open_alarms).all() == [("c", True)]
    own.healed()
    with database.connect() as connection:
        assert connection.execute(open_alarms).all() == []
    database.dispose()


@pytest.mark.parametrize(("text_", "share"), [("5%", 0.05), ("0.05", 0.05), ("100%", 1.0), (" 1 ", 1.0)])
def test_a_share_is_written_either_way(text_: str, share: float) -> None:
    assert share_of(text_) == pytest.approx(share)


@pytest.mark.parametrize("text_", ["0", "-5%", "101%", "1.5", "nan", "five", ""])
def test_what_is_no_share_is_refused(text_: str) -> None:
    with pytest.raises(AssayError, match="write it as 5%"):
        share_of(text_)


def test_a_score_calibration_is_fitted_with_the_newest_candidate_in_the_place_of_what_serves(
    deployment: Deployment, engine: Callable[..., Result]
) -> None:
    def opened(candidate: str) -> int | None:
        (found,) = chosen_engines(load_settings(), lambda _: connect(deployment.curator_url), candidate)
        return found.manifest.release.version if found.manifest.release else None

    done(engine("promote", NAME, "--version", "1"))
    assert (opened(""), opened(NAME)) == (1, 3)
    done(engine("canary", NAME, "--version", "3"))
    assert opened(NAME) == 3
    for version in (2, 3):
        done(engine("promote", NAME, "--version", str(version)))
    with pytest.raises(EngineRefused, match="no engine resnet18 is verified or canary"):
        opened(NAME)
    with pytest.raises(ConfigurationError, match="name one of resnet18"):
        opened("other")
