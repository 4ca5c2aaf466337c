"""The views that analysts read.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

from migrations.scripts import run

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run("0003_analyst_views.up.sql")


def downgrade() -> None:
    run("0003_analyst_views.down.sql")
