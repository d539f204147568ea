"""Where Alembic's steps run: on the connection that the store hands over, in the store's own transaction."""

from __future__ import annotations

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    version_table_schema=context.config.attributes["schema"],
    transactional_ddl=True,
)
context.run_migrations()
