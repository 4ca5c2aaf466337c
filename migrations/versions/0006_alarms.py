"""Alarms over many verdicts: what they are raised on, the watcher's role, and what analysts see of them.

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
    run("0006_alarms.up.sql")


def downgrade() -> None:
    run("0006_alarms.down.sql")
