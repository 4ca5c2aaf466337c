"""A database that many tests of the ledger share, each with a tenant of its own: a clone a test takes seconds."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from databases import database_at, drop, execute
from psycopg import sql

from devstack import Addresses
from worker.adapters.audit_keys import SealingKey

KEY = SealingKey(Ed25519PrivateKey.generate())
_numbers = itertools.count()


def new_tenant() -> str:
    return f"tenant-{next(_numbers)}"


@contextmanager
def one_database(stack: Addresses, template: str) -> Iterator[str]:
    """The URL of a migrated database, as the superuser; dropped at the end."""
    name = f"assay_test_{uuid.uuid4().hex[:12]}"
    make = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy")
    execute(stack, make.format(sql.Identifier(name), sql.Identifier(template)))
    yield database_at(stack, name)
    drop(stack, name)
