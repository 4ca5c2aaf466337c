"""Quality limits of single views.

Revision ID: 0011
Revises: 0010
"""

from __future__ import annotations

from migrations.scripts import run

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run("0011_view_limits.up.sql")


def downgrade() -> None:
    run("0011_view_limits.down.sql")
