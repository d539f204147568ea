"""Rows for tests of the PostgreSQL store; its fixtures are in conftest."""

from __future__ import annotations

from gnomon.config import Settings
from gnomon.event import ROW, Batch

DEFAULTS = Settings(database_connections=3)
NOW = 1_768_478_400_000_000
DAY = 86_400_000_000


def row(id_, ts=NOW, **more):
    values = {"id": id_, "ts": ts, "received_at": NOW, "type": "t", "weight": 1.0, **more}
    return tuple(values.get(name) for name in ROW)


def batch(*rows, **more):
    return Batch("p", rows=list(rows), checked_ids=True, **more)
