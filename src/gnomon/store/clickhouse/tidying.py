"""What a checkpoint does. What is on the disk is complete without it: it folds, bounds, and removes leftovers.

Compacting waits until the parts that were replaced are gone from the disk, so that no byte of what was deleted stays.
"""

from __future__ import annotations

import time
from typing import Any

from gnomon.errors import StoreUnavailable
from gnomon.store.aliveness import EVERYBODY, addition, folded
from gnomon.store.clickhouse.address import Address
from gnomon.store.clickhouse.connecting import Connection, Settings
from gnomon.store.clickhouse.ledger import Head, fold_statements
from gnomon.store.clickhouse.tables import BATCHED
from gnomon.store.dialect_clickhouse import spoken
from gnomon.store.incoming import QUARANTINE_ROWS
from gnomon.store.texts import quoted

FOLDED_FROM = 1_000  #: rows of the books more than lines, or spans: below, folding costs more than it saves
LATE_BATCHES = 10_000  #: a number of a server is forgotten so much later: whatever was under way has landed
GONE_SECONDS = 60.0
LOOK_SECONDS = 0.1

_LINES = "SELECT count(), uniqExact(project, kind, source, outcome, reason) FROM books"
_FOLD_BOOKS = [
    "CREATE TEMP TABLE folded_books AS SELECT project, kind, source, outcome, reason, sum(n) AS n FROM books "
    "GROUP BY project, kind, source, outcome, reason",
    "TRUNCATE TABLE books",
    "INSERT INTO books (project, kind, source, outcome, reason, n) "
    "SELECT project, kind, source, outcome, reason, n FROM folded_books",
]


def tidy(con: Connection, settings: Settings, plain: Settings, head: Head, slack_us: int, *, compact: bool,
         address: Address) -> list[str]:  # fmt: skip
    """Remove what is of no use to anybody; returns the statements of a change that is to follow."""
    _remove_burnt(con, plain, head, embedded=address.path is not None)
    if compact:
        _wait_for_removal(con, plain, address.database)
    statements: list[str] = []
    ((rows, lines),) = con.run(_LINES, settings).rows
    if rows > lines + FOLDED_FROM:
        statements += _FOLD_BOOKS
    spans = [(project, first, last) for project, first, last in con.run(spoken(EVERYBODY), settings).rows]
    kept = folded(spans, slack_us)
    if len(kept) < len(spans) - FOLDED_FROM // 10:
        statements += ["TRUNCATE TABLE alive", addition(kept)]
    ((quarantined,),) = con.run("SELECT count() FROM quarantine", settings).rows
    if quarantined > QUARANTINE_ROWS + FOLDED_FROM:
        oldest = f"SELECT received_at FROM quarantine ORDER BY received_at DESC LIMIT 1 OFFSET {QUARANTINE_ROWS}"
        statements.append(f"DELETE FROM quarantine WHERE received_at <= ({oldest})")
    return statements


def _remove_burnt(con: Connection, plain: Settings, head: Head, *, embedded: bool) -> None:
    """Rows of numbers that were given up; and the numbers themselves once nothing of theirs can come any more."""
    if head.burnt:
        numbers = ", ".join(map(str, sorted(head.burnt)))
        for table in BATCHED:
            if con.run(f"SELECT 1 FROM {table} WHERE batch IN ({numbers}) LIMIT 1", plain).rows:
                con.run(f"ALTER TABLE {table} DELETE WHERE batch IN ({numbers})", plain)
    forget = [number for number in sorted(head.burnt) if embedded or number < head.committed - LATE_BATCHES]
    statement = fold_statements(head, forget)
    if statement:
        con.run(statement, plain)


def _wait_for_removal(con: Connection, plain: Settings, database: str) -> None:
    """Until no part is on the disk that nobody reads any more; ClickHouse removes them by itself."""
    asked: Any = f"SELECT count() FROM system.parts WHERE database = {quoted(database)} AND NOT active"
    until = time.monotonic() + GONE_SECONDS
    while con.run(asked, plain).rows[0][0]:
        if time.monotonic() > until:
            raise StoreUnavailable(
                "parts that hold deleted values are still on the disk", code="store-not-compacted",
                remedy="End questions that run for minutes, and do it again.",
            )  # fmt: skip
        time.sleep(LOOK_SECONDS)
