"""The audit ledger's writers: what waits to be sealed, records of erasures and dropped months, and the sealer's role.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

from migrations.scripts import run

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run("0004_audit.up.sql")


def downgrade() -> None:
    run("0004_audit.down.sql")
