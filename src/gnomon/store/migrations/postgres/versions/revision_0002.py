"""Ids of samples."""

from __future__ import annotations

from gnomon.store.migrations.postgres.steps import run

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    run("postgres_0002.sql")
