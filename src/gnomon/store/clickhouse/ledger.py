"""What is committed: the log of states, whose single inserts are what makes a write seen (docs/decisions/0031).

Every write has a number, its batch. Its rows come first, and nobody sees them; then one insert into `state_log` moves
the position, and with it every row of that number is there. A number that failed, or whose writer was lost, is burnt:
its rows are never seen, even those that land later.

A number is decided once: the inserts that commit and that burn it have the same token, so that ClickHouse takes the
first of them and drops what comes later. And only who decided the last number may put rows under the next one: whoever
else wants to write burns it first. So a writer that was overtaken, wherever it was stopped, has rows of a burnt number
only, and its commit is dropped (docs/decisions/0045). Where ClickHouse knows a token and has lost what came with it,
the number is burnt without one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gnomon.errors import StoreUnavailable
from gnomon.store.clickhouse.connecting import Connection, Settings
from gnomon.store.clickhouse.tables import BATCHED, EVERY_ROW

log = logging.getLogger("gnomon.store.clickhouse")

BURNT = "burnt:"
CHANGE, CHANGES, VERSION, WRITER, MARK = "change", "changes", "version", "writer", "mark"
KEPT_NUMBERS = 300  #: superseded values younger than so many batches stay, for questions that began before
FAR = 1_000  #: burnt numbers further apart than that are told apart
READ = "SELECT key, value, batch FROM state_log"


@dataclass(frozen=True)
class Head:
    """One moment of a store: every batch up to `committed` is seen, but for the `burnt` ones."""

    committed: int
    burnt: frozenset[int]
    state: dict[str, str] = field(default_factory=dict)
    rows: int = 0  #: of the log
    authors: dict[int, str] = field(default_factory=dict)  #: who decided a number, of the newest ones

    @property
    def version(self) -> int:
        """The data version, odd while a change is half way in."""
        return int(self.state.get(VERSION, "0")) + (1 if self.pending else 0)

    @property
    def pending(self) -> str:
        """The change that is committed and not yet carried out, as it was noted; empty where there is none."""
        return self.state.get(CHANGE, "")

    @property
    def author(self) -> str:
        """Who decided the last number, and so may use the next one."""
        return self.authors.get(self.committed, "")

    @property
    def changes(self) -> str:
        """What tells whether a change came between two moments."""
        return self.state.get(CHANGES, "0")

    def filters(self, database: str, copy: str = "", copied: Sequence[str] = ()) -> Settings:
        """The setting of a question that sees this moment; also of tables that are `copied` in the database `copy`."""
        seen = f"batch <= {self.committed}"
        if self.burnt:
            seen += f" AND {without(sorted(self.burnt))}"
        tables = [f"{database}.{table}" for table in (*BATCHED, "state_log")] + [f"{copy}.{table}" for table in copied]
        named = ", ".join(f"'{table}': '{seen}'" for table in tables)
        return {"additional_table_filters": f"{{{named}}}"}


def without(burnt: Sequence[int]) -> str:
    """The condition of rows of other batches than the `burnt` ones, in order. It goes into the URL of each question,
    once for each table, so it is made of maps of bits where that is shorter than a list: of processes that write in
    turns every second number of 10,000 may be burnt."""
    runs: list[list[int]] = []
    for number in burnt:
        if not runs or number - runs[-1][-1] > FAR:
            runs.append([])
        runs[-1].append(number)
    return min(_listed(burnt), " AND ".join(min(_listed(run), _mapped(run), key=len) for run in runs), key=len)


def _listed(burnt: Sequence[int]) -> str:
    return f"batch NOT IN ({','.join(map(str, burnt))})"


def _mapped(burnt: Sequence[int]) -> str:
    first = burnt[0]
    words = [0] * ((burnt[-1] - first) // 64 + 1)
    for number in burnt:
        words[(number - first) // 64] |= 1 << (number - first) % 64
    word = f"toUInt64([{','.join(map(str, words))}][intDiv(batch - {first}, 64) + 1])"  # 0 beyond the end
    return f"(batch < {first} OR NOT bitTest({word}, bitAnd(batch - {first}, 63)))"


def head_of(rows: Iterable[tuple[Any, ...]]) -> Head:
    """The moment that a whole log tells of."""
    log = sorted(rows, key=lambda row: row[2])
    burnt = {int(key.removeprefix(BURNT)): value for key, value, _ in log if key.startswith(BURNT)}
    burnt = {number: value for number, value in burnt.items() if value != "0"}  # as versions before took it back
    state = {key: value for key, value, batch in log if batch not in burnt and not key.startswith(BURNT)}
    authors = {batch: value for key, value, batch in log if key == WRITER} | burnt
    return Head(log[-1][2] if log else 0, frozenset(burnt), state, len(log), authors)


def read_head(con: Connection, settings: Settings) -> Head:
    """The newest moment."""
    head = head_of(con.run(READ, {**settings, "additional_table_filters": "{}"}).rows)
    if not head.committed:
        raise StoreUnavailable(
            "the tables of the store are gone or not complete", code="store-foreign",
            remedy="Restore the database, or open the store again to make a new one.",
        )  # fmt: skip
    return head


def put_state(con: Connection, entries: dict[str, str], batch: int, settings: Settings) -> None:
    """Decide a number: one insert of one block, so that all of it is seen at once. Where it was decided before nothing
    happens; look who did."""
    keys = [*entries]
    con.put(
        "state_log",
        [("key", "String", keys), ("value", "String", [entries[key] for key in keys]),
         ("batch", "Int64", [batch] * len(keys))],
        {**settings, "insert_deduplication_token": f"state:{batch}"},
    )  # fmt: skip


def burn_lost(con: Connection, head: Head, number: int, me: str, settings: Settings) -> None:
    """Burn what the log has lost, up to a number at least and to the last one that has rows, though ClickHouse knows
    their tokens: the process was killed between noting a token and its part, or a part is gone. Journals give again
    what they have of it."""
    plain = {**settings, "additional_table_filters": "{}"}
    rows = [con.run(f"SELECT max(batch) FROM {table}", plain).rows[0][0] or 0 for table in BATCHED]
    last = max(number, *rows)
    every_row = {name: value for name, value in EVERY_ROW.items() if name in settings}
    put_state(con, {f"{BURNT}{n}": me for n in range(head.committed + 1, last + 1)}, last, {**settings, **every_row})
    log.error("the log of states has lost the numbers %d to %d; they are given up", head.committed + 1, last)


def fold_statements(head: Head, forget: Sequence[int]) -> str | None:
    """Remove from the log what no question can ask for any more, and burnt numbers whose rows are gone."""
    before = head.committed - KEPT_NUMBERS
    newest = f"SELECT key, max(batch) FROM state_log WHERE batch < {before} GROUP BY key"
    gone = f"batch < {before} AND (key, batch) NOT IN ({newest})"
    if forget:
        numbers = ", ".join(map(str, forget))
        gone = f"({gone}) OR batch IN ({numbers}) OR key IN ({', '.join(repr(f'{BURNT}{n}') for n in forget)})"
    return f"ALTER TABLE state_log DELETE WHERE {gone}" if head.rows > 2 * KEPT_NUMBERS or forget else None
