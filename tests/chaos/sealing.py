"""The audit ledger of a run: sealed while it goes on, as deployed, and verified against the published heads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

from tests.chaos.world import World, environment
from worker.adapters.audit_chain import PostgresChains
from worker.adapters.audit_keys import load_public_keys, make_keys
from worker.adapters.audit_topic import LatestHeads, publish_heads, read_heads
from worker.adapters.audit_verify import Check, Finding, verify
from worker.adapters.database import connect
from worker.audit.sealer import Sealer
from worker.settings import load_settings

INTERVAL_S = 5.0


class Sealing:
    """`start` and `stop` around the run; `findings` after it, with all services up."""

    def __init__(self, world: World, folder: Path) -> None:
        with environment(world.groups[0].environment):
            kafka = load_settings().kafka
        self._client, self._topic = kafka.client_config(), kafka.topics.audit
        self._files = folder / "audit.key", folder / "audit.pub"
        self._database = connect(world.stand.owner_url)
        chains = PostgresChains(database=self._database, signer=make_keys(*self._files))
        self._sealer = Sealer(chains, publish_heads(self._client, self._topic), interval_s=INTERVAL_S)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sealing", daemon=True)
        self.failure: BaseException | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def findings(self) -> Iterator[str]:
        """Seal the rest and verify everything. Raises ServiceUnavailable."""
        self._sealer.round()
        keys = load_public_keys(self._files[1:])
        latest = LatestHeads(keys)
        for message in read_heads(self._client, self._topic):
            latest.add(message)
        found: list[Finding] = []
        counts = verify(self._database, Check(heads=latest.heads, keys=keys), found.append)
        self._database.dispose()
        yield from map(str, found)
        if not counts.verdicts:
            yield "not one verdict was sealed"

    def _run(self) -> None:
        try:
            self._sealer.run(self._stop)
        except BaseException as failure:
            self.failure = failure
