"""`assay audit`: the ledger of verdicts: seal it, and verify that nothing was changed since."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from worker.adapters.audit_chain import PostgresChains
from worker.adapters.audit_keys import TrustedKeys, load_public_keys, load_sealing_key, make_keys
from worker.adapters.audit_topic import LatestHeads, latest_heads, publish_heads
from worker.adapters.audit_verify import Check, Counts, Finding, verify
from worker.audit.sealer import Sealer
from worker.cli import terminal
from worker.cli.opening import open_database
from worker.cli.service import serve
from worker.core.ledger import head_message
from worker.errors import AssayError, ConfigurationError
from worker.observe import Meter
from worker.settings import Settings, load_settings

app = typer.Typer(no_args_is_help=True, help="Seal verdicts into a signed chain, and verify that none was changed.")


@app.command()
def keygen(
    private: Annotated[Path, typer.Argument(help="File of the new private key; for the sealer alone.")],
    public: Annotated[Path, typer.Argument(help="File of the new public key; for whoever verifies.")],
) -> None:
    """Make a pair of keys. Overwrites nothing."""
    terminal.say(f"Made key {make_keys(private, public).key_id}; the sealer alone may read {private}.")


@app.command()
def seal(watch: Annotated[bool, typer.Option("--watch", help="Go on until SIGTERM.")] = False) -> None:
    """Seal all verdicts that wait, and publish the heads. With --watch, as a service of its own."""
    settings = load_settings()
    with _sealer(settings) as sealer:
        if watch:
            serve(settings, "sealer", sealer.run, _meter(sealer))
        else:
            sealed, published = sealer.round()
            terminal.say(f"Sealed {sealed} entries, published {published} heads.")


@app.command()
def head(
    out: Annotated[Path | None, typer.Option(help="File to write to; unset: standard output.")] = None,
) -> None:
    """The last published head of each tenant, one a line. Keep a copy where nobody who runs Assay can change it."""
    settings = load_settings()
    latest = _published(settings, _keys(settings))
    for tenant, fault in latest.faults:
        terminal.say(f"tenant {tenant}: {fault}")
    lines = [head_message(latest.heads[tenant]).decode() for tenant in sorted(latest.heads)]
    if out is None:
        for line in lines:
            typer.echo(line)
    else:
        out.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    if latest.faults:
        raise typer.Exit(1)


@app.command("verify")
def verify_chains(
    tenant: terminal.Tenant = None,
    heads: Annotated[
        Path | None, typer.Option("--head", help="File of `assay audit head`; unset: the heads of the topic.")
    ] = None,
    as_json: terminal.AsJson = False,
) -> None:
    """Recompute every chain and every verdict's digests. One line a finding; exits 1 where there is any."""
    settings = load_settings()
    keys = _keys(settings)
    latest = _kept(heads, keys) if heads else _published(settings, keys)
    findings = [Finding(tenant=name, what=what) for name, what in latest.faults]
    for finding in findings:
        _tell(finding, as_json)
    check = Check(heads=latest.heads, keys=keys, complete=heads is None, grace_s=settings.audit.grace_s)
    with open_database(settings) as database:
        counts = verify(database, check, lambda finding: _tell(finding, as_json), tenant=tenant)
    counts.findings += len(findings)
    terminal.say(_summary(counts))
    if counts.findings:
        raise typer.Exit(1)


@contextlib.contextmanager
def _sealer(settings: Settings) -> Iterator[Sealer]:
    audit = settings.audit
    if audit.key_file is None:
        raise ConfigurationError("audit.key_file is unset: name the private key; `assay audit keygen` makes one")
    key = load_sealing_key(audit.key_file)
    with open_database(settings) as database:
        chains = PostgresChains(database=database, signer=key, block_entries=audit.block_entries)
        send = publish_heads(settings.kafka.client_config(), settings.kafka.topics.audit)
        yield Sealer(chains, send, interval_s=audit.interval_s)


def _meter(sealer: Sealer) -> Meter:
    meter = Meter()
    meter.watch("assay_audit_unsealed_seconds", "Age of the oldest unsealed verdict", lambda: {"": sealer.unsealed_s()})
    meter.watch("assay_audit_unpublished_heads", "Heads not published yet", lambda: {"": sealer.unpublished()})
    return meter


def _keys(settings: Settings) -> TrustedKeys:
    if not settings.audit.public_keys:
        raise ConfigurationError("audit.public_keys is empty: name the files of the sealers' public keys")
    return load_public_keys(Path(name) for name in settings.audit.public_keys)


def _published(settings: Settings, keys: TrustedKeys) -> LatestHeads:
    return latest_heads(settings.kafka.client_config(), settings.kafka.topics.audit, keys)


def _kept(path: Path, keys: TrustedKeys) -> LatestHeads:
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise AssayError(f"{path}: {error.strerror}; name a file that `assay audit head` wrote") from error
    latest = LatestHeads(keys)
    for line in lines:
        latest.add(line)
    return latest


def _tell(finding: Finding, as_json: bool) -> None:
    if as_json:
        terminal.print_json_line(
            {"tenant": finding.tenant, "block": finding.block, "entry": finding.entry, "what": finding.what}
        )
    else:
        typer.echo(str(finding))


def _summary(counts: Counts) -> str:
    looked = f"{counts.verdicts} verdicts in {counts.blocks} blocks of {counts.tenants} tenants"
    gone = f"{counts.erased} erased, {counts.dropped} in dropped months"
    return f"{looked}, {gone}: " + (f"{counts.findings} findings" if counts.findings else "the chain verifies")
