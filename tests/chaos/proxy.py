"""The proxies of the chaos harness and of the fault tests, by one name."""

from __future__ import annotations

from tests.chaos.proxy_kafka import Action, KafkaProxy
from tests.chaos.proxy_postgres import PostgresProxy
from tests.chaos.proxy_tcp import Deed, TcpProxy

__all__ = ["Action", "Deed", "KafkaProxy", "PostgresProxy", "TcpProxy"]
