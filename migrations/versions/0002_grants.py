"""Who may do what: the grants of each role.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

from migrations.scripts import run

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run("0002_grants.up.sql")


def downgrade() -> None:
    run("0002_grants.down.sql")
