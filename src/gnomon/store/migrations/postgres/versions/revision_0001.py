"""The first schema."""

from __future__ import annotations

from gnomon.store.migrations.postgres.steps import run

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    run("postgres_0001.sql")
