"""The exact rules of the gate, one event at a time, each with a stable code; and the types that prove a batch clean.

`WIDE` and `NARROW` are checked by msgspec in C (proof.py). They are stricter than the rules, so that passing them
proves an event good; failing them proves nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from gnomon.config import Settings
from gnomon.event import FIELDS, INT64_MAX, INT64_MIN, NAME_BYTES, SAMPLE_KINDS, Field, Row

_FINITE = Meta(ge=-1.7976931348623157e308, le=1.7976931348623157e308)


class Refusal(Exception):
    """Why one event does not pass: a stable code and a detail that names the field, never the value."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(code)
        self.code = code
        self.detail = detail


def _column_type(field: Field, share: int) -> Any:
    """The msgspec type of a field. `share` = 1 for ASCII batches, 4 where a character may take four bytes."""
    return {
        "text": Annotated[str, Meta(min_length=1, max_length=field.max_bytes // share)],
        "integer": Annotated[int, Meta(ge=int(field.low or 0), le=int(field.high or INT64_MAX))],
        "real": Annotated[int, Meta(ge=int(field.low or 0), le=int(field.high or INT64_MAX))]
        | Annotated[float, Meta(ge=field.low or 0.0, le=field.high or 1.7976931348623157e308)],
        "boolean": bool,
        "json": dict[Annotated[str, Meta(min_length=1, max_length=NAME_BYTES // 4)], _SCALAR],
    }[field.kind]


_SCALAR = None | bool | Annotated[int, Meta(ge=INT64_MIN, le=INT64_MAX)] | Annotated[float, _FINITE] | str
#: The type of each field but times, as a clean batch has it: wide where all is ASCII. Properties are flat.
WIDE: dict[str, Any] = {field.name: _column_type(field, 1) for field in FIELDS if field.kind != "time"}
NARROW: dict[str, Any] = {field.name: _column_type(field, 4) for field in FIELDS if field.kind != "time"}
MOST_PROPERTIES = 256  #: of an event in a batch that is proven

_encode_strictly = msgspec.json.Encoder().encode


def encode_json(value: Any, encode: Callable[[Any], bytes] = _encode_strictly) -> str:
    """Compact JSON text. Raises `Refusal` for what JSON or UTF-8 cannot hold."""
    try:
        return encode(value).decode()
    except UnicodeEncodeError:
        raise Refusal("lone-surrogate", "text: holds half of a surrogate pair") from None
    except (OverflowError, ValueError):  # ValueError: of more digits than Python writes
        raise Refusal("number-too-large", "properties: an integer beyond 64 bits") from None
    except RecursionError:
        raise Refusal("too-deep", "properties: nested too deeply") from None
    except TypeError:
        raise Refusal("wrong-type", "properties: hold a value that JSON cannot") from None


def exact(value: Any) -> Any:
    """The plain value of a text, float or integer of a subclass (numpy.float64, enum members); others as they are.

    The journal and the stores take plain values only. Subclasses cannot change what is kept, as theirs are not asked.
    """
    if isinstance(value, str):
        return value if type(value) is str else str.__str__(value)
    if isinstance(value, float):
        return value if type(value) is float else float.__float__(value)
    if isinstance(value, int) and type(value) not in (int, bool):
        return int.__int__(value)
    return value


def _exact_or_raise(value: Any) -> Any:
    plain = exact(value)
    if plain is value:
        raise TypeError
    return plain


_encode_properties = msgspec.json.Encoder(enc_hook=_exact_or_raise).encode


def encode_properties(properties: Any) -> str:
    """Properties or labels as JSON text, see `encode_json` and `exact`."""
    return encode_json(properties, _encode_properties)


def check_event(row: Row, properties: Any, settings: Settings) -> None:
    """Apply every rule to one row (in `ROW` order) and its properties as given. Raises `Refusal`."""
    for field, value in zip(FIELDS, row, strict=True):
        if value is None:
            if field.required:
                raise Refusal("missing-field", f"{field.name}: missing")
        elif field.kind != "json":
            _CHECKS[field.kind](field, value)
    if properties is not None:
        _check_properties(properties, settings)
    if event_bytes(row) > settings.max_event_bytes:
        raise Refusal("event-too-large", f"event: larger than {settings.max_event_bytes} bytes")


def event_bytes(row: Row) -> int:
    """The size of an event: the UTF-8 bytes of its texts (properties as compact JSON) plus 8 for each other value."""
    return sum(len(value.encode()) if isinstance(value, str) else 8 for value in row if value is not None)


def _check_text(field: Field, value: Any) -> None:
    if not isinstance(value, str):
        raise Refusal("wrong-type", f"{field.name}: not text")
    _check_string(field.name, value, field.max_bytes)
    if not value:
        raise Refusal("empty-name", f"{field.name}: empty")


def _check_string(name: str, value: str, max_bytes: int) -> None:
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise Refusal("lone-surrogate", f"{name}: holds half of a surrogate pair") from None
    if size > max_bytes:
        raise Refusal("too-long", f"{name}: longer than {max_bytes} bytes")
    if "\x00" in value:
        raise Refusal("nul-character", f"{name}: holds a NUL character")


def _check_integer(field: Field, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise Refusal("wrong-type", f"{field.name}: not an integer")
    _check_bounds(field, value)


def _check_real(field: Field, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Refusal("wrong-type", f"{field.name}: not a number")
    if isinstance(value, int) and not INT64_MIN <= value <= INT64_MAX:
        raise Refusal("number-too-large", f"{field.name}: an integer beyond 64 bits")
    if not math.isfinite(value):
        raise Refusal("not-finite", f"{field.name}: not a finite number")
    _check_bounds(field, value)


def _check_bounds(field: Field, value: float) -> None:
    if (field.low is not None and value < field.low) or (field.high is not None and value > field.high):
        raise Refusal("out-of-range", f"{field.name}: outside {field.low} .. {field.high}")


def _check_boolean(field: Field, value: Any) -> None:
    if not isinstance(value, bool):
        raise Refusal("wrong-type", f"{field.name}: neither true nor false")


def _check_time_type(field: Field, value: Any) -> None:
    if type(value) is not int:
        raise Refusal("bad-time", f"{field.name}: not a time")


_CHECKS = {
    "text": _check_text,
    "integer": _check_integer,
    "real": _check_real,
    "boolean": _check_boolean,
    "time": _check_time_type,
}


def _check_properties(properties: Any, settings: Settings) -> None:
    if not isinstance(properties, dict):
        raise Refusal("wrong-type", "properties: not an object")
    if len(properties) > settings.max_properties:
        raise Refusal("too-many-properties", f"properties: more than {settings.max_properties}")
    _check_value(properties, 2, settings)


def _check_value(value: Any, level: int, settings: Settings) -> None:
    """One JSON value at nesting `level`; the event is level 1, its properties object level 2."""
    value = exact(value)
    if isinstance(value, str):
        _check_string("properties", value, settings.max_string_bytes)
    elif isinstance(value, bool) or value is None:
        return
    elif isinstance(value, int):
        if not INT64_MIN <= value <= INT64_MAX:
            raise Refusal("number-too-large", "properties: an integer beyond 64 bits")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise Refusal("not-finite", "properties: a number that is not finite")
    elif isinstance(value, dict | list | tuple):
        _check_container(value, level, settings)
    else:
        raise Refusal("wrong-type", "properties: hold a value that JSON cannot")


def _check_container(value: Any, level: int, settings: Settings) -> None:
    if level > settings.max_nesting:
        raise Refusal("too-deep", f"properties: nested deeper than {settings.max_nesting} levels")
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise Refusal("wrong-type", "properties: a name that is not text")
            if not key:
                raise Refusal("empty-name", "properties: an empty name")
            _check_string("properties name", exact(key), NAME_BYTES)
            _check_value(inner, level + 1, settings)
    else:
        for inner in value:
            _check_value(inner, level + 1, settings)


_SAMPLE_NAME = Field("name", "text", required=True)
_SAMPLE_VALUE = Field("value", "real", required=True)
_SAMPLE_ID = Field("id", "text")


def check_sample(name: Any, value: Any, kind: Any, labels: Any, id_: Any, settings: Settings) -> str | None:
    """Apply the rules to one metric sample; returns its labels as JSON text. Raises `Refusal`."""
    _check_text(_SAMPLE_NAME, name)
    _check_real(_SAMPLE_VALUE, value)
    if id_ is not None:
        _check_text(_SAMPLE_ID, id_)
    if not isinstance(kind, str) or kind not in SAMPLE_KINDS:
        raise Refusal("unknown-kind", "kind: not one of counter, gauge, histogram")
    if labels is None:
        return None
    _check_properties(labels, settings)
    if any(isinstance(inner, dict | list | tuple) for inner in labels.values()):
        raise Refusal("wrong-type", "labels: hold a nested value")
    return encode_properties(labels)
