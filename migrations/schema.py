"""The metadata that every table hangs on, and the short names its columns are written with.

Table modules: goods (what is compared), jobs (what was answered), operations (what keeps it running). Every column has
a comment: it is the analyst's and the on-call's first documentation, and a test proves that none is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Double,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID
from sqlalchemy.sql.schema import SchemaItem

SCHEMA = "assay"
VIEWS = "analyst"

metadata = MetaData(
    schema=SCHEMA,
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    },
)

BIGINT, BOOLEAN, BYTES, FLOAT, INTEGER, TEXT = BigInteger, Boolean, LargeBinary, Double, Integer, Text
DAY = Date()
TIME = DateTime(timezone=True)
JSON = JSONB(none_as_null=True)
ID = UUID(as_uuid=True)
TEXTS = ARRAY(Text)
INTEGERS = ARRAY(Integer)
NOW = text("now()")
PHASH_PAIRS = text("assay.phash_pairs(phash)")  # pairs of a hash's pieces, which near photographs are found by


def must(name: str, type_: Any, comment: str, *items: SchemaItem, **options: Any) -> Column[Any]:
    """A column that is always set."""
    return Column(name, type_, *items, nullable=False, comment=comment, **options)


def may(name: str, type_: Any, comment: str, *items: SchemaItem, **options: Any) -> Column[Any]:
    """A column that may be null."""
    return Column(name, type_, *items, nullable=True, comment=comment, **options)


def one_of(name: str, column: str, values: Sequence[str]) -> CheckConstraint:
    """A closed set of words, as a check that a later revision can widen without a type change."""
    words = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({words})", name=name)


def table(name: str, comment: str, *items: SchemaItem, partition_by: str | None = None) -> Table:
    options: dict[str, Any] = {"postgresql_partition_by": partition_by} if partition_by else {}
    made: Table = Table(name, metadata, *items, comment=comment, **options)
    return made
