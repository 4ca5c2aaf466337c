"""Releases on a real PostgreSQL, each by its own role: what a judgement does, once, and what the database refuses."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from ledger_parts import one_database
from sqlalchemy import Engine, make_url, text
from sqlalchemy.exc import DBAPIError
from typer.testing import CliRunner, Result

from devstack import Addresses
from engines.catalogue import MODELS_DIR
from engines.lifecycle import Verb
from engines.manifest import EngineManifest, manifest_path
from engines.matrix import Machine
from engines.proof import Proof
from engines.publish import released
from engines.release import Target
from migrations.roles import create_analyst, set_role_password
from migrations.session import transaction
from schemas.codec import decode_alert
from schemas.codes import AlertKind
from schemas.job import AuthenticationJob
from schemas.message import OutputRecord
from worker.adapters.alarm_outbox import Outbox
from worker.adapters.database import connect
from worker.adapters.engine_index import EngineIndex
from worker.adapters.engine_releases import EngineReleases
from worker.adapters.release_judging import JUDGE, ReleaseJudging
from worker.cli import engine_release
from worker.cli.main import app
from worker.core.release_judge import JudgeRule
from worker.errors import AssayError

NAME = "resnet18"
MACHINE = Machine(versions={"openvino": "2026.1.0"}, opset=21)
DID = {"by": "ada", "why": "a test"}
NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
LENIENT = JudgeRule(golden_needed=False)
AGREED = ("authentic", "authentic")
FLIPPED = ("counterfeit", "authentic")
CHANGE = "UPDATE assay.engine_releases SET {}"
START = """
INSERT INTO assay.engine_releases (id, name, candidate, current, mode, share, by, why)
VALUES (:id, :name, :candidate, :current, 'canary', 1.0, 'ada', 'ticket 7')
"""
COMPARE = """
INSERT INTO assay.engine_comparisons (release_id, tenant, job_id, published, current_verdict, candidate_verdict,
    current_ms, candidate_ms, candidate_error, golden_label)
VALUES (:release, :tenant, :job_id, 'candidate', :before, :after, 10, :ms, :error, :label)
ON CONFLICT (release_id, tenant, job_id) DO NOTHING
"""


def manifest_of(version: int, target: Target | None = None) -> EngineManifest:
    raw = manifest_path(MODELS_DIR, NAME).read_bytes()
    made, proof = EngineManifest.from_json(raw, "shipped"), Proof(without="a test")
    return released(made, version=version, machine=MACHINE, target=target, proof=proof)


@dataclass(kw_only=True)
class Place:
    """A database, and each role's own way to it."""

    url: str
    logins: dict[str, Engine] = field(default_factory=dict)
    urls: dict[str, str] = field(default_factory=dict)

    def as_role(self, role: str) -> Engine:
        if role not in self.logins:
            password = secrets.token_urlsafe(18)
            set_role_password(self.url, role, password)
            url = make_url(self.url).set(username=role, password=password)
            self.urls[role] = url.render_as_string(hide_password=False)
            self.logins[role] = connect(self.urls[role])
        return self.logins[role]

    @property
    def index(self) -> EngineIndex:
        return EngineIndex(self.as_role("assay_curator"))

    def publish(self, version: int, *verbs: Verb, target: Target | None = None) -> str:
        engine_id = hashlib.sha256(f"{version} {target}".encode()).hexdigest()
        self.index.add(engine_id, manifest_of(version, target), **DID)
        self.move(engine_id, *verbs)
        return engine_id

    def move(self, engine_id: str, *verbs: Verb) -> None:
        for verb in verbs:
            self.index.move(verb, NAME, lambda known: [one for one in known if one.id == engine_id], **DID)

    def start(self, candidate: str, current: str) -> UUID:
        release_id = uuid4()
        self.run("assay_curator", START, id=release_id, name=NAME, candidate=candidate, current=current)
        return release_id

    def compare(
        self, release: UUID, count: int, verdicts: tuple[str, str | None] = AGREED, *, tenant: str = "acme",
        ms: float | None = 9.0, error: str | None = None, first: int = 0, label: str | None = None,
    ) -> None:  # fmt: skip
        about = {"release": release, "tenant": tenant, "before": verdicts[0], "after": verdicts[1]}
        rows = [
            {**about, "job_id": f"job-{n}", "ms": ms, "error": error, "label": label}
            for n in range(first, first + count)
        ]
        with self.as_role("assay_worker").begin() as connection:
            connection.execute(text(COMPARE), rows)

    def golden(self, labels: Mapping[str, str]) -> None:
        releases = EngineReleases(database=self.as_role("assay_curator"))
        releases.add_golden("golden", labels, by="ada", why="known")  # type: ignore[arg-type]

    def judging(self, role: str = "assay_watcher", rule: JudgeRule = LENIENT) -> ReleaseJudging:
        outbox = Outbox(topic="alerts", source="group")
        return ReleaseJudging(releases=EngineReleases(database=self.as_role(role)), rule=rule, outbox=outbox)

    def run(self, role: str, statement: str, **values: object) -> None:
        with self.as_role(role).begin() as connection:
            connection.execute(text(statement), values)

    def rows(self, statement: str) -> list[tuple[object, ...]]:
        with self.as_role("assay_auditor").connect() as connection:
            return [tuple(row) for row in connection.execute(text(statement))]

    def states(self) -> dict[int, str]:
        return {one.variant.version: str(one.state) for one in self.index.published(NAME)}

    def refuses(self, role: str, statement: str, **values: object) -> str:
        with pytest.raises(DBAPIError) as refused:
            self.run(role, statement, **values)
        return type(refused.value.orig).__name__


