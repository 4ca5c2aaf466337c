"""Databases of the test server, made and dropped as its superuser."""

from __future__ import annotations

import psycopg
from psycopg import sql
from sqlalchemy import make_url

from devstack import Addresses


def database_at(stack: Addresses, name: str) -> str:
    return make_url(stack.superuser_url).set(database=name).render_as_string(hide_password=False)


def execute(stack: Addresses, statement: sql.SQL | sql.Composed) -> None:
    plain = make_url(stack.superuser_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(statement)


def drop(stack: Addresses, name: str) -> None:
    execute(stack, sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
