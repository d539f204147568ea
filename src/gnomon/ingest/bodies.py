"""How the journal holds a batch: JSON, its rows one by one or, where the gate proved them together, by columns.

Columns stand where other rows stand, but as an object: a version that knows only rows stops there, and loses nothing.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from gnomon.errors import StoreUnavailable
from gnomon.event import AT, Batch, Row, Rows

_RECEIVED = AT["received_at"]
_encode = msgspec.json.Encoder().encode


class _Part(msgspec.Struct, array_like=True):
    """So many rows as columns in `ROW` order: a list, null where it is empty, or the one value that all rows have."""

    count: int
    columns: list[Any]


class _Columns(msgspec.Struct, forbid_unknown_fields=True):
    form: Literal[1]
    parts: list[_Part]


class _Body(msgspec.Struct, array_like=True):
    """A `Batch`, in the order of its fields."""

    project: str
    rows: list[Row] | _Columns
    samples: list[Row] = []
    refused: list[list[Any]] = []
    counts: list[list[Any]] = []
    checked_ids: bool = False
    replayed: bool = False
    unused: None = None
    sightings: list[Row] = []
    beats: list[tuple[int, int, bool]] = []


_decode = msgspec.json.Decoder(_Body).decode


def body_of(batch: Batch) -> bytes:
    """A batch as bytes. Raises TypeError for rows with values that no gate let through."""
    rows: Any = batch.rows
    if isinstance(rows, Rows):
        rows = {"form": 1, "parts": [msgspec.Raw(part.encoded or encoded(part)) for part in rows.parts or (rows,)]}
    parts = (batch.project, rows, batch.samples, batch.refused, batch.counts, batch.checked_ids)
    return _encode((*parts, False, None, batch.sightings, batch.beats))


def encoded(rows: Rows) -> bytes:
    """Rows by columns as JSON. Raises ValueError or TypeError for what JSON cannot hold, and for values of subclasses.

    No value is asked whether it equals another, as it may be anybody's.
    """
    columns = [*rows.columns]
    received = columns[_RECEIVED]
    if received is not None and len(rows) and set(map(type, received)) == {int} and len(set(received)) == 1:
        columns[_RECEIVED] = received[0]
    return _encode((len(rows), columns))


def batch_of(body: bytes) -> Batch:
    """The batch that `body_of` made bytes of. Raises `StoreUnavailable` (journal-newer) for a form not known here."""
    try:
        project, rows, *rest = msgspec.structs.astuple(_decode(body))
    except msgspec.ValidationError:
        raise StoreUnavailable("the journal holds a batch in a form that this version does not know",
                               remedy="Open it with the version of Gnomon that wrote it; nothing was changed.",
                               code="journal-newer") from None  # fmt: skip
    return Batch(project, _rows(rows) if isinstance(rows, _Columns) else rows, *rest)


def _rows(columns: _Columns) -> Rows:
    parts = [Rows([one if one is None or isinstance(one, list) else [one] * part.count for one in part.columns],
                  part.count) for part in columns.parts]  # fmt: skip
    return parts[0] if len(parts) == 1 else Rows.of(parts)
