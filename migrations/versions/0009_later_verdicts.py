"""Later verdicts: who was first with each revision of a job's verdict, and what analysts see of them. A quality limit.

Revision ID: 0009
Revises: 0008
"""

from __future__ import annotations

from migrations.scripts import run

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run("0009_later_verdicts.up.sql")


def downgrade() -> None:
    run("0009_later_verdicts.down.sql")
