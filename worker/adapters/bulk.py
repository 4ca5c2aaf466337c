"""Writes many rows of a table with one binary COPY."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
from psycopg import sql
from psycopg.types.json import Jsonb
from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql

from worker.adapters.database import driver

Row = Mapping[str, object]

# What SQLAlchemy calls a type, and what COPY needs to know it as.
COPY_TYPES = {
    "TIMESTAMP WITH TIME ZONE": "timestamptz",
    "DOUBLE PRECISION": "float8",
    "INTEGER": "int4",
    "INTEGER[]": "int4[]",
    "BIGINT": "int8",
    "BOOLEAN": "bool",
}
_JSON = json.JSONEncoder(default=float, allow_nan=False)  # json.dumps would make one each time
DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]


@cache
def _types(table: Table, names: tuple[str, ...]) -> list[str]:
    return [_type(table, name) for name in names]


def copy(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Append `rows`, which all have the keys of the first one. No conflict may be possible: the claim saw to that."""
    if not rows:
        return
    names = tuple(rows[0])
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(
        sql.Identifier(table.schema or "", table.name), sql.SQL(", ").join(map(sql.Identifier, names))
    )
    with driver(connection).cursor() as cursor, cursor.copy(statement) as stream:
        stream.set_types(_types(table, names))
        for row in rows:
            stream.write_row(list(row.values()))


def document(value: object) -> Jsonb:
    """A jsonb value. Numbers may be NumPy's; NaN and infinity, which JSON lacks, become null."""
    return Jsonb(value, dumps=_dumps)


def _type(table: Table, name: str) -> str:
    spelled: str = table.c[name].type.compile(dialect=DIALECT)
    return COPY_TYPES.get(spelled, spelled.lower())


def _dumps(value: object) -> str:
    """Hardly any document holds what JSON lacks, so it is looked for only in those that do."""
    try:
        return _JSON.encode(value)
    except ValueError:
        return _JSON.encode(_finite(value))


def _finite(value: object) -> object:
    if isinstance(value, float | np.floating):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
