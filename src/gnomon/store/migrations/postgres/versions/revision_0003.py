"""The keys by which copies and backups read."""

from __future__ import annotations

from gnomon.store.migrations.postgres.steps import run

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the indexes."""
    run("postgres_0003.sql")
