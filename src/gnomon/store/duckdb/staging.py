"""Rows as columns for DuckDB: an Arrow stream made with ctypes, so that no Arrow library is needed.

DuckDB's appender takes 0.1 us for every value of a row; a column costs 0.03 to 0.1 us a row here, and an empty one
nothing. A missing text is empty and a missing number -1, which no event can hold: `selected` makes them NULL again.
See https://arrow.apache.org/docs/format/CStreamInterface.html.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterable, Iterator, Sequence
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_int, c_int64, c_void_p
from itertools import accumulate
from typing import Any

from gnomon.event import FIELDS, Field, Row, Rows

CHUNK = 2_500  #: rows turned at once: each step holds the interpreter for less than half a millisecond
_FORMATS = {"text": b"u", "json": b"u", "time": b"l", "integer": b"l", "real": b"g", "boolean": b"c"}
_CODES = {"time": "q", "integer": "q", "real": "d", "boolean": "b"}


class _Schema(ctypes.Structure):
    pass


class _Array(ctypes.Structure):
    pass


class _Stream(ctypes.Structure):
    pass


_SCHEMA_RELEASE = CFUNCTYPE(None, POINTER(_Schema))
_ARRAY_RELEASE = CFUNCTYPE(None, POINTER(_Array))
_STREAM_RELEASE = CFUNCTYPE(None, POINTER(_Stream))
_GET_SCHEMA = CFUNCTYPE(c_int, POINTER(_Stream), POINTER(_Schema))
_GET_NEXT = CFUNCTYPE(c_int, POINTER(_Stream), POINTER(_Array))
_GET_ERROR = CFUNCTYPE(c_char_p, POINTER(_Stream))
_Schema._fields_ = [
    ("format", c_char_p), ("name", c_char_p), ("metadata", c_char_p), ("flags", c_int64), ("n_children", c_int64),
    ("children", POINTER(POINTER(_Schema))), ("dictionary", POINTER(_Schema)), ("release", _SCHEMA_RELEASE),
    ("private_data", c_void_p),
]  # fmt: skip
_Array._fields_ = [
    ("length", c_int64), ("null_count", c_int64), ("offset", c_int64), ("n_buffers", c_int64), ("n_children", c_int64),
    ("buffers", POINTER(c_void_p)), ("children", POINTER(POINTER(_Array))), ("dictionary", POINTER(_Array)),
    ("release", _ARRAY_RELEASE), ("private_data", c_void_p),
]  # fmt: skip
_Stream._fields_ = [
    ("get_schema", _GET_SCHEMA), ("get_next", _GET_NEXT), ("get_last_error", _GET_ERROR), ("release", _STREAM_RELEASE),
    ("private_data", c_void_p),
]  # fmt: skip

_capsule = ctypes.pythonapi.PyCapsule_New
_capsule.restype, _capsule.argtypes = ctypes.py_object, [c_void_p, c_char_p, c_void_p]


def _letting_go(kind: Any) -> Any:
    nothing = kind()
    return kind(lambda thing: setattr(thing.contents, "release", nothing))  # the memory belongs to `Staging`


_release_schema, _release_array, _release_stream = map(_letting_go, (_SCHEMA_RELEASE, _ARRAY_RELEASE, _STREAM_RELEASE))


class Staging:
    """The rows that are about to be stored, which DuckDB reads as a table once this is registered with it.

    Everything a reader was handed stays alive until the next `put` or `clear`.
    """

    def __init__(self) -> None:
        self._chunks: list[tuple[int, list[Any], list[Any]]] = []
        self._alive: list[Any] = []
        self.present: list[Field] = list(FIELDS)

    def put(self, rows: Sequence[Row]) -> None:
        """Take these rows in place of those before; `present` are then the fields that any of them has."""
        self.clear()
        found: set[str] = set()
        for count, part in _chunks(rows):
            buffers = []
            for field, values in zip(FIELDS, part, strict=True):
                if values is None or (values[0] is None and values.count(None) == len(values)):
                    buffers.append(_EMPTY[field.kind])
                    continue
                found.add(field.name)
                buffers.append(_texts(values) if _FORMATS[field.kind] == b"u" else _numbers(field.kind, values))
            self._chunks.append((count, [_pointers(column) for column in buffers], buffers))
        self.present = [field for field in FIELDS if field.name in found]

    def clear(self) -> None:
        """Let go of the rows."""
        self._chunks, self._alive = [], []

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        waiting = iter(self._chunks)
        alive = self._alive

        def get_schema(_stream: Any, out: Any) -> int:
            _fill_schema(out.contents, alive)
            return 0

        def get_next(_stream: Any, out: Any) -> int:
            _fill_next(out.contents, waiting, alive)
            return 0

        stream = _Stream(_GET_SCHEMA(get_schema), _GET_NEXT(get_next), _GET_ERROR(lambda _stream: None),
                         _release_stream, None)  # fmt: skip
        alive.append(stream)
        return _capsule(ctypes.addressof(stream), b"arrow_array_stream", None)


def _fill_schema(schema: Any, alive: list[Any]) -> None:
    children = (POINTER(_Schema) * len(FIELDS))()
    for place, field in enumerate(FIELDS):
        child = _Schema(_FORMATS[field.kind], field.name.encode(), None, 0, 0, None, None, _release_schema, None)
        children[place] = ctypes.pointer(child)
    alive.append(children)
    schema.format, schema.name, schema.metadata, schema.flags = b"+s", b"", None, 0
    schema.n_children, schema.children = len(FIELDS), ctypes.cast(children, POINTER(POINTER(_Schema)))
    schema.dictionary, schema.release = None, _release_schema


def _fill_next(found: Any, waiting: Iterator[tuple[int, list[Any], list[Any]]], alive: list[Any]) -> None:
    rows, pointers, _ = next(waiting, (0, [], []))
    if not rows:
        found.release = _ARRAY_RELEASE()
        return
    children = (POINTER(_Array) * len(FIELDS))()
    for place, each in enumerate(pointers):
        buffers = ctypes.cast(each, POINTER(c_void_p))
        child = _Array(rows, 0, 0, len(each), 0, buffers, None, None, _release_array, None)
        children[place] = ctypes.pointer(child)
    no_validity = (c_void_p * 1)()
    alive += [children, no_validity]
    found.length, found.null_count, found.offset, found.n_buffers, found.n_children = rows, 0, 0, 1, len(FIELDS)
    found.buffers = ctypes.cast(no_validity, POINTER(c_void_p))
    found.children = ctypes.cast(children, POINTER(POINTER(_Array)))
    found.dictionary, found.release = None, _release_array


def selected(field: Field) -> str:
    """A staged column as SQL, with NULL where a row has nothing."""
    if field.kind == "time":
        return f"make_timestamp({field.name})"
    if field.kind == "boolean":
        return f"CASE {field.name} WHEN 1 THEN true WHEN 0 THEN false END"
    if field.required:
        return field.name
    return f"nullif({field.name}, '')" if _FORMATS[field.kind] == b"u" else f"nullif({field.name}, -1)"


def _chunks(rows: Sequence[Row]) -> Iterator[tuple[int, Iterable[Sequence[Any] | None]]]:
    """The columns of `CHUNK` rows at a time, and how many rows these are."""
    for start in range(0, len(rows), CHUNK):
        end = min(start + CHUNK, len(rows))
        if isinstance(rows, Rows):
            yield end - start, [None if one is None else one[start:end] for one in rows.columns]
        else:
            yield end - start, zip(*rows[start:end], strict=True)


def _texts(values: Sequence[Any]) -> list[bytes]:
    try:
        joined = "".join(values)
    except TypeError:
        values = [value or "" for value in values]
        joined = "".join(values)
    if not joined.isascii():
        values = [value.encode() for value in values]
        return [_offsets(values), b"".join(values)]
    return [_offsets(values), joined.encode()]


def _offsets(values: Sequence[str | bytes]) -> bytes:
    """Where each text begins, and the end of the last; packing is twice as fast as an `array`."""
    if len(values[0]) == _ID_BYTES and set(map(len, values)) == {_ID_BYTES}:
        return _ID_OFFSETS[: 4 * (len(values) + 1)]
    return struct.pack(f"{len(values) + 1}i", *accumulate(map(len, values), initial=0))


def _numbers(kind: str, values: Sequence[Any]) -> list[bytes]:
    form = f"{len(values)}{_CODES[kind]}"
    try:
        return [struct.pack(form, *values)]
    except struct.error:
        return [struct.pack(form, *[-1 if value is None else value for value in values])]


_ID_BYTES = 36
_ID_OFFSETS = struct.pack(f"{CHUNK + 1}i", *range(0, _ID_BYTES * (CHUNK + 1), _ID_BYTES))
_EMPTY = {
    kind: [bytes(4 * (CHUNK + 1)), b""] if form == b"u" else [struct.pack(f"{CHUNK}{_CODES[kind]}", *[-1] * CHUNK)]
    for kind, form in _FORMATS.items()
}


def _pointers(column: list[bytes]) -> Any:
    """The addresses of a column's buffers, behind the one of the validity bits, which are not used."""
    return (c_void_p * (len(column) + 1))(None, *(ctypes.cast(c_char_p(buffer), c_void_p).value for buffer in column))
