"""The demo's audit: seals its verdicts as the sealer would, and verifies them against the heads on the topic."""

from __future__ import annotations

from demo.stand import Stand
from worker.adapters.audit_chain import PostgresChains
from worker.adapters.audit_keys import TrustedKeys, load_public_keys, make_keys
from worker.adapters.audit_topic import latest_heads, publish_heads
from worker.adapters.audit_verify import Check, Finding, verify
from worker.adapters.database import connect
from worker.audit.sealer import Sealer
from worker.core.ledger import SignedHead
from worker.settings import Settings


def audited(stand: Stand, settings: Settings) -> str:
    """One line for people: how much was sealed, and whether all of it verifies."""
    files = stand.folder / f"{stand.topic_prefix}key", stand.folder / f"{stand.topic_prefix}pub"
    database = connect(stand.owner_url)
    findings: list[Finding] = []
    try:
        send = publish_heads(settings.kafka.client_config(), settings.kafka.topics.audit)
        Sealer(PostgresChains(database=database, signer=make_keys(*files)), send, interval_s=1.0).round()
        keys = load_public_keys(files[1:])
        counts = verify(database, Check(heads=_published(settings, keys), keys=keys), findings.append)
    finally:
        database.dispose()
    outcome = f"{counts.findings} findings, {findings[0]}" if findings else "the chain verifies"
    return f"audit: {counts.verdicts} verdicts in {counts.blocks} signed blocks, {outcome}"


def _published(settings: Settings, keys: TrustedKeys) -> dict[str, SignedHead]:
    return latest_heads(settings.kafka.client_config(), settings.kafka.topics.audit, keys).heads
