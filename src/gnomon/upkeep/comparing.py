"""Whether two stores hold the same rows: for each table their number, and a hash of their values.

The hash is made here, of values as they travel, so that two databases whose own hashes differ can be compared. It does
not depend on the order of rows, and equal rows do not cancel each other out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b

import msgspec

from gnomon.store import Reading
from gnomon.store.aliveness import folded
from gnomon.store.carrying import TABLES, Carried, Row, slices

_encode = msgspec.msgpack.Encoder().encode
_MOST = 1 << 128

Told = Callable[[str, int], None]  #: told of a table and how many rows more of it were looked at


@dataclass
class Digest:
    """Rows so far, and the sum of their hashes."""

    rows: int = 0
    total: int = 0

    def add(self, rows: Iterable[Row]) -> None:
        """Take in rows."""
        hashes = [int.from_bytes(blake2b(_encode(row), digest_size=16).digest(), "big") for row in rows]
        self.rows += len(hashes)
        self.total = (self.total + sum(hashes)) % _MOST

    @property
    def text(self) -> str:
        """The hash, for people and JSON."""
        return f"{self.total:032x}"


@dataclass(frozen=True)
class Comparison:
    """Rows and hash of each table of source and copy."""

    source: dict[str, tuple[int, str]] = field(default_factory=dict)
    copy: dict[str, tuple[int, str]] = field(default_factory=dict)

    @property
    def differing(self) -> list[str]:
        """The names of tables that are not the same."""
        return [name for name, told in self.source.items() if self.copy.get(name) != told]


def digest(reading: Reading, table: Carried, only: str = "", *, slack_us: int = 0, told: Told | None = None) -> Digest:
    """Rows and hash of a table, or of those rows of it that a condition names."""
    found = Digest()
    if table.key is None:
        found.add(whole(reading, table, slack_us))
        return found
    for statement in _statements(reading, table, only):
        for part in reading.rows(statement):
            found.add(table.alike(part))
            if told is not None:
                told(table.name, len(part))
    return found


def _statements(reading: Reading, table: Carried, only: str) -> Iterator[str]:
    if reading.streams or only:
        yield table.read(only)
        return
    for piece in slices(reading, table, None):
        yield table.read(table.within(piece.after, piece.upto))


def whole(reading: Reading, table: Carried, slack_us: int) -> list[Row]:
    """The rows of a table that is carried whole; spans of heartbeats as a checkpoint would leave them."""
    rows = [row for part in reading.rows(table.read()) for row in part]
    if table.name == "alive":
        rows = [*folded([(project, first, last) for project, first, last in rows], slack_us)]
    return sorted(rows, key=_encode)


def compare(source: Reading, copy: Reading, slack_us: int, told: Told) -> Comparison:
    """Every row of both, read anew; and the number of rows as each database counts it."""
    found = Comparison()
    for table in TABLES.values():
        for reading, sides in ((source, found.source), (copy, found.copy)):
            seen = digest(reading, table, slack_us=slack_us, told=told)
            sides[table.name] = (seen.rows, seen.text)
            if table.key is not None and counted(reading, table) != seen.rows:
                sides[table.name] = (counted(reading, table), "unlike its rows")  # differs from anything
    return found


def counted(reading: Reading, table: Carried, only: str = "") -> int:
    """The number of rows, as the database counts them."""
    return int(next(row[0] for part in reading.rows(table.count(only)) for row in part))
