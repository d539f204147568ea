"""What every revision does: run one numbered SQL file as it is."""

from __future__ import annotations

from importlib import resources

from alembic import op


def text_of(file: str) -> str:
    """A file of `gnomon.store.migrations`."""
    return resources.files("gnomon.store.migrations").joinpath(file).read_text("utf-8")


def run(file: str) -> None:
    """Run the statements of a file of `gnomon.store.migrations`, in the transaction of the migration."""
    op.get_bind().execution_options(no_parameters=True).exec_driver_sql(text_of(file))
