"""The event row and the metric sample: their fields, types and limits, for the gate, the journal and every store.

`ROW` is the order in which a row travels from the gate to the store; a store adds what holds for a whole batch
(project, version). Nothing here checks a value: that is the gate's work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import msgspec

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
    Field("duration_ms", "real", low=0),
    Field("bytes_sent", "integer", low=0, high=INT64_MAX),
    Field("bytes_received", "integer", low=0, high=INT64_MAX),
    Field("success", "boolean"),
    Field("error_code", "text"),
    Field("weight", "real", low=1, required=True),
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


class Batch(msgspec.Struct, array_like=True):
    """What one flush hands over: rows that passed the gate, refusals for the quarantine, and counts for the books.

    `counts` are `[kind, source, outcome, reason, n]` with kind `event` or `sample`; `received` is counted before
    anything is decided; `stored` and `duplicate` are not among them, as only the writer knows those. `refused` are
    `[received_at, code, detail, source, id, text]`. `checked_ids` says that some ids came from outside,
    `replayed` that the batch was read back and may have been stored before. `sightings` are the people of events that
    sampling left out, as `(start of a quarter-hour in us, actor, type, source, application)`. `beats` are spans in
    which somebody was there to record, as `(first us, last us, live)`; those of imported files are not live.
    A sample that an earlier version wrote ends before its id.
    """

    project: str
    rows: list[Row] = msgspec.field(default_factory=list)
    samples: list[Row] = msgspec.field(default_factory=list)
    refused: list[list[Any]] = msgspec.field(default_factory=list)
    counts: list[list[Any]] = msgspec.field(default_factory=list)
    checked_ids: bool = False
    replayed: bool = False
    encoded: bytes | None = None  #: `rows` as JSON, from the gate's proof to the journal
    sightings: list[Row] = msgspec.field(default_factory=list)
    beats: list[tuple[int, int, bool]] = msgspec.field(default_factory=list)

    @property
    def only_beats(self) -> bool:
        """Whether it holds beats and nothing that an answer could count."""
        return bool(self.beats) and not (self.rows or self.samples or self.refused or self.counts or self.sightings)
