"""A change: several statements of which all are seen at once, or none (docs/decisions/0031).

The statements run in a database of their own, in which the tables that they change are copies (hard links to the same
parts) and all others are views. One insert into the log of states commits it, with a note of what is to be done; then
each copy changes places with the table it was made from. Whoever opens the store after a crash does what is left.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec

from gnomon.store import Table
from gnomon.store.clickhouse.connecting import FAILED, Connection, Settings
from gnomon.store.clickhouse.faults import DATABASE_EXISTS, code_of
from gnomon.store.clickhouse.ledger import Head
from gnomon.store.clickhouse.mending import carry_over
from gnomon.store.clickhouse.tables import BATCHED, EVERY_ROW
from gnomon.store.dialect_clickhouse import spoken
from gnomon.store.texts import quoted

log = logging.getLogger("gnomon.store.clickhouse")

_FIRST = re.compile(
    r"\s*(?:INSERT\s+INTO|DELETE\s+FROM|UPDATE|TRUNCATE(?:\s+TABLE)?|ALTER\s+TABLE)\s+(\w+)", re.IGNORECASE
)
_TEMPORARY = re.compile(r"\s*CREATE\s+(OR\s+REPLACE\s+)?TEMP(?:ORARY)?\s+TABLE\s+(IF\s+NOT\s+EXISTS\s+)?(\w+)\s*(.*)",
                        re.IGNORECASE | re.DOTALL)  # fmt: skip
_DELETE = re.compile(r"\s*DELETE\s+FROM\s+(\w+)\s+WHERE\s+(.*)", re.IGNORECASE | re.DOTALL)
_UPDATE = re.compile(r"\s*UPDATE\s+(\w+)\s+SET\s+(.*)", re.IGNORECASE | re.DOTALL)
_WORD = re.compile(r"'(?:[^'\\]|\\.|'')*'|\(|\)|,|\bWHERE\b", re.IGNORECASE | re.DOTALL)
_FRESH = "_fresh"  #: behind the name of a table, for the rows that take the place of one partition
MADE = "a change that Gnomon makes"  #: the comment of the database of a change
_PLACES = "SELECT name, comment FROM system.databases WHERE match(name, {})"
#: Of a database without that comment: its tables, those that say that it is a store, those that a change makes.
_HELD = f"""SELECT count(), countIf(name IN ('state_log', 'state_log_1')), countIf(name IN {(*BATCHED, "state")} AND
(endsWith(create_table_query, concat({{view}}, name)) OR position(create_table_query, '`batch` Int64') > 0))
FROM system.tables WHERE database = {{name}}"""


class Change(msgspec.Struct):
    """What is left to be done of a committed change: `tables` with the identity of the copy that takes their place."""

    database: str
    tables: list[tuple[str, str]]


class Changing:
    """One change on one connection."""

    def __init__(self, con: Connection, settings: Settings, head: Head, database: str, batch: int,
                 kinds: dict[str, dict[str, str]]) -> None:  # fmt: skip
        self._con, self._kinds, self._from = con, kinds, database
        self.place = f"{database}_next_{batch}"
        every_row = {name: value for name, value in EVERY_ROW.items() if name in settings}
        self._head, self._plain = head, {**settings, "additional_table_filters": "{}", **every_row}
        self._settings: Settings = {}
        self._touched: list[str] = []

    def run(self, statements: Sequence[str], anew: Sequence[str] = ()) -> list[Table]:
        """Run the statements where nobody sees them; tables may be copied without being changed."""
        self._prepare(statements, anew)
        return [self._one(spoken(statement)) for statement in statements]

    def mend(self, tables: Sequence[str]) -> list[Table]:
        """Copy these tables, and in the copies carry over what can be read of their damaged parts."""
        self._prepare([], tables)
        for table in tables:
            carried, lost = carry_over(self._con, self._settings, {**self._plain, "database": self.place}, table,
                                       [*self._kinds[table]])  # fmt: skip
            log.error("a part of %s was damaged: %d rows carried over, %d lost", table, carried, lost)
        return []

    def noted(self) -> str:
        """What is to be committed: the note of what then has to be done."""
        asked = f"SELECT name, toString(uuid) FROM system.tables WHERE database = {quoted(self.place)}"
        identities = dict(self._con.run(asked, self._plain).rows)
        return msgspec.json.encode(Change(self.place, [(name, identities[name]) for name in self._touched])).decode()

    def entries(self) -> dict[str, str]:
        """What the log of states keeps of a change beside its note."""
        return {}

    def drop(self) -> None:
        """Remove what a change that was not committed has made."""
        with suppress(*FAILED):
            drop_leftovers(self._con, self._plain, self._from, self.place)

    def _take_place(self) -> None:
        """Make the database of the change; where one of its name is somebody else's, its number gets another nought."""
        while True:
            self.drop()
            try:
                self._con.run(f"CREATE DATABASE {self.place} COMMENT {quoted(MADE)}", self._plain)
                return
            except FAILED as error:
                if code_of(error) != DATABASE_EXISTS:
                    raise
            self.place += "0"

    def _prepare(self, statements: Sequence[str], anew: Sequence[str]) -> None:
        self._take_place()
        targets = {*anew, *(found[1] for found in map(_FIRST.match, statements) if found)}
        everything = " ".join(statements)
        for table in (*BATCHED, "state"):
            if table in targets:
                self._con.run(f"CREATE TABLE {self.place}.{table} CLONE AS {self._from}.{table}", self._plain)
                self._touched.append(table)
            elif re.search(rf"\b{table}\b", everything):
                rows = f"SELECT * FROM {self._from}.{table}"
                self._con.run(f"CREATE VIEW {self.place}.{table} AS {rows}", self._plain)
        seen = self._head.filters(self._from, self.place, self._touched)
        self._settings = {**self._plain, **seen, "database": self.place}

    def _one(self, statement: str) -> Table:
        if found := _TEMPORARY.match(statement):
            return self._temporary(*found.groups(""))
        if found := _DELETE.match(statement):
            return self._rewrite(found[1], found[2], {}, deleting=True)
        if found := _UPDATE.match(statement):
            words, condition = set_words(found[2])
            return self._rewrite(found[1], condition, words, deleting=False)
        return self._con.run(statement, self._settings)

    def _temporary(self, replace: str, unless: str, name: str, rest: str) -> Table:
        """A table of this database, which goes with it. Columns of nothing but null become text."""
        definition, rows = ("", rest) if rest[:2].upper() == "AS" else _parted(rest)
        if rows:
            found = self._con.run(f"DESCRIBE TABLE ({rows[2:].strip()})", self._settings).rows
            kinds = [(column, kind.replace("Nothing", "String")) for column, kind, *_ in found]
            definition = f"({', '.join(f'{column} {kind}' for column, kind in kinds)})"
        made = f"CREATE {replace}TABLE {unless}{name} {definition} ENGINE = MergeTree ORDER BY tuple()"
        self._con.run(made, self._settings)
        if not rows:
            return Table([], [])
        return self._con.run(f"INSERT INTO {name} SELECT {_clean(dict(kinds))} FROM ({rows[2:]})", self._settings)

    def _rewrite(self, table: str, condition: str, words: dict[str, str], *, deleting: bool) -> Table:
        """Make the partitions anew that hold rows of a condition. A mutation would keep the text of the condition,
        which may name a person, in a file of its own, and takes no columns that rows are sorted by."""
        con, hit = self._con, f"ifNull(({condition}), false)"
        parts = con.run(f"SELECT DISTINCT _partition_id FROM {table} WHERE {hit}", self._settings).rows
        names = [*self._kinds[table]]
        chosen = ", ".join(
            f"CASE WHEN {hit} THEN {words[name]} ELSE {name} END AS {name}" if name in words else name for name in names
        )
        fresh = table + _FRESH
        for (part,) in parts:
            con.run(f"CREATE TABLE {fresh} AS {table}", self._settings)
            where = f"_partition_id = {quoted(part)}" + (f" AND NOT {hit}" if deleting else "")
            rows = f"SELECT {chosen} FROM {table} WHERE {where}"
            con.run(f"INSERT INTO {fresh} ({', '.join(names)}) SELECT {_clean(self._kinds[table])} FROM ({rows})",
                    self._settings)  # fmt: skip
            left = con.run(f"SELECT count() FROM {fresh}", self._settings).rows[0][0]
            change = (
                f"REPLACE PARTITION ID {quoted(part)} FROM {fresh}" if left else f"DROP PARTITION ID {quoted(part)}"
            )
            con.run(f"ALTER TABLE {table} {change}", self._settings)
            con.run(f"DROP TABLE {fresh} SYNC", self._settings)
        return Table([], [])


