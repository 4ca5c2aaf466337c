"""The index of published engines with their states, and the append-only list of changes that moves them.

Revision ID: 0006
Revises: 0005
"""

from __future__ import annotations

from migrations.scripts import run

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run("0006_engine_registry.up.sql")


def downgrade() -> None:
    run("0006_engine_registry.down.sql")
