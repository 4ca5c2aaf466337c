"""Starts name the engines that they were made with, so that a crash in native code can be told of one of them.

Revision ID: 0010
Revises: 0009
"""

from __future__ import annotations

from migrations.scripts import run

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run("0010_attempt_engines.up.sql")


def downgrade() -> None:
    run("0010_attempt_engines.down.sql")