def _clean(kinds: dict[str, str]) -> str:
    """Columns without what ClickHouse would write of values that are not there any more: the text below a null, and
    words of a dictionary that no row has."""
    words = []
    for name, kind in kinds.items():
        plain = f"CAST({name} AS {kind[15:-1]})" if kind.startswith("LowCardinality(") else name
        if "Nullable(String)" in kind:
            plain = f"if(isNull({name}), NULL, ifNull({plain}, ''))"
        words.append(f"{plain} AS {name}")
    return ", ".join(words)


def carry_out(con: Connection, settings: Settings, database: str, note: str, check: Callable[[], None]) -> None:
    """Do what is left of a committed change; doing it again changes nothing. `check` raises where another process may
    be doing it: to exchange twice would undo it."""
    change = msgspec.json.decode(note, type=Change)
    plain = {**settings, "additional_table_filters": "{}"}
    for table, identity in change.tables:
        asked = (
            f"SELECT toString(uuid) FROM system.tables WHERE database = {quoted(database)} AND name = {quoted(table)}"
        )
        if con.run(asked, plain).rows != [(identity,)]:
            check()
            con.run(f"EXCHANGE TABLES {database}.{table} AND {change.database}.{table}", plain)


def drop_leftovers(con: Connection, settings: Settings, database: str, only: str | None = None) -> None:
    """Remove the databases of changes, with what they replaced; questions that still read it are waited for. Those of
    others, whatever they are called, are left alone."""
    plain = {**settings, "additional_table_filters": "{}"}
    for name, comment in con.run(_PLACES.format(quoted(f"^{database}_next_[0-9]+$")), plain).rows:
        if only in (None, name) and (comment == MADE or _was_made(con, plain, database, name)):
            con.run(f"DROP DATABASE IF EXISTS {name} SYNC", plain)


