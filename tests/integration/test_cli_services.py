"""The commands on real services: what they write, read back, send and refuse."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import uuid4

import pytest
from outcome_builders import a_job, hex_digest, judged, rejected, with_source
from sqlalchemy import text
from typer.testing import CliRunner, Result

from devstack import Addresses
from schemas import headers as names
from schemas.envelope import header
from worker.adapters.database import connect
from worker.adapters.kafka_follower import KafkaFollower
from worker.adapters.kafka_sender import KafkaSender
from worker.adapters.results import PostgresResults
from worker.cli.main import app
from worker.errors import AssayError
from worker.outcomes import Outcome
from worker.settings import Topics

Assay = Callable[..., Result]


@pytest.fixture
def assay(
    stack: Addresses, database_url: str, topic_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Assay:
    """Runs a command in this process, against a database and topics of this test's own."""
    settings = {
        "ASSAY_DATABASE__URL": database_url,
        "ASSAY_KAFKA__BOOTSTRAP": stack.kafka_bootstrap,
        "ASSAY_KAFKA__TOPICS__PREFIX": topic_prefix,
        "ASSAY_KAFKA__PARTITIONS": "2",
        "ASSAY_EVIDENCE__KEEP": "all",
        "ASSAY_EVIDENCE__ROOT": str(tmp_path / "evidence"),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def settle(url: str, topics: Topics, outcomes: Sequence[Outcome]) -> None:
    results = PostgresResults(connect(url), group="group", topics=topics)
    results.settle(outcomes)
    results.close()


def printed(result: Result) -> list[dict[str, object]]:
    assert result.exit_code == 0, result.output
    found: list[dict[str, object]] = json.loads(result.stdout)
    return found


def refusal(result: Result) -> str:
    assert isinstance(result.exception, AssayError), result.exception
    return str(result.exception)


def test_topics_are_planned_made_and_then_as_documented(assay: Assay, topic_prefix: str) -> None:
    planned = printed(assay("topics", "plan", "--json"))
    assert f"{topic_prefix}jobs" in {change["topic"] for change in planned}
    assert {change["action"] for change in planned} == {"create"}
    assert printed(assay("topics", "apply", "--json")) == planned
    assert printed(assay("topics", "plan", "--json")) == []


def test_results_are_listed_shown_and_reported(assay: Assay, database_url: str, tmp_path: Path) -> None:
    photo = tmp_path / "evidence" / "acme" / hex_digest("logo")[:2] / hex_digest("logo")
    settle(database_url, Topics(), [judged(1), rejected(2, a_job("dead-1"))])
    lines = {line["job_id"]: line for line in printed(assay("results", "list", "--json"))}
    assert (lines["job-1"]["verdict"], lines["dead-1"]["error_code"]) == ("authentic", "no_usable_view")
    assert [line["job_id"] for line in printed(assay("results", "list", "--verdict", "authentic", "--json"))] == [
        "job-1"
    ]
    assert printed(assay("results", "list", "--tenant", "nobody", "--json")) == []
    shown = assay("results", "show", "job-1")
    assert "consistent_with_references" in shown.stdout
    page = tmp_path / "report.html"
    assert assay("report", "job-1", "-o", str(page)).exit_code == 0
    assert not photo.exists()
    assert "This photograph was not kept." in page.read_text()
    assert "no answer to job 'nothing'" in refusal(assay("results", "show", "nothing"))
    assert "has no verdict" in refusal(assay("report", "dead-1", "-o", str(page)))
    assert "cannot be written" in refusal(assay("report", "job-1", "-o", str(tmp_path / "no" / "page.html")))


def test_a_job_id_of_two_tenants_must_be_told_apart(assay: Assay, database_url: str) -> None:
    settle(database_url, Topics(), [judged(1, a_job(tenant="acme")), judged(2, a_job(tenant="zeta"))])
    assert "--tenant" in refusal(assay("results", "show", "job-1"))
    assert json.loads(assay("results", "show", "job-1", "--tenant", "zeta", "--json").stdout)["tenant"] == "zeta"


def test_a_review_is_appended_and_alters_nothing(assay: Assay, database_url: str) -> None:
    settle(database_url, Topics(), [judged(1), rejected(2, a_job("dead-1"))])
    given = ("--decision", "counterfeit", "--by", "ada", "--why", "weight is wrong")
    assert assay("review", "job-1", *given).exit_code == 0
    assert assay("review", "job-1", *given).exit_code == 0
    assert "no verdict to review" in refusal(assay("review", "dead-1", *given))
    assert "--why" in refusal(assay("review", "job-1", *given[:-1], " "))
    rows = rows_of(database_url, "SELECT decision, by, why, result_id IS NOT NULL FROM assay.reviews")
    assert rows == [("counterfeit", "ada", "weight is wrong", True)] * 2
    assert printed(assay("results", "list", "--verdict", "authentic", "--json"))[0]["job_id"] == "job-1"


def test_a_replay_sends_the_original_to_where_it_came_from(
    assay: Assay, stack: Addresses, database_url: str, topic_prefix: str, tmp_path: Path
) -> None:
    assay("topics", "apply")
    outcome = rejected(2, a_job("dead-1"), value=b"\x00original")
    settle(database_url, Topics(prefix=topic_prefix), [with_source(outcome, f"{topic_prefix}jobs", 2)])
    (letter,) = printed(assay("dlq", "list", "--unreplayed", "--json"))
    shown = json.loads(assay("dlq", "show", str(letter["id"]), "--json").stdout)
    exported = tmp_path / "letters.jsonl"
    assert "wrote 1 dead letters" in assay("dlq", "export", "--unreplayed", "--out", str(exported)).stdout
    assert [json.loads(line) for line in exported.read_text().splitlines()] == [shown]
    assert exported.stat().st_mode & 0o077 == 0
    assert "cannot write" in refusal(assay("dlq", "export", "--out", str(exported)))
    assert (shown["value_base64"], shown["code"]) == ("AG9yaWdpbmFs", "no_usable_view")
    with KafkaFollower({"bootstrap.servers": stack.kafka_bootstrap}, [f"{topic_prefix}jobs"]) as follower:
        assert printed(assay("dlq", "replay", "--all", "--json")) == [
            {"id": letter["id"], "topic": f"{topic_prefix}jobs"}
        ]
        record = next(record for _ in range(60) if (record := follower.poll(1.0)) is not None)
    assert (record.key, record.value) == (b"acme/job", b"\x00original")
    assert header(record.headers, names.REPLAY_OF) == letter["id"]
    mark_replayed(database_url)
    assert printed(assay("dlq", "replay", "--all", "--json")) == []
    assert printed(assay("dlq", "replay", str(letter["id"]), "--json")) == []
    assert len(printed(assay("dlq", "replay", str(letter["id"]), "--again", "--json"))) == 1
    assert "no dead letter" in refusal(assay("dlq", "show", str(uuid4())))
    assert "UUID" in refusal(assay("dlq", "show", "nothing"))


def test_submitted_jobs_are_confirmed_and_unanswered_ones_told(assay: Assay, tmp_path: Path) -> None:
    photo = tmp_path / "goods" / "BAG-1" / "logo.jpg"
    photo.parent.mkdir(parents=True)
    photo.write_bytes(b"\xff\xd8\xff photograph")
    arguments = ("submit", str(tmp_path / "goods"), "--category", "bag")
    assert "assay topics apply" in refusal(assay(*arguments))
    assay("topics", "apply")
    (job,) = printed(assay(*arguments, "--json"))
    assert job["sku"] == "BAG-1"
    unanswered = assay(*arguments, "--wait", "--timeout", "0.5", "--json")
    assert unanswered.exit_code == 1
    assert json.loads(unanswered.stdout)[0]["reasons"] == "no answer yet"
    assert "ASSAY_IMAGES__FILE_ROOT" in refusal(assay(*arguments, "--uri"))


def test_results_are_followed_as_they_are_published(
    assay: Assay, stack: Addresses, database_url: str, topic_prefix: str
) -> None:
    assay("topics", "apply")
    results = PostgresResults(connect(database_url), group="group", topics=Topics(prefix=topic_prefix))
    outputs = results.settle([judged(1), judged(2, a_job("job-2", tenant="zeta")), rejected(3, a_job("dead-1"))])
    results.close()
    KafkaSender({"bootstrap.servers": stack.kafka_bootstrap}).send(outputs)
    followed = assay("results", "follow", "--from-beginning", "--count", "2", "--tenant", "acme", "--json")
    told = [json.loads(line) for line in followed.stdout.splitlines()]
    assert sorted(one.get("job_id") or one["code"] for one in told) == ["job-1", "no_usable_view"]


@pytest.mark.parametrize(
    ("variable", "value", "command", "code"),
    [
        ("ASSAY_DATABASE__URL", "postgresql+psycopg://nobody@127.0.0.1:1/none", ["results", "list"], 2),
        ("ASSAY_BUILD", "x", ["submit", "/nowhere/[/]"], 2),
        ("ASSAY_KAFKA__BOOTSTRAPP", "x", ["topics", "plan"], 78),
        ("ASSAY_DATABASE__POOL_SIZE", "none", ["dlq", "list"], 78),
    ],
)
def test_a_fault_is_one_line_and_no_stack_trace(variable: str, value: str, command: list[str], code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "worker.cli.main", *command],
        env={variable: value, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("assay: ")


def rows_of(url: str, query: str) -> list[tuple[object, ...]]:
    database = connect(url)
    with database.connect() as connection:
        rows = [tuple(row) for row in connection.execute(text(query))]
    database.dispose()
    return rows


def mark_replayed(url: str) -> None:
    """As the worker does when a replay is answered."""
    database = connect(url)
    with database.begin() as connection:
        connection.execute(text("UPDATE assay.dead_letters SET replayed_at = now()"))
    database.dispose()
