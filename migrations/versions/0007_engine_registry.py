"""The index of published engines with their states, and the append-only list of changes that moves them.

Revision ID: 0007
Revises: 0006
"""

from __future__ import annotations

from migrations.scripts import run

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run("0007_engine_registry.up.sql")


def downgrade() -> None:
    run("0007_engine_registry.down.sql")
