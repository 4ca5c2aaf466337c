"""${message}

Revision ID: ${up_revision}
Revises: ${down_revision}
"""

from __future__ import annotations

from migrations.scripts import run

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def upgrade() -> None:
    run("${up_revision}_${message.lower().replace(' ', '_')}.up.sql")


def downgrade() -> None:
    run("${up_revision}_${message.lower().replace(' ', '_')}.down.sql")
