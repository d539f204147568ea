"""Files to candidate events: which column is which field, what a time or a number in text means, and the ids.

Owns names, aliases, mapping, conversion and ids; `formats` owns how bytes become rows, the gate every limit and type.
An event without an id of its own gets one from its content and from how often that content came before in the same
file. So a file imported twice adds nothing, two equal lines of one file are two events, and a rotated log that
overlaps an older one adds its new lines only. Name, compression, chunks, line ends, mapping and, for equal texts, the
format have no part in an id. The price: equal lines of two different files are taken for one event. Counting is exact
at any size; beyond 250,000 different lines the counts move from memory to a temporary file (40 to 100 bytes a line).
"""

from __future__ import annotations

import mmap
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from hashlib import blake2b
from math import isfinite
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from gnomon.errors import DiskFull, InvalidValue, unknown_name
from gnomon.event import BY_NAME, GIVEN, INT64_MAX, INT64_MIN
from gnomon.ingest.formats import (
    FORMATS,
    UNREADABLE,
    BadLine,
    LineFault,
    ParquetRows,
    Source,
    bad_line,
    csv_rows,
    detect_format,
    json_object,
    lines,
    log_fields,
)
from gnomon.timerange import load_zone

__all__ = ["BadLine", "Candidate", "Progress", "detect_format", "read_file"]

_ALIASES: dict[str, tuple[str, ...]] = {
    "ts": ("timestamp", "time", "date", "datetime", "created_at"),
    "type": ("event", "event_type", "name", "event_name"),
    "user_id": ("user", "userid", "uid", "customer_id"),
    "status_code": ("status", "http_status"),
    "duration_ms": ("duration", "response_time_ms", "latency_ms"),
    "source": ("src",),
    "endpoint": ("path", "url_path"),
    "domain": ("host",),
    "application": ("app",),
    "error_code": ("error",),
    "properties": ("payload",),
}
_WIRE_ALIASES: dict[str, tuple[str, ...]] = {"source": ("src",), "properties": ("payload",), "ts": ("timestamp",)}
_CHUNK_BYTES = 16 << 20  # a chunk of long lines ends early, so that memory does not hang on their length
_SPILL_AT = 250_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a line says, under the names of the event row; the gate decides whether it becomes an event.

    `ts` is UTC microseconds (int), an aware datetime, or text as it stood in the file.
    """

    line: int
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a file was read, in bytes as stored (of the compressed file) and in lines."""

    bytes_done: int
    bytes_total: int
    lines: int


Item = Candidate | BadLine


# --- ids


class _Occurrences:
    """How often each content was met before: in a dict, then in an open-addressed table in a temporary file."""

    _SLOT = 24  # 16 bytes of digest, 8 of count

    def __init__(self, spill_at: int = _SPILL_AT) -> None:
        self._few: dict[bytes, int] = {}
        self._spill_at = spill_at
        self._table: mmap.mmap | None = None
        self._slots = 0
        self._used = 0

    def id_of(self, content: bytes) -> str:
        digest = blake2b(content, digest_size=16).digest()
        before = self._count(digest)
        if before:
            digest = blake2b(digest + before.to_bytes(8, "big"), digest_size=16, person=b"gnomon.repeat").digest()
        return "i" + digest.hex()

    def _count(self, digest: bytes) -> int:
        if self._table is not None:
            return self._count_on_disk(self._table, digest, 1)
        before = self._few.get(digest, 0)
        self._few[digest] = before + 1
        if len(self._few) > self._spill_at:
            self._move(self._few.items())
            self._few = {}
        return before

    def _count_on_disk(self, table: mmap.mmap, digest: bytes, more: int) -> int:
        mask = self._slots - 1
        slot = int.from_bytes(digest[:8], "big") & mask
        while True:
            at = slot * self._SLOT
            before = int.from_bytes(table[at + 16 : at + 24], "big")
            if not before or table[at : at + 16] == digest:
                break
            slot = (slot + 1) & mask
        table[at : at + 24] = digest + (before + more).to_bytes(8, "big")
        if not before:
            self._used += 1
            if self._used * 5 > self._slots * 3:
                self._move(self._entries(table))
                table.close()
        return before

    def _entries(self, table: mmap.mmap) -> Iterator[tuple[bytes, int]]:
        for at in range(0, self._slots * self._SLOT, self._SLOT):
            if count := int.from_bytes(table[at + 16 : at + 24], "big"):
                yield table[at : at + 16], count

    def _move(self, entries: Iterable[tuple[bytes, int]]) -> None:
        """Puts all counts into a new table that they fill to a quarter or a half."""
        slots = 1 << (max(self._used, len(self._few)) * 2).bit_length()
        table = _zeroed(slots * self._SLOT)
        moved = _Occurrences()
        moved._slots = slots
        for digest, count in entries:
            moved._count_on_disk(table, digest, count)
        self._table, self._slots, self._used = table, slots, moved._used

    def close(self) -> None:
        if self._table is not None:
            self._table.close()


