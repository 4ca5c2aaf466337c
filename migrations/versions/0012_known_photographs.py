"""Photographs that were seen, once each.

Revision ID: 0012
Revises: 0011
"""

from __future__ import annotations

from migrations.scripts import run

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run("0012_known_photographs.up.sql")


def downgrade() -> None:
    run("0012_known_photographs.down.sql")
