"""Attempts as rows that last as long as the dangerous step.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

from migrations.scripts import run

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run("0005_attempts.up.sql")


def downgrade() -> None:
    run("0005_attempts.down.sql")
