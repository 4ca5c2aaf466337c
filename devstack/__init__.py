"""Real Kafka, PostgreSQL with pgvector and Redis as local processes, for the demo, tests and laptops.

with Devstack(default_state_dir()).session() as addresses:
    ...
"""

from __future__ import annotations

from devstack.errors import DevstackError, PartMissing, StartFailed, StateBroken
from devstack.java import kafka_tool_command
from devstack.service import Addresses, ServiceStatus
from devstack.stack import Devstack, default_state_dir

__all__ = [
    "Addresses",
    "Devstack",
    "DevstackError",
    "PartMissing",
    "ServiceStatus",
    "StartFailed",
    "StateBroken",
    "default_state_dir",
    "kafka_tool_command",
]
