"""The tables of every store, as they are carried into another one: columns, kinds, slices, and the note of a copy.

All values travel in one form that databases share (see `Kind`), so that the same row of two stores is the same tuple.
A slice is a stretch of a table's key, small enough for one transaction. What is kept in `state` stays behind, but for
the data version: it says where journals are, which a copy begins anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from gnomon.errors import StoreUnavailable
from gnomon.store.texts import quoted
from gnomon.store.weights import JOINED

if TYPE_CHECKING:
    from gnomon.store import Reading, Store

#: How a value travels: a moment as whole UTC microseconds, a UUID and a decimal (of 6 places) as text, lists as lists.
Kind: TypeAlias = Literal["text", "uuid", "time", "integer", "int4", "small", "real", "boolean", "decimal", "integers",
                          "reals"]  # fmt: skip
Row: TypeAlias = tuple[Any, ...]

SLICE_ROWS = 20_000  #: what a writer stores in one transaction as well; rows of one key are never parted
BUCKETS = 1_024  #: how many parts a table, or a crowded part of it, is looked at in
NOTE = "copy"  #: the key of the state that says what this store is a copy of, and how far
_STATE = "SELECT value FROM state WHERE key = {}"


@dataclass(frozen=True)
class Carried:
    """One table. `key` is a column by which it is sliced, None where it is carried whole, being small. Rows of a whole
    table that say the same in several lines are `summed`: by all columns but the last. Spans of weights are joined."""

    name: str
    columns: dict[str, Kind]
    key: str | None
    summed: bool = False

    def read(self, only: str = "") -> str:
        """The statement of rows, in the form in which they travel."""
        words = [_word(name, kind) for name, kind in self.columns.items()]
        where = f" WHERE {only}" if only else ""
        if self.name == "weighted":
            return f"SELECT project, since, until FROM ({JOINED}) AS j{where}"
        if self.summed:
            *rest, last = self.columns
            names = ", ".join(rest)
            return f"SELECT {names}, CAST(sum({last}) AS BIGINT) FROM {self.name}{where} GROUP BY {names}"
        return f"SELECT {', '.join(words)} FROM {self.name}{where}"

    def read_slice(self, after: int | None, upto: int) -> str:
        """The rows of a slice, in the order of the key."""
        return f"{self.read(self.within(after, upto))} ORDER BY {self.key}"

    def within(self, after: int | None, upto: int | None) -> str:
        """The condition of a slice: behind `after`, up to and with `upto`; None is without an end."""
        assert self.key is not None
        ends = [(">", after), ("<=", upto)]
        return " AND ".join(f"{self.key} {sign} {self._literal(end)}" for sign, end in ends if end is not None)

    def delete(self, only: str = "") -> str:
        """The statement that takes rows away."""
        return f"DELETE FROM {self.name}{f' WHERE {only}' if only else ''}"

    def count(self, only: str = "") -> str:
        """How many rows there are."""
        return f"SELECT count(*) FROM {self.name}{f' WHERE {only}' if only else ''}"

    def bounds(self, after: int | None) -> str:
        """The first and last key behind `after`, and the number of rows there."""
        number = self._number
        where = f" WHERE {self.within(after, None)}" if after is not None else ""
        return f"SELECT min({number}), max({number}), count(*) FROM {self.name}{where}"

    def histogram(self, first: int, last: int, width: int) -> str:
        """How many rows lie in each part of that width, from `first` on."""
        return (f"SELECT divide({self._number} - {first}, {width}) AS part, count(*) FROM {self.name} "
                f"WHERE {self.within(first - 1, last)} GROUP BY 1 ORDER BY 1")  # fmt: skip

    @property
    def _number(self) -> str:
        assert self.key is not None
        return f"epoch_us({self.key})" if self.columns[self.key] == "time" else self.key

    def alike(self, rows: list[Row]) -> list[Row]:
        """The same rows with lists as `listed`, and decimals without the zeros at their end."""
        places = [(place, _ALIKE[kind]) for place, kind in enumerate(self.columns.values()) if kind in _ALIKE]
        if not places:
            return rows
        return [_changed(row, places) for row in rows]

    def _literal(self, value: int) -> str:
        assert self.key is not None
        return f"make_timestamp({value})" if self.columns[self.key] == "time" else str(value)


def listed(values: list[Any] | None) -> list[Any] | None:
    """A list as stores keep it: none where it is empty, as not every database tells the two apart."""
    return values or None


def _shortest(decimal: str | None) -> str | None:
    return decimal.rstrip("0").rstrip(".") if decimal is not None and "." in decimal else decimal


_ALIKE: dict[Kind, Callable[[Any], Any]] = {"integers": listed, "reals": listed, "decimal": _shortest}


def _changed(row: Row, places: Sequence[tuple[int, Callable[[Any], Any]]]) -> Row:
    values = list(row)
    for place, to in places:
        values[place] = to(values[place])
    return tuple(values)


def _word(name: str, kind: Kind) -> str:
    if kind == "time":
        return f"epoch_us({name})"
    return f"CAST({name} AS VARCHAR)" if kind in ("uuid", "decimal") else name


def _table(name: str, key: str | None, *runs: str, summed: bool = False) -> Carried:
    """Each of `runs` is a kind and the columns of it that stand side by side."""
    columns: dict[str, Kind] = {}
    for run in runs:
        kind, _, names = run.partition(": ")
        columns |= dict.fromkeys(names.split(), kind)  # type: ignore[arg-type]
    return Carried(name, columns, key, summed)


def _measure(name: str, total: str, ends: str) -> list[str]:
    return [f"real: {name}_has", f"{total}: {name}_sum", f"{ends}: {name}_min {name}_max",
            f"real: {name}_v0 {name}_v1 {name}_v2"]  # fmt: skip


#: In the order in which they are carried; columns in the order of the embedded store.
TABLES = {
    table.name: table
    for table in (
        _table("events", "version", "text: project", "uuid: id", "text: id_text", "time: ts received_at",
               "integer: version", "text: type user_id device_id session_id source application domain endpoint method",
               "small: status_code", "real: duration_ms", "integer: bytes_sent bytes_received", "boolean: success",
               "text: error_code", "real: weight", "text: properties"),
        _table("samples", "version", "text: project", "time: ts received_at", "integer: version", "text: name kind",
               "real: value", "text: labels id"),
        _table("sightings", "version", "text: project", "integer: version", "time: ts",
               "text: actor type source application"),
        _table("rolled", "ts", "text: project rollup tier", "time: ts",
               "text: type source application domain endpoint method", "small: status_code", "boolean: success",
               "text: error_code", "real: n v", *_measure("duration_ms", "real", "real"),
               *_measure("bytes_sent", "decimal", "integer"), *_measure("bytes_received", "decimal", "integer"),
               "integers: duration_ms_at", "reals: duration_ms_w"),
        _table("people", "number", "text: project", "integer: number", "text: actor"),
        _table("activity", "day", "text: project", "int4: day", "integer: person", "text: type source application",
               "real: weight", "integer: low high"),
        _table("active_days", "day", "text: project", "int4: day", "integer: person", "real: weight",
               "integer: low high"),
        _table("quarantine", "received_at", "text: project", "time: received_at", "text: code detail source id event"),
        _table("books", None, "text: project kind source outcome reason", "integer: n", summed=True),
        _table("rolled_up", None, "text: project", "time: until", "integer: version width", "text: dimensions zones"),
        _table("pruned", None, "text: project kind type", "time: before"),
        _table("weighted", None, "text: project", "time: first_ts last_ts"),
        _table("alive", None, "text: project", "time: first last"),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Slice:
    """A stretch of the key of a table: behind `after` (None: from the very first), up to and with `upto`."""

    after: int | None
    upto: int
    rows: int


def slices(reading: Reading, table: Carried, after: int | None) -> Iterator[Slice]:
    """The slices of what lies behind `after`, in order; each has rows, and nothing lies between them."""
    ((first, last, rows),) = [row for part in reading.rows(table.bounds(after)) for row in part]
    if not rows:
        return
    gathered, upto = 0, first
    for end, found in _parts(reading, table, first, last, rows):
        if gathered and gathered + found > SLICE_ROWS:
            yield Slice(after, upto, gathered)
            after, gathered = upto, 0
        gathered, upto = gathered + found, end
    yield Slice(after, upto, gathered)


def _parts(reading: Reading, table: Carried, first: int, last: int, rows: int) -> Iterator[tuple[int, int]]:
    """`(end, rows)` of parts that are small, or of one key."""
    if rows <= SLICE_ROWS or first == last:
        yield last, rows
        return
    width = (last - first) // BUCKETS + 1
    found = [row for part in reading.rows(table.histogram(first, last, width)) for row in part]
    for place, held in found:
        start = first + int(place) * width
        yield from _parts(reading, table, start, min(last, start + width - 1), held)


class CopyNote(msgspec.Struct):
    """What a store is a copy of: which source, of which data version, up to which key each table is there.

    `journals` is how many journals the finished copy knew: one more, and somebody has written into it.
    """

    source: str
    version: int
    release: str
    tables: dict[str, int] = {}
    done: bool = False
    finished_us: int = 0
    journals: int = 0


def put_note(note: CopyNote) -> dict[str, str | None]:
    """What keeps a note in the state."""
    return {NOTE: msgspec.json.encode(note).decode()}


def note_of(store: Store) -> CopyNote | None:
    """What a store is a copy of; None where it is none."""
    rows = store.ask([_STATE.format(quoted(NOTE))], 60.0)[0].rows
    return msgspec.json.decode(str(rows[0][0]), type=CopyNote) if rows and rows[0][0] else None


def finished(note: str | None) -> bool:
    """Whether a note, as it is kept, lets the store be used."""
    return not note or msgspec.json.decode(note, type=CopyNote).done


def unfinished_copy() -> StoreUnavailable:
    """Why a store cannot be used yet."""
    return StoreUnavailable(
        "the store is a copy that is not finished", code="unfinished-copy",
        remedy="Run the same `gnomon copy` or `gnomon restore` again, and it goes on; or remove the store.",
    )  # fmt: skip


def version_of(reading: Reading) -> int:
    """The data version of the moment that is read."""
    return int(next((row[0] for part in reading.rows(_STATE.format("'version'")) for row in part), 0))


def kept_version(store: Store) -> int:
    """The data version as the store keeps it."""
    rows = store.ask([_STATE.format("'version'")], 60.0)[0].rows
    return int(rows[0][0]) if rows else 0


def journals_of(store: Store) -> int:
    """How many journals have written into a store."""
    return int(store.ask(["SELECT count(*) FROM state WHERE key LIKE 'journal:%'"], 60.0)[0].rows[0][0])


def rows_of(store: Store, tables: Sequence[Carried] = tuple(TABLES.values())) -> dict[str, int]:
    """How many rows each table has."""
    found = store.ask([table.count() for table in tables], 3_600.0)
    return {table.name: int(told.rows[0][0]) for table, told in zip(tables, found, strict=True)}
