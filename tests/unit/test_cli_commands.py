"""The commands without services: what they build, print and refuse."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import typer
from typer.testing import CliRunner

from schemas import headers as names
from schemas.codec import parse_job
from schemas.codes import ErrorCode
from schemas.envelope import header
from schemas.message import InputRecord, OutputRecord, Source
from worker.adapters.outputs import DeadLetter
from worker.cli import dlq, schema, terminal
from worker.cli.main import app
from worker.cli.submission import INLINE_BYTES, JOB_BYTES, Lost, build_job, job_record, read_reply
from worker.errors import AssayError
from worker.items import InvalidItems, Item
from worker.settings import Topics

PHOTO = b"\xff\xd8\xff" + b"x" * 100


def item_of(folder: Path, **changes: object) -> Item:
    photo = folder / "goods" / "logo.jpg"
    photo.parent.mkdir(exist_ok=True)
    photo.write_bytes(PHOTO)
    given: dict[str, object] = {"sku": "BAG-1", "category": "bag", "views": {"logo": photo}, "name": "BAG-1"}
    return Item(**(given | changes))  # type: ignore[arg-type]


def as_input(record: OutputRecord, topic: str) -> InputRecord:
    return InputRecord(
        source=Source(topic=topic, partition=0, offset=7),
        epoch=0,
        key=record.key,
        value=record.value,
        headers=record.headers,
        timestamp_ms=0,
    )


@pytest.mark.parametrize("encoding", ["avro", "json"])
def test_a_submitted_job_is_what_the_worker_parses(tmp_path: Path, encoding: str) -> None:
    job = build_job(item_of(tmp_path, serial="S1", labels={"subject": "s"}), tenant="demo", priority="high")
    record = job_record(job, Topics(), encoding)  # type: ignore[arg-type]
    assert record.topic == "assay.jobs.high"
    parsed = parse_job(as_input(record, record.topic), max_bytes=JOB_BYTES)
    assert parsed.payload_digest == job.payload_digest
    assert parsed.views[0].data == PHOTO
    assert parsed.views[0].sha256 == hashlib.sha256(PHOTO).hexdigest()
    assert (parsed.views[0].media_type, parsed.serial) == ("image/jpeg", "S1")
    traceparent = header(record.headers, names.TRACEPARENT)
    assert traceparent is not None
    assert len(traceparent.split("-")) == 4


def test_large_items_go_by_uri_below_the_file_root(tmp_path: Path) -> None:
    item = item_of(tmp_path)
    job = build_job(item, tenant="demo", transport="uri", file_root=tmp_path)
    assert (job.views[0].uri, job.views[0].data) == ("file:goods/logo.jpg", None)
    with pytest.raises(InvalidItems, match="ASSAY_IMAGES__FILE_ROOT"):
        build_job(item, tenant="demo", transport="uri")
    with pytest.raises(InvalidItems, match="not below the file root"):
        build_job(item, tenant="demo", transport="uri", file_root=tmp_path / "elsewhere")
    big = tmp_path / "goods" / "big.jpg"
    big.write_bytes(b"\xff\xd8\xff" + bytes(INLINE_BYTES["avro"]))
    large = item_of(tmp_path, views={"logo": big})
    assert build_job(large, tenant="demo", file_root=tmp_path).views[0].uri == "file:goods/big.jpg"
    with pytest.raises(InvalidItems, match="--uri"):
        build_job(large, tenant="demo", transport="inline")


def test_a_uri_needs_its_digest_and_a_bad_field_names_itself(tmp_path: Path) -> None:
    with pytest.raises(InvalidItems, match="sha256"):
        build_job(item_of(tmp_path, views={"logo": "s3://store/a.jpg"}), tenant="demo")
    with pytest.raises(InvalidItems, match="tenant"):
        build_job(item_of(tmp_path), tenant="not a tenant")


def test_a_dead_letter_is_read_as_the_answer() -> None:
    headers = ((names.ERROR_CODE, b"no_usable_view"), (names.ERROR_MESSAGE, b"why"), (names.DEAD_LETTER_ID, b"id"))
    record = InputRecord(
        source=Source(topic="dlq", partition=0, offset=1), epoch=0, key=b"k", value=b"", headers=headers, timestamp_ms=0
    )
    assert read_reply(record, "dlq") == Lost(letter_id="id", code="no_usable_view", detail="why")
    with pytest.raises(AssayError, match="dlq/0/1"):
        read_reply(record, "another")


def test_a_replay_is_the_original_with_its_letters_id() -> None:
    letter_id = UUID(int=7)
    letter = DeadLetter(
        letter_id=letter_id,
        tenant="t",
        job_id="j",
        source=Source(topic="assay.jobs", partition=3, offset=9),
        code=ErrorCode.RETRIES_EXHAUSTED,
        stage="fetch",
        detail="",
        key=b"t/j",
        value=b"body",
        headers=((names.CE_TYPE, b"assay.job.v1"), (names.ATTEMPT, b"3"), (names.TRACEPARENT, b"00-a-b-01")),
        attempt=3,
        first_seen=datetime(2026, 1, 1, tzinfo=UTC),
    )
    record = dlq.replay_record(letter)
    assert (record.topic, record.key, record.value) == ("assay.jobs", b"t/j", b"body")
    assert record.headers == (
        (names.CE_TYPE, b"assay.job.v1"),
        (names.TRACEPARENT, b"00-a-b-01"),
        (names.REPLAY_OF, str(letter_id).encode()),
    )


def test_schemas_are_printed_as_published() -> None:
    runner = CliRunner()
    for message in ("job", "verdict"):
        printed = runner.invoke(schema.app, ["print", message])
        assert printed.exit_code == 0
        assert json.loads(printed.stdout)["type"] == "record"
    assert json.loads(runner.invoke(schema.app, ["print", "deadletter"]).stdout)["type"] == "object"
    refused = runner.invoke(schema.app, ["print", "deadletter", "--format", "avro"])
    assert isinstance(refused.exception, AssayError)
    assert "json" in str(refused.exception)
    assert runner.invoke(schema.app, ["print", "nothing"]).exit_code == 2


def test_printed_text_cannot_write_markup_or_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_table(("a",), [("[red]x[/] [/] \x1b[2J\u202e",)], empty="")
    out = capsys.readouterr().out
    assert "[red]x[/] [/]" in out
    assert "\x1b" not in out
    assert "\u202e" not in out


def test_replay_wants_one_letter_or_all() -> None:
    for arguments in (["replay"], ["replay", str(UUID(int=1)), "--all"]):
        result = CliRunner().invoke(dlq.app, arguments)
        assert isinstance(result.exception, AssayError)
        assert "--all" in str(result.exception)


def test_every_command_explains_itself() -> None:
    groups: list[Any] = [typer.main.get_command(app)]
    for group in groups:
        for name in group.list_commands(None):
            command = group.get_command(None, name)
            assert (command.name, bool(command.help)) == (name, True)
            groups += [command] if hasattr(command, "list_commands") else []
    assert len(groups) > 8


def test_a_command_imports_what_it_needs_alone() -> None:
    told = "import sys, worker.cli.main; from typer.testing import CliRunner; "
    told += "CliRunner().invoke(worker.cli.main.app, ['schema', '--help']); "
    told += "print({'sqlalchemy', 'confluent_kafka', 'numpy'} & set(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", told], check=True, capture_output=True, text=True).stdout
    assert printed.strip() == "set()"


def test_the_version_is_the_package_s() -> None:
    declared = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["version"]
    assert CliRunner().invoke(app, ["--version"]).output == f"assay {declared}\n"
