"""`assay dlq`: messages that got no verdict; look at them, mend the cause, and send them again."""

from __future__ import annotations

import base64
import dataclasses
import os
from pathlib import Path
from typing import Annotated, TextIO

import typer
from sqlalchemy import Engine

from schemas import headers as names
from schemas.codes import ErrorCode
from schemas.message import Headers, OutputRecord
from worker.adapters.kafka_sender import KafkaSender
from worker.adapters.outputs import DeadLetter
from worker.cli import terminal
from worker.cli.opening import open_database
from worker.cli.stored import LetterLine, list_letters, read_letter
from worker.errors import AssayError
from worker.settings import Settings, load_settings

app = typer.Typer(no_args_is_help=True, help="Look at dead letters and send them again.")
Id = Annotated[str, typer.Argument(help="The dead letter's id.")]
Code = Annotated[ErrorCode | None, typer.Option(help="Only this error code.")]
Limit = Annotated[int, typer.Option(help="Most letters.", min=1, max=10_000)]
# Of one delivery; a replay is a delivery of its own and starts its attempts over.
DELIVERY = frozenset({names.SRC, names.ATTEMPT, names.DUE_MS, names.DUPLICATE, names.REPLAY_OF})


@app.command("list")
def list_dead_letters(
    tenant: terminal.Tenant = None,
    code: Code = None,
    unreplayed: Annotated[bool, typer.Option("--unreplayed", help="Only those that no replay answered.")] = False,
    limit: Limit = 50,
    as_json: terminal.AsJson = False,
) -> None:
    """The latest dead letters, newest first."""
    with open_database(load_settings()) as database:
        lines = _lines(database, tenant, code, unreplayed, limit)
    if as_json:
        terminal.print_json([dataclasses.asdict(line) for line in lines])
        return
    rows = [(x.created_at, x.id, x.tenant, x.job_id, x.code, x.stage, x.detail, x.replayed_at) for x in lines]
    columns = ("at (UTC)", "id", "tenant", "job", "code", "stage", "detail", "replayed")
    terminal.print_table(columns, rows, empty="There are no dead letters.")


@app.command()
def show(letter: Id, as_json: terminal.AsJson = False) -> None:
    """One dead letter: what went wrong, and the original message."""
    with open_database(load_settings()) as database:
        found, line = read_letter(database, letter)
    if as_json:
        terminal.print_json(dataclasses.asdict(line) | _original_json(found))
        return
    terminal.print_facts(dataclasses.asdict(line) | {"first seen (UTC)": found.first_seen, "attempt": found.attempt})
    headers = [(name, value.decode(errors="replace")) for name, value in found.headers]
    terminal.print_table(("header", "value"), headers, empty="It had no headers.")
    typer.echo(f"value: {len(found.value)} bytes; --json prints them in base64")


@app.command()
def replay(
    letter: Annotated[str | None, typer.Argument(help="The dead letter's id.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every letter that no replay answered, by the filters.")] = False,
    tenant: terminal.Tenant = None,
    code: Code = None,
    limit: Limit = 1000,
    again: Annotated[bool, typer.Option("--again", help="Also those that a replay has answered.")] = False,
    as_json: terminal.AsJson = False,
) -> None:
    """Send the original messages to the topics that they came from.

    A job gets at most one verdict however often it is replayed: a letter that a replay has answered is passed over,
    and a second replay on its way is answered with the first one's verdict.
    """
    settings = load_settings()
    with open_database(settings) as database:
        chosen = _chosen(database, letter, every, tenant, code, limit, again)
        letters = [read_letter(database, str(line.id))[0] for line in chosen]
    _send(settings, letters)
    if as_json:
        terminal.print_json([{"id": str(x.letter_id), "topic": x.source.topic} for x in letters])
    else:
        typer.echo(f"replayed {len(letters)} dead letters")


@app.command()
def export(
    out: Annotated[Path, typer.Option(help="File to write; it must not exist.")],
    tenant: terminal.Tenant = None,
    code: Code = None,
    unreplayed: Annotated[bool, typer.Option("--unreplayed", help="Only those that no replay answered.")] = False,
    limit: Limit = 10_000,
) -> None:
    """Write dead letters to a file, newest first: a JSON object a line, as `show --json` prints it.

    A letter keeps its original key, value and headers in base64 and what went wrong, so that another tool, or a
    person without access to the database, can look into it.
    """
    with open_database(load_settings()) as database, _new_file(out) as file:
        lines = _lines(database, tenant, code, unreplayed, limit)
        for line in lines:
            found, _ = read_letter(database, str(line.id))
            terminal.print_json_line(dataclasses.asdict(line) | _original_json(found), file)
    typer.echo(f"wrote {len(lines)} dead letters to {out}")


def replay_record(letter: DeadLetter) -> OutputRecord:
    """The original message for the topic that it came from, with the id of its dead letter."""
    kept = tuple((name, value) for name, value in letter.headers if name not in DELIVERY)
    headers: Headers = (*kept, (names.REPLAY_OF, str(letter.letter_id).encode()))
    return OutputRecord(topic=letter.source.topic, key=letter.key, value=letter.value, headers=headers)


def _lines(
    database: Engine, tenant: str | None, code: ErrorCode | None, unreplayed: bool, limit: int
) -> list[LetterLine]:
    chosen_code = code.value if code else None
    return list_letters(database, tenant=tenant, code=chosen_code, unreplayed=unreplayed, limit=limit)


def _chosen(
    database: Engine,
    letter: str | None,
    every: bool,
    tenant: str | None,
    code: ErrorCode | None,
    limit: int,
    again: bool,
) -> list[LetterLine]:
    if (letter is None) is not every:
        raise AssayError("name one dead letter, or give --all")
    if letter is None:
        return _lines(database, tenant, code, not again, limit)
    line = read_letter(database, letter)[1]
    if line.code == ErrorCode.ERASED:
        raise AssayError(f"{letter} cannot be replayed: its job was erased, and the message with it")
    if line.replayed_at is not None and not again:
        terminal.say(f"{letter} was answered by a replay at {terminal.shown(line.replayed_at)} UTC; --again sends it")
        return []
    return [line]


def _send(settings: Settings, letters: list[DeadLetter]) -> None:
    if not letters:
        return
    with terminal.progress() as bar:
        task = bar.add_task("Replaying", total=len(letters))
        sender = KafkaSender(settings.kafka.client_config())
        sender.send(map(replay_record, letters), delivered=lambda _record: bar.advance(task))


def _new_file(path: Path) -> TextIO:
    """For its owner alone: the messages are the tenants' own."""
    try:
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8")
    except OSError as error:
        raise AssayError(f"cannot write {path}: {error.strerror}") from error


def _original_json(letter: DeadLetter) -> dict[str, object]:
    def encoded(data: bytes | None) -> str | None:
        return None if data is None else base64.b64encode(data).decode()

    return {
        "first_seen": letter.first_seen,
        "attempt": letter.attempt,
        "headers": [[name, value.decode(errors="replace")] for name, value in letter.headers],
        "key_base64": encoded(letter.key),
        "value_base64": encoded(letter.value),
    }
