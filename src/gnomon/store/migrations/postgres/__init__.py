"""The schema of PostgreSQL stores as Alembic revisions, each of which runs a numbered SQL file."""