@pytest.fixture(scope="module")
def database(stack: Addresses, template_database: str) -> Iterator[Place]:
    with one_database(stack, template_database) as url:
        place = Place(url=url)
        yield place
        for login in place.logins.values():
            login.dispose()


@pytest.fixture
def place(database: Place) -> Place:
    """The module's database with nothing in it."""
    with transaction(database.url) as connection:
        connection.execute(text("TRUNCATE assay.engines, assay.engine_golden, assay.alarms CASCADE"))
    return database


@pytest.fixture
def engines(place: Place) -> tuple[str, str]:
    """A current engine, and the canary that may follow it."""
    return place.publish(1, "verify", "promote"), place.publish(2, "verify", "canary")


@pytest.fixture
def release(place: Place, engines: tuple[str, str]) -> UUID:
    current, candidate = engines
    return place.start(candidate, current)


ENDED = "SELECT state, decided_at IS NOT NULL, decision ->> 'by', decision ->> 'decision' FROM assay.engine_releases"
ALARMS = "SELECT kind, tenant, detail, cleared_at IS NOT NULL FROM assay.alarms"


class TestJudgement:
    def test_a_good_candidate_becomes_current(self, place: Place, release: UUID, engines: tuple[str, str]) -> None:
        place.compare(release, 700)
        rung: list[str] = []
        (judged,) = replace(place.judging(), announce=rung.append).judge(NOW)
        assert judged.ending is not None
        assert rung == [NAME]
        assert place.states() == {1: "previous", 2: "current"}
        assert place.rows(ENDED) == [("promoted", True, JUDGE, "promote")]
        last = place.index.events(engines[1])[-1]
        assert (last.by, last.role, str(last.came_from), str(last.state)) == (
            JUDGE,
            "assay_watcher",
            "canary",
            "current",
        )
        assert last.why == judged.judgement.why

    def test_a_bad_candidate_is_taken_back(self, place: Place, release: UUID) -> None:
        place.compare(release, 300)
        place.compare(release, 12, FLIPPED, first=300)
        (judged,) = place.judging().judge(NOW)
        assert place.states() == {1: "current", 2: "verified"}
        assert place.rows(ENDED) == [("taken_back", True, JUDGE, "take_back")]
        (decision,) = place.rows("SELECT decision -> 'counts' ->> 'hard' FROM assay.engine_releases")
        assert decision == ("12",)
        assert "hard_disagreement: 12 of 312 jobs" in judged.judgement.why

    @pytest.mark.parametrize(
        ("jobs", "given"),
        [
            (60, {"verdicts": ("authentic", "inconclusive")}),
            (600, {"ms": 12.1}),
            (10, {"verdicts": ("authentic", None), "ms": None, "error": "golden_mismatch"}),
        ],
    )
    def test_each_harm_takes_back(self, place: Place, release: UUID, jobs: int, given: dict[str, object]) -> None:
        place.compare(release, 100)
        place.compare(release, jobs, first=100, **given)  # type: ignore[arg-type]
        assert place.judging().decide(NOW) == 1
        assert place.rows(ENDED) == [("taken_back", True, JUDGE, "take_back")]

    def test_what_is_open_goes_on(self, place: Place, release: UUID) -> None:
        place.compare(release, 50)
        (judged,) = place.judging().judge(NOW)
        assert (judged.ending, judged.judgement.decision) == (None, "continue")
        assert place.states() == {1: "current", 2: "canary"}
        assert place.rows(ALARMS) == []

    def test_what_stays_open_is_held_and_the_candidate_is_verified_again(
        self, place: Place, release: UUID, engines: tuple[str, str]
    ) -> None:
        place.compare(release, 50)
        (judged,) = place.judging(rule=replace(LENIENT, most_jobs=50)).judge(NOW)
        assert place.rows(ENDED) == [("held", True, JUDGE, "hold")]
        assert place.states() == {1: "current", 2: "verified"}
        last = place.index.events(engines[1])[-1]
        assert (last.by, last.why) == (JUDGE, judged.judgement.why)
        assert last.why.startswith("after 50 jobs these are still open")

    def test_whoever_would_replace_an_engine_that_is_gone_is_verified_again(
        self, place: Place, release: UUID, engines: tuple[str, str]
    ) -> None:
        place.move(place.publish(3, "verify"), "promote")
        assert place.judging().decide(NOW) == 1
        assert place.rows(ENDED) == [("held", True, JUDGE, "overtaken")]
        assert place.states() == {1: "previous", 2: "verified", 3: "current"}

    def test_a_decision_is_told_once(self, place: Place, release: UUID) -> None:
        place.compare(release, 700)
        judging = place.judging()
        assert (judging.decide(NOW), judging.decide(NOW)) == (1, 0)
        ((kind, tenant, detail, over),) = place.rows(ALARMS)
        assert (kind, tenant, over) == ("engine_release", None, True)
        assert str(detail).startswith("resnet18 version 2 is promoted: after 700 jobs")
        sent: list[OutputRecord] = []

        def send(records: Sequence[OutputRecord]) -> None:
            sent.extend(records)

        with place.as_role("assay_watcher").begin() as connection:
            assert judging.outbox.publish(connection, send) == 1
        (record,) = sent
        event = decode_alert(record.value, record.headers)
        assert (event.kind, event.detail, record.key) == (AlertKind.ENGINE_RELEASE, detail, b"*")

    def test_of_many_who_judge_at_once_one_decides(self, place: Place, release: UUID) -> None:
        place.compare(release, 700)
        judging = place.judging()
        with ThreadPoolExecutor(4) as pool:
            ended = list(pool.map(lambda _: judging.decide(NOW), range(4)))
        assert sum(ended) == 1
        assert len(place.rows(ALARMS)) == 1

    def test_a_curator_may_judge_as_well(self, place: Place, release: UUID) -> None:
        place.compare(release, 700)
        assert place.judging("assay_curator").decide(NOW) == 1
        assert place.states() == {1: "previous", 2: "current"}

    def test_what_a_person_did_meanwhile_ends_the_release(
        self, place: Place, release: UUID, engines: tuple[str, str]
    ) -> None:
        place.compare(release, 700)
        place.move(engines[1], "retire")
        (judged,) = place.judging().judge(NOW)
        assert place.rows(ENDED) == [("taken_back", True, JUDGE, "overtaken")]
        assert judged.ending is not None
        assert judged.ending.why == "the candidate is retired meanwhile"

    def test_a_promotion_that_the_rules_refuse_is_held_with_the_reason(self, place: Place, release: UUID) -> None:
        """Another target of the name went further."""
        place.compare(release, 700)
        place.publish(3, "verify", "promote", target=Target(backend="tensorrt", capability="9.0"))
        (judged,) = place.judging().judge(NOW)
        assert place.rows(ENDED) == [("held", True, JUDGE, "promote")]
        assert judged.ending is not None
        assert "rolled_back" in judged.ending.why
        assert place.states()[2] == "verified"


