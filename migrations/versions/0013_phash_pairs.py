"""Near photographs by pairs of pieces of their hashes.

Revision ID: 0013
Revises: 0012
"""

from __future__ import annotations

from migrations.scripts import run

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run("0013_phash_pairs.up.sql")


def downgrade() -> None:
    run("0013_phash_pairs.down.sql")
