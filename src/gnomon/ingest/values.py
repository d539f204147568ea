"""What a value in a file means: numbers, truth, JSON objects and times out of text and Parquet.

A value that is not what its field asks for stays as it is, for the gate to refuse with its own words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from math import isfinite
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from gnomon.event import INT64_MAX, INT64_MIN, Kind
from gnomon.ingest.lines import LineFault
from gnomon.timerange import to_us

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*+)(\.[0-9]++)?([eE][+-]?[0-9]++)?")
_INTEGER = re.compile(r"(-?[0-9]{1,19})(?:\.0*)?")
_UNIX = re.compile(r"([0-9]{10})(?:\.([0-9]{1,9}))?|([0-9]{13})|([0-9]{16})")
KEY = re.compile(rb'"\s*+:')
_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_NOT_AN_OBJECT = "the text is not a JSON object"


def number_or_text(text: str) -> Any:
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
        found = number_or_text(value.strip() or value)
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


def moment(value: Any, zone: ZoneInfo | None) -> Any:
    """UTC microseconds of Unix or zoneless time; what names its own zone, or is no time at all, stays as it is."""
    if not isinstance(value, date):
        value = json_value(value)
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
    return zoned(value, zone) if isinstance(value, datetime) and value.tzinfo is None else value


def zoned(wall: datetime, zone: ZoneInfo | None) -> int:
    if zone is None:
        raise LineFault("naive-time", "the time names no zone; say which is meant with timezone= (or --timezone)")
    return to_us(wall.replace(tzinfo=zone))


def json_value(value: Any) -> Any:
    """A Parquet value as JSON can hold it; NaN is null, a decimal a number only if all its digits survive."""
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return None if value != value else value
    if isinstance(value, Decimal):
        return number if Decimal(repr(number := float(value))) == value else str(value)
    if isinstance(value, dict):
        return {str(key): json_value(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(part) for part in value]
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    raise LineFault("bad-line", "a column holds bytes or a value that JSON cannot hold")


def json_object(data: bytes) -> dict[str, Any]:
    """The one object of a line; a key given twice is refused, as nobody can tell which value was meant."""
    try:
        value = msgspec.json.decode(data)
        if type(value) is not dict:
            raise LineFault("bad-line", _NOT_AN_OBJECT)
        # Every key has a quote and a colon, so equal numbers prove that no key was lost.
        if len(KEY.findall(data)) != _count_keys(value):
            json.loads(data, object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        raise LineFault("bad-encoding") from error
    except RecursionError as error:
        raise LineFault("bad-line", "the object is nested too deeply") from error
    except (ValueError, msgspec.DecodeError) as error:
        raise LineFault("bad-line", _NOT_AN_OBJECT) from error
    return value


def _count_keys(value: Any) -> int:
    total, todo = 0, [value]
    while todo:
        part = todo.pop()
        if type(part) is dict:
            total += len(part)
            todo.extend(part.values())
        elif type(part) is list:
            todo.extend(part)
    return total


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise LineFault("duplicate-key", "a key is given twice in the same object")
    return found


#: How a value becomes one of a field's kind; times need a zone too, see `moment`.
CONVERT: dict[Kind, Callable[[Any], Any]] = {
    "text": _name,
    "integer": _integer,
    "real": _float,
    "boolean": _truth,
    "json": _object,
}
