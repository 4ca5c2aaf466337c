"""Releases of candidate engines, what was compared while they ran, and the golden jobs that are counted apart.

Revision ID: 0008
Revises: 0007
"""

from __future__ import annotations

from migrations.scripts import run

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run("0008_engine_releases.up.sql")


def downgrade() -> None:
    run("0008_engine_releases.down.sql")