class TestGolden:
    def test_only_what_a_curator_registered_before_is_golden(self, place: Place, release: UUID) -> None:
        """Neither what the job says of itself nor what the worker writes makes it so."""
        place.compare(release, 1, tenant="golden", label="genuine")
        place.golden({"job-0": "counterfeit", "job-1": "counterfeit"})
        place.compare(release, 2, tenant="golden", label="genuine")
        place.compare(release, 1, tenant="acme", first=1, label="genuine")
        found = place.rows("SELECT tenant, job_id, golden_label FROM assay.engine_comparisons ORDER BY 1, 2")
        assert found == [("acme", "job-1", None), ("golden", "job-0", None), ("golden", "job-1", "counterfeit")]

    def test_golden_jobs_are_counted_apart_and_needed(self, place: Place, release: UUID) -> None:
        place.golden({f"job-{n}": "genuine" if n % 2 else "counterfeit" for n in range(130)})
        place.compare(release, 700)
        judging = place.judging(rule=JudgeRule())
        (before,) = judging.judge(NOW)
        assert (before.judgement.decision, before.judgement.counts.golden) == ("continue", 0)
        place.compare(
            release, 120, ("authentic", "authentic"), tenant="golden"
        )  # both are wrong on half of them: no worse
        (after,) = judging.judge(NOW)
        assert (after.judgement.decision, after.judgement.counts.golden, after.judgement.counts.answered) == (
            "promote",
            120,
            700,
        )

    def test_a_candidate_that_agrees_and_is_wrong_where_it_matters_is_taken_back(
        self, place: Place, release: UUID
    ) -> None:
        place.golden({f"job-{n}": "counterfeit" for n in range(10)})
        place.compare(release, 300)
        place.compare(release, 5, FLIPPED, tenant="golden")
        place.compare(release, 5, ("authentic", "counterfeit"), tenant="golden", first=5)
        (judged,) = place.judging(rule=JudgeRule()).judge(NOW)
        counts = judged.judgement.counts
        assert (counts.hard, counts.golden_worse, counts.golden_better) == (0, 5, 5)
        assert judged.judgement.why.startswith("golden: 5 of 10 jobs")
        assert place.states() == {1: "current", 2: "verified"}


