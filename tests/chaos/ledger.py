"""The audit ledger of a run: a sealer that works meanwhile, and an auditor who has what it published (I10)."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from worker.adapters.audit_chain import PostgresChains
from worker.adapters.audit_keys import SealingKey, trusting
from worker.adapters.audit_topic import latest_heads, publish_heads
from worker.adapters.audit_verify import Check, verify
from worker.adapters.database import connect
from worker.audit.sealer import Sealer
from worker.errors import AssayError

INTERVAL_S = 2.0


class Ledger:
    """Seals the database's verdicts with a key of its own and publishes heads to `topic`, from `start` to `stop`."""

    def __init__(self, kafka: Mapping[str, Any], database_url: str, topic: str) -> None:
        self._kafka = kafka
        self._topic = topic
        self._key = SealingKey(Ed25519PrivateKey.generate())
        self._database = connect(database_url, application_name="chaos-ledger")
        self._chains = PostgresChains(database=self._database, signer=self._key, block_entries=500)
        self._sealer = Sealer(self._chains, publish_heads(kafka, topic), interval_s=INTERVAL_S)
        self._stopping = threading.Event()
        self._faults: list[str] = []
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)

    def start(self) -> Ledger:
        self._thread.start()
        return self

    def stop(self) -> None:
        """Seal what is left, with every service up. Raises AssayError where one is away."""
        self._stopping.set()
        self._thread.join()
        while any(self._sealer.round()):
            pass

    def findings(self) -> tuple[str, ...]:
        """What an auditor who has the published heads finds amiss; for `observe`, after `stop`. Raises AssayError."""
        found = list(self._faults)
        keys = trusting(self._key)
        latest = latest_heads(self._kafka, self._topic, keys)
        found += [f"{tenant}: {fault}" for tenant, fault in latest.faults]
        check = Check(heads=latest.heads, keys=keys, grace_s=0.0)
        verify(self._database, check, lambda finding: found.append(str(finding)))
        return tuple(found)

    def close(self) -> None:
        self._database.dispose()
        del self._sealer  # the producer in it ends with its last reference

    def _run(self) -> None:
        try:
            self._sealer.run(self._stopping)
        except AssayError as error:
            self._faults.append(f"the sealer ended: {error}")
