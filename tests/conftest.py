"""Fixtures for every test: the real services (started once), and what isolates one test from the next.

`stack` uses `$ASSAY_DEVSTACK`, else a folder of its own under the repository. Services that somebody holds with
`assay devstack up` are used as they are; otherwise the first session starts them fresh and the last one stops them.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import redis
from databases import database_at, drop, execute
from psycopg import sql

from devstack import Addresses, Devstack

ROOT = Path(__file__).resolve().parent.parent
STATE_DIR = Path(os.environ.get("ASSAY_DEVSTACK") or ROOT / ".devstack" / "tests")
for name in [name for name in os.environ if name.startswith("ASSAY_")]:
    del os.environ[name]  # a developer's own settings must not decide a test, here or in the processes it starts


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "stack" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.services)
        if item.get_closest_marker("gpu") and not has_gpu():
            item.add_marker(pytest.mark.skip(reason="NO GPU on this machine: run it where nvidia-smi finds one"))


@cache
def has_gpu() -> bool:
    program = shutil.which("nvidia-smi")
    return program is not None and b"GPU" in subprocess.run([program, "-L"], capture_output=True, check=False).stdout


@pytest.fixture(scope="session")
def stack() -> Iterator[Addresses]:
    """The addresses of running Kafka, PostgreSQL and (where the machine has it) Redis."""
    with Devstack(STATE_DIR).session() as addresses:
        yield addresses


@pytest.fixture
def topic_prefix() -> str:
    """Put before every topic, group and transactional id of a test, so that no other test shares them."""
    return f"t{uuid.uuid4().hex[:12]}."


@pytest.fixture(scope="session")
def template_database(stack: Addresses) -> Iterator[str]:
    """The name of a migrated database that tests clone; nothing may connect to it meanwhile."""
    name = f"assay_template_{uuid.uuid4().hex[:12]}"
    execute(stack, sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    if importlib.util.find_spec("migrations.apply"):
        from migrations.apply import upgrade  # type: ignore[import-untyped,unused-ignore]

        upgrade(database_at(stack, name))
    yield name
    drop(stack, name)


@pytest.fixture
def database_url(stack: Addresses, template_database: str) -> Iterator[str]:
    """A migrated database of this test's own, as the superuser, as SQLAlchemy reads it."""
    name = f"assay_test_{uuid.uuid4().hex[:12]}"
    query = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy")
    execute(stack, query.format(sql.Identifier(name), sql.Identifier(template_database)))
    yield database_at(stack, name)
    drop(stack, name)


@pytest.fixture
def empty_database_url(stack: Addresses) -> Iterator[str]:
    """An empty database of this test's own, for tests of the migrations themselves."""
    name = f"assay_test_{uuid.uuid4().hex[:12]}"
    execute(stack, sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    yield database_at(stack, name)
    drop(stack, name)


@pytest.fixture
def redis_url(stack: Addresses) -> str:
    """An empty Redis database of this test's own. Channels of pub/sub are common to all: name them after the test."""
    if stack.redis_url is None:
        pytest.skip("NO redis-server on this machine: apt-get install redis-server")
    with redis.Redis.from_url(stack.redis_url) as client:
        last = int(client.config_get("databases")["databases"]) - 1
        index = int(client.incr("tests:databases")) % last + 1
    url = f"{stack.redis_url.rpartition('/')[0]}/{index}"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url