class TestTheDatabaseItself:
    EVENT = "INSERT INTO assay.engine_events (engine, came_from, state, by, why) VALUES (:id, :was, :to, 'eve', 'x')"
    DECIDE = "UPDATE assay.engine_releases SET state = :state, decision = '{}'"

    def test_a_decision_is_set_once(self, place: Place, release: UUID) -> None:
        place.run("assay_curator", self.DECIDE, state="held")
        for state in ("promoted", "held", "running"):
            assert place.refuses("assay_curator", self.DECIDE, state=state) == "RaiseException"
        assert place.rows("SELECT state, decided_at IS NOT NULL FROM assay.engine_releases") == [("held", True)]

    def test_a_release_without_a_decision_is_not_decided(self, place: Place, release: UUID) -> None:
        undecided = "UPDATE assay.engine_releases SET state = 'promoted'"
        assert place.refuses("assay_curator", undecided) == "CheckViolation"
        assert place.refuses("assay_curator", self.DECIDE, state="running") == "CheckViolation"

    def test_nothing_else_of_a_release_changes(self, place: Place, release: UUID) -> None:
        for role in ("assay_curator", "assay_watcher", "assay_worker"):
            for change in ("share = 1", "why = 'x'", "candidate = current", "started_at = now()"):
                assert place.refuses(role, CHANGE.format(change)) == "InsufficientPrivilege"
            assert place.refuses(role, "DELETE FROM assay.engine_releases") == "InsufficientPrivilege"
            assert place.refuses(role, "UPDATE assay.engine_comparisons SET at = now()") == "InsufficientPrivilege"

    def test_one_release_of_a_name_runs(self, place: Place, release: UUID, engines: tuple[str, str]) -> None:
        values = {"id": uuid4(), "name": NAME, "candidate": engines[1], "current": engines[0]}
        assert place.refuses("assay_curator", START, **values) == "UniqueViolation"
        assert place.refuses("assay_worker", START, **values) == "InsufficientPrivilege"
        assert place.refuses("assay_watcher", START, **values) == "InsufficientPrivilege"

    def test_a_worker_registers_no_golden_job(self, place: Place, release: UUID) -> None:
        register = (
            "INSERT INTO assay.engine_golden (tenant, job_id, label, by, why) VALUES ('a', 'b', 'genuine', '', '')"
        )
        for role in ("assay_worker", "assay_gateway", "assay_watcher"):
            assert place.refuses(role, register) == "InsufficientPrivilege"

    def test_the_watcher_moves_the_engines_of_a_running_release_alone(
        self, place: Place, engines: tuple[str, str]
    ) -> None:
        current, candidate = engines
        third = place.publish(3, "verify")
        values = {"id": candidate, "was": "canary", "to": "current"}
        assert place.refuses("assay_watcher", self.EVENT, **values) == "InsufficientPrivilege"
        place.start(candidate, current)
        for engine_id, was, to in (
            (third, "verified", "canary"),
            (third, "verified", "current"),
            (current, "current", "retired"),
        ):
            values = {"id": engine_id, "was": was, "to": to}
            assert place.refuses("assay_watcher", self.EVENT, **values) == "InsufficientPrivilege", (was, to)
        place.run("assay_watcher", self.EVENT, id=candidate, was="canary", to="verified")

    def test_analysts_see_their_tenants_comparisons(self, place: Place, release: UUID) -> None:
        place.compare(release, 2)
        place.compare(release, 1, tenant="zeta")
        create_analyst(place.url, "assay_analyst_test_release", tenants=["acme"])
        analyst = place.as_role("assay_analyst_test_release")
        with analyst.connect() as connection:
            assert connection.scalar(text("SELECT count(*) FROM analyst.engine_comparisons")) == 2
            assert connection.scalar(text("SELECT count(*) FROM analyst.engine_releases")) == 0
        analyst.dispose()
        create_analyst(place.url, "assay_analyst_test_release", tenants=["*"])
        with analyst.connect() as connection:
            assert connection.scalar(text("SELECT count(*) FROM analyst.engine_releases")) == 1