def _zeroed(size: int) -> mmap.mmap:
    """A mapped temporary file of zeros; they are written out, as a disk that fills up later would kill the process."""
    block = bytes(1 << 20)
    try:
        with tempfile.TemporaryFile() as file:
            for start in range(0, size, len(block)):
                file.write(block[: size - start])
            file.flush()
            return mmap.mmap(file.fileno(), size)
    except OSError as error:
        remedy = "Free some room, or set TMPDIR to a directory that has it."
        raise DiskFull("the temporary file of the import could not be extended", remedy=remedy) from error


def _content(names: Sequence[str], values: Sequence[Any]) -> bytes:
    """One byte string for equal names and values, whatever their order, quoting, format or line ends."""
    texts = {name: _text(value) for name, value in zip(names, values, strict=True) if value is not None and value != ""}
    return msgspec.json.encode(texts, order="sorted").replace(rb"\r\n", rb"\n")


def _text(value: Any) -> str:
    if type(value) is str:
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float | Decimal):
        return str(value)
    return msgspec.json.encode(_json_value(value), order="sorted").decode()


# --- values

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*+)(\.[0-9]++)?([eE][+-]?[0-9]++)?")
_INTEGER = re.compile(r"(-?[0-9]{1,19})(?:\.0*)?")
_UNIX = re.compile(r"([0-9]{10})(?:\.([0-9]{1,9}))?|([0-9]{13})|([0-9]{16})")
_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def _number_or_text(text: str) -> Any:
    """A number where the text is one as JSON writes it and nothing is lost to size; else the text."""
    if text[0] not in "-0123456789":
        return text
    match = _NUMBER.fullmatch(text)
    if match is None:
        return text
    if match[1] is None and match[2] is None:
        return whole if len(text) < 21 and INT64_MIN <= (whole := int(text)) <= INT64_MAX else text
    return found if isfinite(found := float(text)) else text


def _integer(value: Any) -> Any:
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    match = _INTEGER.fullmatch(value.strip()) if isinstance(value, str) else None
    return int(match[1]) if match else value


def _float(value: Any) -> Any:
    if isinstance(value, str):
        found = _number_or_text(value.strip() or value)
        return value if isinstance(found, str) else float(found)
    return float(value) if type(value) is int else value