def _was_made(con: Connection, plain: Settings, database: str, name: str) -> bool:
    """Whether a database is what a change of a version before left, which made no comment: copies of tables of the
    store, or views of them, or nothing yet. What has a log of states is a store itself."""
    asked = _HELD.format(name=quoted(name), view=quoted(f" AS SELECT * FROM {database}."))
    ((tables, logs, made),) = con.run(asked, plain).rows
    return not logs and bool(made or not tables)


def set_words(text: str) -> tuple[dict[str, str], str]:
    """`a = x, b = y WHERE condition` taken apart: the words by column, and the condition."""
    depth, starts, condition = 0, [0], "true"
    for found in _WORD.finditer(text):
        if found[0] in "()":
            depth += 1 if found[0] == "(" else -1
        elif depth == 0 and found[0] == ",":
            starts.append(found.end())
        elif depth == 0 and found[0].upper() == "WHERE":
            text, condition = text[: found.start()], text[found.end() :]
            break
    pieces = [text[start:end].rstrip(" ,\n") for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]
    return {name.strip(): word.strip() for name, _, word in (piece.partition("=") for piece in pieces)}, condition


def _parted(rest: str) -> tuple[str, str]:
    """`(columns) AS SELECT ...`, of which the second half may be missing."""
    depth = 0
    for place, letter in enumerate(rest):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if depth == 0:
            return rest[: place + 1], rest[place + 1 :].strip()
    return rest, ""