class TestCommands:
    @pytest.fixture
    def assay(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
        place.as_role("assay_curator")
        monkeypatch.setenv("ASSAY_DATABASE__URL", place.urls["assay_curator"])
        monkeypatch.setenv("ASSAY_JUDGEMENT__GOLDEN_NEEDED", "false")
        return lambda *arguments: CliRunner().invoke(app, ["engine", *arguments])

    def test_a_release_is_shown_while_it_runs_and_after(
        self, place: Place, release: UUID, assay: Callable[..., Result]
    ) -> None:
        place.compare(release, 100)
        told = json.loads(assay("release", NAME, "--json").stdout)
        assert (told["state"], told["decision"]["decision"], told["decision"]["counts"]["jobs"]) == (
            "running",
            "continue",
            100,
        )
        place.compare(release, 600, first=100)
        assert place.rows("SELECT state FROM assay.engine_releases") == [("running",)], "to look changes nothing"
        (judged,) = json.loads(assay("judge", "--json").stdout)
        assert (judged["ended"], judged["decision"], judged["judgement"]["counts"]["jobs"]) == (True, "promoted", 700)
        shown = assay("release", NAME).stdout
        for words in ("version 2", "promoted", "hard_disagreement", "ada: ticket 7"):
            assert words in shown
        assert json.loads(assay("release", NAME, "--json").stdout)["decision"]["by"] == JUDGE
        assert json.loads(assay("judge", "--json").stdout) == []

    def test_who_waits_hears_the_decision_whoever_made_it_or_what_is_open(
        self, place: Place, release: UUID, assay: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(engine_release, "JUDGED_EVERY_S", 0.01)
        late = str(assay("judge", "--wait", "0.02").exception)
        assert "not decided within 0.02 s: resnet18: after 0 of at most 5000 jobs these are open" in late
        monkeypatch.setattr(engine_release, "sleep", lambda _: place.compare(release, 700))
        (judged,) = json.loads(assay("judge", "--wait", "60", "--json").stdout)
        assert (judged["ended"], judged["decision"], judged["state"]) == (True, "promoted", "promoted")

        (current,) = [one.id for one in place.index.published(NAME) if one.state == "current"]
        place.start(place.publish(3, "verify", "canary"), current)
        held = CHANGE.format("""state = 'held', decision = '{"why": "by hand"}' WHERE state = 'running'""")

        def others_decide(_: float) -> None:
            place.run("assay_curator", held)

        monkeypatch.setattr(engine_release, "sleep", others_decide)
        (judged,) = json.loads(assay("judge", "--wait", "60", "--json").stdout)
        assert (judged["ended"], judged["decision"], judged["why"]) == (True, "held", "by hand")

    def test_a_name_without_a_release_is_said(self, assay: Callable[..., Result]) -> None:
        assert "was ever released" in str(assay("release", "other").exception)

    def test_golden_items_are_registered_before_they_are_sent(
        self, place: Place, assay: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sent: list[AuthenticationJob] = []

        def submit(jobs: Sequence[AuthenticationJob], **_: object) -> None:
            known = place.rows("SELECT tenant, job_id, label FROM assay.engine_golden")
            assert {(job.tenant, job.job_id) for job in jobs} == {row[:2] for row in known}
            sent.extend(jobs)

        monkeypatch.setattr(engine_release, "submit_jobs", submit)
        lines = [
            {"sku": "BAG-1", "category": "bag", "label": label, "views": {"logo": f"{label}.jpg"}}
            for label in ("genuine", "counterfeit")
        ]
        for line in lines:
            (tmp_path / str(line["views"]["logo"])).write_bytes(b"\xff\xd8\xff photograph")  # type: ignore[index]
        manifest = tmp_path / "golden.jsonl"
        manifest.write_text("\n".join(map(json.dumps, lines)))
        given = (str(manifest), "--tenant", "golden", "--by", "ada", "--why", "bought by us", "--json")
        told = json.loads(assay("golden", *given).stdout)
        assert [(one["job_id"], one["label"]) for one in told] == [
            (job.job_id, label) for job, label in zip(sent, ("genuine", "counterfeit"), strict=True)
        ]
        manifest.write_text(json.dumps({**lines[0], "label": None}))
        refused = assay("golden", *given)
        assert isinstance(refused.exception, AssayError)
        assert "has no label" in str(refused.exception)
        assert len(sent) == 2
