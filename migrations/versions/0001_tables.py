"""The tables of first light.

Revision ID: 0001
Revises: none
"""

from __future__ import annotations

from migrations.scripts import run

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    run("0001_tables.up.sql")


def downgrade() -> None:
    run("0001_tables.down.sql")