def _truth(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    return _TRUTH.get(str(value).strip().lower(), value) if isinstance(value, str | int) else value


def _name(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _object(value: Any) -> Any:
    return json_object(value.encode()) if isinstance(value, str) else value


def _moment(value: Any, zone: ZoneInfo | None) -> Any:
    """UTC microseconds of Unix or zoneless time; what names its own zone, or is no time at all, stays as it is."""
    if isinstance(value, bool | int | float):
        value = str(value)  # a bare number would be taken for microseconds behind the gate
    if isinstance(value, str):
        text = value.strip()
        if match := _UNIX.fullmatch(text):
            seconds, fraction, milli, micro = match.groups()
            if seconds:
                return int(seconds) * 1_000_000 + int((fraction or "").ljust(6, "0")[:6])
            return int(milli) * 1_000 if milli else int(micro)
        try:
            value = datetime.fromisoformat(text)
        except ValueError:
            return text
        if value.tzinfo is not None:
            return text
    elif isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time())
    return _zoned(value, zone) if isinstance(value, datetime) and value.tzinfo is None else value


def _zoned(wall: datetime, zone: ZoneInfo | None) -> int:
    if zone is None:
        raise LineFault("naive-time", "the time names no zone; say which is meant with timezone= (or --timezone)")
    return (wall.replace(tzinfo=zone) - _EPOCH) // _MICROSECOND


def _json_value(value: Any) -> Any:
    """A Parquet value as JSON can hold it; NaN is null, a decimal a number only if all its digits survive."""
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return None if value != value else value
    if isinstance(value, Decimal):
        return number if Decimal(repr(number := float(value))) == value else str(value)
    if isinstance(value, dict):
        return {str(key): _json_value(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(part) for part in value]
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    raise LineFault("bad-line", "a column holds bytes or a value that JSON cannot hold")


# --- columns to fields

_CONVERT: dict[str, Callable[[Any], Any]] = {
    "text": _name,
    "integer": _integer,
    "real": _float,
    "boolean": _truth,
    "json": _object,
    "time": str,
}
_FIELDS = {name: _CONVERT[BY_NAME[name].kind] for name in GIVEN}


@dataclass(slots=True)
class _Plan:
    """What the caller said about a whole file: columns by name, constants, zone; and the ids given so far."""

    kind: str
    zone: ZoneInfo | None
    columns: dict[str, str] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)
    ids: _Occurrences = field(default_factory=_Occurrences)

    def folded(self, name: str) -> str:
        return name if self.kind == "ndjson" else name.strip().lower().replace(" ", "_").replace("-", "_")

    def convert(self, target: str) -> Callable[[Any], Any]:
        if target == "ts":
            return lambda value: _moment(value if isinstance(value, date) else _json_value(value), self.zone)
        if self.kind == "ndjson" and target != "properties":
            return lambda value: value
        if target in _FIELDS:
            after = _FIELDS[target]
            return (lambda value: after(_json_value(value))) if self.kind == "parquet" else after
        return _json_value if self.kind == "parquet" else _number_or_text


def _known_target(target: str) -> str:
    if target not in _FIELDS and not (target.startswith("properties.") and len(target) > len("properties.")):
        raise unknown_name("field", target, [*_FIELDS, "properties.<key>"])
    return target


def _plan(kind: str, mapping: Mapping[str, str] | None, timezone: str | None) -> _Plan:
    if kind not in FORMATS:
        raise unknown_name("format", kind, FORMATS)
    plan = _Plan(kind, load_zone(timezone) if timezone is not None else None)
    for name, target in (mapping or {}).items():
        if target.startswith("="):
            plan.constants[_known_target(name)] = _constant(plan, name, target[1:])
        elif kind == "combined":
            remedy = 'Only constants, such as {"source": "=web"}, can be given.'
            raise InvalidValue("an access log has no columns to map", code="bad-mapping", remedy=remedy)
        else:
            plan.columns[plan.folded(name)] = target and _known_target(target)
    return plan


def _constant(plan: _Plan, target: str, text: str) -> Any:
    if not text or target == "id":
        remedy = 'Write "=value" with a value, and map a column to the id or let it be derived.'
        raise InvalidValue("a constant is empty, or would give all events one id", code="bad-mapping", remedy=remedy)
    try:
        if target == "ts":
            return _moment(text, plan.zone)
        return _FIELDS[target](text) if target in _FIELDS else _number_or_text(text)
    except LineFault as fault:
        raise InvalidValue(fault.reason, code="bad-mapping", remedy="Correct the constant in the mapping.") from fault


class _Shape:
    """Where each column of one header goes: as mapped, else by its exact name, else by an alias, else a property."""

    def __init__(self, header: Sequence[str], plan: _Plan) -> None:
        self._plan = plan
        self._names = list(header)
        self._ids = plan.ids
        targets = self._targets([plan.folded(name) for name in header])
        self._fields = [(at, to, plan.convert(to)) for at, to in enumerate(targets) if to in _FIELDS]
        self._extras = [(at, to[11:]) for at, to in enumerate(targets) if to not in _FIELDS and to]
        self._extra = plan.convert("properties.")
        self._blank = None if plan.kind == "ndjson" else ""
        self._start = {name: value for name, value in plan.constants.items() if name in _FIELDS}
        self._more = {name[11:]: value for name, value in plan.constants.items() if name not in _FIELDS}
        if plan.kind != "ndjson" and "type" not in targets:
            self._start.setdefault("type", "event")

    def _targets(self, folded: list[str]) -> list[str]:
        columns = self._plan.columns
        if self._plan.kind != "ndjson":
            for name in columns.keys() - set(folded):
                raise unknown_name("column", name, folded)
        found: dict[int, str] = {at: columns[name] for at, name in enumerate(folded) if name in columns}
        aliases = _WIRE_ALIASES if self._plan.kind == "ndjson" else _ALIASES
        for target in _FIELDS:
            if target in found.values():
                continue
            for name in (target, *aliases.get(target, ())):
                if name in folded and (at := folded.index(name)) not in found:
                    found[at] = target
                    break
        targets = [found[at] if at in found else self._property(at) for at in range(len(folded))]
        used = [target for target in targets if target]
        if len(set(used)) < len(used) or len(set(self._names)) < len(self._names):
            remedy = 'Rename one of them, or map one of them to something else (to "" to leave it out).'
            raise InvalidValue("two columns have one name or fill one field", code="duplicate-column", remedy=remedy)
        return ["" if target in self._plan.constants else target for target in targets]

    def _property(self, at: int) -> str:
        name = self._names[at].strip() if self._plan.kind != "ndjson" else self._names[at]
        return name if name.startswith("properties.") and len(name) > 11 else f"properties.{name or f'column_{at + 1}'}"

    def candidate(self, line: int, values: Sequence[Any]) -> Candidate:
        fields = dict(self._start)
        for at, name, convert in self._fields:
            value = values[at]
            if value is not None and value != self._blank and (value := convert(value)) is not None:
                fields[name] = value
        properties = self._properties(fields.pop("properties", None), values)
        if "id" not in fields:
            fields["id"] = self._ids.id_of(_content(self._names, values))
        fields["properties"] = properties
        return Candidate(line, fields)

    def _properties(self, given: Any, values: Sequence[Any]) -> dict[str, Any]:
        if given is not None and type(given) is not dict:
            raise LineFault("bad-line", "the properties are not a JSON object")
        properties: dict[str, Any] = {**(given or {}), **self._more}
        for at, key in self._extras:
            value = values[at]
            if self._blank is not None and (value is None or value == "" or (value := self._extra(value)) is None):
                continue
            if key in properties:
                raise LineFault("bad-line", "a property is given twice")
            properties[key] = value
        return properties


# --- files


def _log_items(source: Source, plan: _Plan) -> Iterator[Item]:
    id_of = plan.ids.id_of
    for number, data, code in lines(source):
        try:
            if code:
                raise LineFault(code)
            data = data.removesuffix(b"\r")
            text = data.decode()
            if not text or text.isspace():
                continue
            fields = log_fields(text)
            fields["id"] = id_of(data)
            if plan.constants:
                _add_constants(fields, plan.constants)
            yield Candidate(number, fields)
        except UnicodeDecodeError:
            yield bad_line(number, LineFault("bad-encoding"), data)
        except LineFault as fault:
            yield bad_line(number, fault, data)


def _add_constants(fields: dict[str, Any], constants: dict[str, Any]) -> None:
    for name, value in constants.items():
        if name == "properties":
            fields[name] = {**fields[name], **value}
        elif name in _FIELDS:
            fields[name] = value
        else:
            fields["properties"][name[11:]] = value


def _ndjson_items(source: Source, plan: _Plan) -> Iterator[Item]:
    shapes: dict[tuple[str, ...], _Shape] = {}
    for number, data, code in lines(source):
        try:
            if code:
                raise LineFault(code)
            if not data or data.isspace():
                continue
            found = json_object(data)
            names = tuple(found)
            if (shape := shapes.get(names)) is None:
                if len(shapes) >= 1_000:
                    shapes.clear()
                shape = shapes[names] = _Shape(names, plan)
            yield _candidate(shape, number, list(found.values()))
        except LineFault as fault:
            yield bad_line(number, fault, data)
        except InvalidValue as error:
            yield bad_line(number, LineFault("bad-line", error.message), data)


def _candidate(shape: _Shape, number: int, values: Sequence[Any]) -> Candidate:
    try:
        return shape.candidate(number, values)
    except (ValueError, OverflowError, RecursionError) as error:
        raise LineFault("bad-line", "a value is too large or nested too deeply") from error


def _row_items(rows: Iterable[tuple[int, Sequence[Any]] | BadLine], shape: _Shape) -> Iterator[Item]:
    for row in rows:
        if isinstance(row, BadLine):
            yield row
            continue
        try:
            yield _candidate(shape, *row)
        except LineFault as fault:
            shown = ",".join("" if value is None or value is UNREADABLE else str(value) for value in row[1])
            yield bad_line(row[0], fault, shown.encode("utf-8", "replace"))


def _csv_items(source: Source, plan: _Plan) -> Iterator[Item]:
    rows = csv_rows(source)
    header = next(rows, None)
    if isinstance(header, tuple):
        yield from _row_items(rows, _Shape([name.strip() for name in header[1]], plan))
    elif isinstance(header, BadLine) and header.code == "truncated-file":
        yield header
    elif header is not None:
        remedy = "Correct the first line, or name the true format with format=."
        raise InvalidValue(f"the header cannot be read: {header.reason}", code=header.code, remedy=remedy)


def _parquet_items(source: ParquetRows, plan: _Plan) -> Iterator[Item]:
    if source.damaged:
        plan.columns.clear()
    yield from _row_items(source, _Shape(source.header, plan))


def _items(source: Source | ParquetRows, plan: _Plan) -> Iterator[Item]:
    if isinstance(source, ParquetRows):
        return _parquet_items(source, plan)
    return {"combined": _log_items, "csv": _csv_items, "ndjson": _ndjson_items}[plan.kind](source, plan)


def _chunks(path: Path, plan: _Plan, chunk: int, tell: Callable[[Progress], None]) -> Iterator[list[Item]]:
    source = ParquetRows(path, chunk) if plan.kind == "parquet" else Source(path)
    with closing(source), closing(plan.ids):
        ready: list[Item] = []
        yielded, last = 0, 0
        for item in _items(source, plan):
            ready.append(item)
            if len(ready) >= chunk or source.unpacked - yielded > _CHUNK_BYTES:
                yielded, last = source.unpacked, item.line
                tell(Progress(source.bytes_done, source.bytes_total, last))
                yield ready
                ready = []
        tell(Progress(source.bytes_done, source.bytes_total, ready[-1].line if ready else last))
        if ready:
            yield ready


def read_file(
    path: Path,
    *,
    format: str | None = None,
    mapping: Mapping[str, str] | None = None,
    timezone: str | None = None,
    chunk: int = 5_000,
    on_progress: Callable[[Progress], None] | None = None,
) -> Iterator[list[Candidate | BadLine]]:
    """The candidates and bad lines of a file, in its order, at most `chunk` at a time.

    `mapping` is column -> field, `properties.<key>` or "" (leave out), or field -> "=constant". `timezone` is the
    IANA zone of times that name none; without it they are bad lines. A wrong argument raises here, a header that does
    not fit the mapping when the first chunk is asked for.
    """
    path = Path(path)
    if chunk < 1:
        raise InvalidValue("chunk must be at least 1", remedy="Leave it out for 5,000.")
    with closing(Source(path)) as source:
        if not source.read():
            return iter([[bad_line(1, LineFault("truncated-file"), b"")]] if source.damaged else [])
    plan = _plan(format or detect_format(path), mapping, timezone)
    return _chunks(path, plan, chunk, on_progress or (lambda progress: None))
