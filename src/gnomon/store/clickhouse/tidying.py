"""What a checkpoint does. What is on the disk is complete without it: it folds, bounds, and removes leftovers.

Compacting makes tables anew that have parts which were replaced, so that no byte of what was deleted stays.
"""

from __future__ import annotations

from gnomon.store import weights
from gnomon.store.aliveness import EVERYBODY, addition, folded
from gnomon.store.clickhouse.address import Address
from gnomon.store.clickhouse.connecting import Connection, Settings
from gnomon.store.clickhouse.ledger import Head, fold_statements
from gnomon.store.clickhouse.tables import BATCHED
from gnomon.store.dialect_clickhouse import spoken
from gnomon.store.incoming import QUARANTINE_ROWS
from gnomon.store.texts import quoted

FOLDED_FROM = 1_000  #: rows of books or weights more than lines or spans: below, folding costs more than it saves
LATE_BATCHES = 10_000  #: a number of a server is forgotten so much later: whatever was under way has landed

_LINES = "SELECT count(), uniqExact(project, kind, source, outcome, reason) FROM books"
_FOLD_BOOKS = [
    "CREATE TEMP TABLE folded_books AS SELECT project, kind, source, outcome, reason, sum(n) AS n FROM books "
    "GROUP BY project, kind, source, outcome, reason",
    "TRUNCATE TABLE books",
    "INSERT INTO books (project, kind, source, outcome, reason, n) "
    "SELECT project, kind, source, outcome, reason, n FROM folded_books",
]


def tidy(con: Connection, settings: Settings, plain: Settings, head: Head, slack_us: int, *, compact: bool,
         address: Address) -> tuple[list[str], list[str]]:  # fmt: skip
    """Remove what is of no use to anybody. Returns the statements of a change that is to follow, and tables that are
    to be made anew with it: a copy has none of the parts that were replaced."""
    _remove_burnt(con, plain, head, embedded=address.path is not None)
    statements: list[str] = []
    ((rows, lines),) = con.run(_LINES, settings).rows
    if rows > lines + FOLDED_FROM:
        statements += _FOLD_BOOKS
    spans = [(project, first, last) for project, first, last in con.run(spoken(EVERYBODY), settings).rows]
    kept = folded(spans, slack_us)
    if len(kept) < len(spans) - FOLDED_FROM // 10:
        statements += ["TRUNCATE TABLE alive", addition(kept)]
    ((rows, joined),) = con.run(spoken(weights.ROWS), settings).rows
    if rows > joined + FOLDED_FROM:
        statements += weights.FOLD_ALL
    ((quarantined,),) = con.run("SELECT count() FROM quarantine", settings).rows
    if quarantined > QUARANTINE_ROWS + FOLDED_FROM:
        oldest = f"SELECT received_at FROM quarantine ORDER BY received_at DESC LIMIT 1 OFFSET {QUARANTINE_ROWS}"
        statements.append(f"DELETE FROM quarantine WHERE received_at <= ({oldest})")
    return statements, _with_leftovers(con, plain, address.database) if compact else []


def _remove_burnt(con: Connection, plain: Settings, head: Head, *, embedded: bool) -> None:
    """Rows of numbers that were given up; and the numbers themselves once nothing of theirs can come any more."""
    if head.burnt:
        numbers = ", ".join(map(str, sorted(head.burnt)))
        for table in BATCHED:
            if con.run(f"SELECT 1 FROM {table} WHERE batch IN ({numbers}) LIMIT 1", plain).rows:
                con.run(f"ALTER TABLE {table} DELETE WHERE batch IN ({numbers})", plain)
    past = head.committed if embedded else head.committed - LATE_BATCHES  # the last number says which one is next
    forget = [number for number in sorted(head.burnt) if number < past]
    statement = fold_statements(head, forget)
    if statement:
        con.run(statement, plain)


def _with_leftovers(con: Connection, plain: Settings, database: str) -> list[str]:
    """Tables that still have parts on the disk which nobody reads any more. ClickHouse removes those when it has
    nothing else to do, which may be in ten minutes."""
    asked = f"SELECT DISTINCT table FROM system.parts WHERE database = {quoted(database)} AND NOT active"
    return [table for (table,) in con.run(asked, plain).rows if table in BATCHED]
