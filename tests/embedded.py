"""The one folder of the embedded ClickHouse of a test process, which can open no second one: stores are databases."""

from __future__ import annotations

import atexit
import functools
import itertools
import tempfile

_NUMBERS = itertools.count()


@functools.cache
def folder() -> str:
    """Where it is; gone when the process ends."""
    made = tempfile.TemporaryDirectory(prefix="gnomon-chdb-", ignore_cleanup_errors=True)
    atexit.register(made.cleanup)
    return f"{made.name}/clickhouse"  # what belongs to a store of it lies beside it


def url(database: str | None = None) -> str:
    """The URL of a store; without a name one that nobody has used."""
    return f"chdb://{folder()}?database={database or f'n{next(_NUMBERS)}'}"
