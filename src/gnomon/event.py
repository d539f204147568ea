"""The event row and the metric sample: their fields, types and limits, for the gate, the journal and every store.

`ROW` is the order in which a row travels from the gate to the store; a store adds what holds for a whole batch
(project, version). Nothing here checks a value: that is the gate's work.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import Any, Literal, TypeAlias, overload

import msgspec

from gnomon.timerange import from_us

Kind: TypeAlias = Literal["text", "integer", "real", "boolean", "time", "json"]

NAME_BYTES = 200
ADDRESS_BYTES = 2_048


@dataclass(frozen=True, slots=True)
class Field:
    """One column of the event row. `low` and `high` are inclusive; `max_bytes` counts UTF-8."""

    name: str
    kind: Kind
    max_bytes: int = NAME_BYTES
    low: float | None = None
    high: float | None = None
    required: bool = False


INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
MOST_DURATION_MS = 10**12  #: 31 years
MOST_WEIGHT = 10**9  #: squares of both, of any number of events, add up within a double

FIELDS: tuple[Field, ...] = (
    Field("id", "text", required=True),
    Field("ts", "time", required=True),
    Field("received_at", "time", required=True),
    Field("type", "text", required=True),
    Field("user_id", "text"),
    Field("device_id", "text"),
    Field("session_id", "text"),
    Field("source", "text"),
    Field("application", "text"),
    Field("domain", "text", max_bytes=ADDRESS_BYTES),
    Field("endpoint", "text", max_bytes=ADDRESS_BYTES),
    Field("method", "text"),
    Field("status_code", "integer", low=100, high=599),
    Field("duration_ms", "real", low=0, high=MOST_DURATION_MS),
    Field("bytes_sent", "integer", low=0, high=INT64_MAX),
    Field("bytes_received", "integer", low=0, high=INT64_MAX),
    Field("success", "boolean"),
    Field("error_code", "text"),
    Field("weight", "real", low=1, high=MOST_WEIGHT, required=True),
    Field("properties", "json"),
)
ROW: tuple[str, ...] = tuple(field.name for field in FIELDS)
AT = {name: index for index, name in enumerate(ROW)}
BY_NAME = {field.name: field for field in FIELDS}

#: What a caller may give; `received_at` is ours, `project` comes from the engine or the token.
GIVEN: tuple[str, ...] = tuple(name for name in ROW if name != "received_at")
#: Names accepted on the wire for older senders.
WIRE_ALIASES = {"src": "source", "payload": "properties"}

SAMPLE_KINDS = ("counter", "gauge", "histogram")
#: The order in which a metric sample travels from the gate to the store.
SAMPLE_ROW: tuple[str, ...] = ("ts", "received_at", "name", "kind", "value", "labels", "id")
SAMPLE_AT = {name: index for index, name in enumerate(SAMPLE_ROW)}

Row: TypeAlias = tuple[Any, ...]


class Rows(Sequence[Row]):
    """Rows of a batch as columns in `ROW` order, None for one that is empty: each column goes its way in one piece.

    Whoever looks at a row has all of them made; they are the same objects every time. Columns must not be changed.
    """

    __slots__ = ("_count", "_made", "columns", "counted", "encoded", "parts")

    def __init__(self, columns: Sequence[Sequence[Any] | None], count: int) -> None:
        self.columns = columns
        self.encoded: bytes | None = None  #: as the journal holds them, where the gate's proof has made it anyway
        self.parts: Sequence[Rows] = ()  #: what it was put together of
        self.counted: Counter[str | None] | None = None  #: see `sources`, where that is known
        self._count = count
        self._made: list[Row] | None = None

    @classmethod
    def of(cls, parts: Sequence[Rows]) -> Rows:
        """Several as one, with the very same rows."""
        columns = [_one_column([part.columns[place] for part in parts], parts) for place in range(len(ROW))]
        found = cls(columns, sum(map(len, parts)))
        found.parts = parts
        return found

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, place: int) -> Row: ...
    @overload
    def __getitem__(self, place: slice) -> list[Row]: ...
    def __getitem__(self, place: int | slice) -> Row | list[Row]:
        return self.made()[place]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.made())

    def __eq__(self, other: object) -> bool:
        return self.made() == [*other] if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self.made())

    def sources(self) -> Counter[str | None]:
        """How many there are of each source; not to be changed."""
        if self.counted is None and self.parts:
            self.counted = sum((part.sources() for part in self.parts), Counter())
        elif self.counted is None:
            self.counted = Counter(column(self, "source"))
        return self.counted

    def made(self) -> list[Row]:
        """The rows as tuples."""
        if self._made is None and self.parts:
            self._made = list(chain.from_iterable(part.made() for part in self.parts))
        elif self._made is None:
            nothing = (None,) * self._count
            self._made = list(zip(*(nothing if one is None else one for one in self.columns), strict=True))
        return self._made


def in_a_row(parts: Sequence[Sequence[Row]]) -> Sequence[Row]:
    """The rows of several batches, the very same objects one after the other; columns stay columns."""
    parts = [part for part in parts if len(part)]
    if len(parts) == 1:
        return parts[0]
    together = [part for part in parts if isinstance(part, Rows)]
    if not parts or len(together) < len(parts):
        return list(chain.from_iterable(parts))
    return Rows.of([one for part in together for one in (part.parts or (part,))])


def _one_column(columns: list[Sequence[Any] | None], parts: Sequence[Rows]) -> list[Any] | None:
    if all(column is None for column in columns):
        return None
    filled = ((None,) * len(part) if one is None else one for one, part in zip(columns, parts, strict=True))
    return list(chain.from_iterable(filled))


def sources_of(rows: Sequence[Row]) -> Counter[str | None]:
    """How many rows there are of each source; not to be changed."""
    return rows.sources() if isinstance(rows, Rows) else Counter(column(rows, "source"))


def column(rows: Sequence[Row], name: str) -> Sequence[Any]:
    """One field of every row."""
    if not isinstance(rows, Rows):
        return list(map(itemgetter(AT[name]), rows))
    found = rows.columns[AT[name]]
    return (None,) * len(rows) if found is None else found


class Batch(msgspec.Struct, array_like=True):
    """What one flush hands over: rows that passed the gate, refusals for the quarantine, and counts for the books.

    `counts` are `[kind, source, outcome, reason, n]` with kind `event` or `sample`; `received` is counted before
    anything is decided; `stored` and `duplicate` are not among them, as only the writer knows those. `refused` are
    `[received_at, code, detail, source, id, text]`. `checked_ids` says that some ids came from outside,
    `replayed` that the batch was read back and may have been stored before. `sightings` are the people of events that
    sampling left out, as `(start of a quarter-hour in us, actor, type, source, application)`. `beats` are spans in
    which somebody was there to record, as `(first us, last us, live)`; those of imported files are not live.
    A sample that an earlier version wrote ends before its id. Rows that the gate proved together are `Rows`.
    """

    project: str
    rows: Sequence[Row] = msgspec.field(default_factory=list)
    samples: list[Row] = msgspec.field(default_factory=list)
    refused: list[list[Any]] = msgspec.field(default_factory=list)
    counts: list[list[Any]] = msgspec.field(default_factory=list)
    checked_ids: bool = False
    replayed: bool = False
    unused: None = None  #: keeps its place, as the journal holds batches by the order of their fields
    sightings: list[Row] = msgspec.field(default_factory=list)
    beats: list[tuple[int, int, bool]] = msgspec.field(default_factory=list)

    @property
    def only_beats(self) -> bool:
        """Whether it holds beats and nothing that an answer could count."""
        return bool(self.beats) and not (self.rows or self.samples or self.refused or self.counts or self.sightings)


def row_text(row: Row) -> str:
    """A row as the JSON that the quarantine shows of an event, of at most 2,000 characters; raises for no row."""
    try:
        told = {name: value for name, value in zip(ROW, row, strict=False) if value is not None}
        for name in ("ts", "received_at"):
            told[name] = from_us(told[name])
        told["properties"] = msgspec.Raw(told.get("properties", "null").encode())
        return msgspec.json.encode(told, enc_hook=repr).decode()[:2_000]
    except Exception:  # noqa: BLE001  it tells of rows that should not have come so far: whatever is wrong with them
        return repr(row)[:2_000]
