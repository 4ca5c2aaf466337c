"""Runs the SQL file that stands beside a revision. DDL is kept as SQL: it reads as what the database will do, and later
changes of the table modules cannot alter what an old revision did."""

from __future__ import annotations

from pathlib import Path

from alembic import op

VERSIONS = Path(__file__).parent / "versions"


def run(name: str) -> None:
    """Run every statement of versions/`name` in the open transaction."""
    # The raw cursor, without parameters: psycopg then takes many statements and leaves % and : alone.
    cursor = op.get_bind().connection.cursor()
    cursor.execute((VERSIONS / name).read_text(encoding="utf-8"))
    cursor.close()
