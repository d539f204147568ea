"""What a value in a file means: numbers, truth, JSON objects and times out of text and Parquet.

A value that is not what its field asks for stays as it is, for the gate to refuse with its own words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from itertools import repeat
from math import isfinite
from operator import floordiv, sub
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from gnomon.event import INT64_MAX, INT64_MIN, Kind
from gnomon.ingest.lines import LineFault
from gnomon.timerange import US_HOUR, to_us

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*+)(\.[0-9]++)?([eE][+-]?[0-9]++)?")
_INTEGER = re.compile(r"(-?[0-9]{1,19})(?:\.0*)?")
_UNIX = re.compile(r"([0-9]{10})(?:\.([0-9]{1,9}))?|([0-9]{13})|([0-9]{16})")
_KEY = re.compile(rb'"\s*+:')
_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
#: Times with their digits as 0: with a zone, which the gate reads, and without one.
_ZONED_SHAPE = re.compile(rb"0000-00-00[T ]00:00:00(?:\.0{1,9})?(?:Z|[+-]00:00)")
_WALL_SHAPE = re.compile(rb"0000-00-00(?:[T ]00:00(?::00(?:\.0{1,9})?)?)?")
_DIGITS_AS_0 = bytes(48 if 48 <= code <= 57 else code for code in range(256))
_EPOCH = datetime(1970, 1, 1)  # of any clock on the wall
_MICROSECOND = timedelta(microseconds=1)
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
    return _zoned(value, zone) if isinstance(value, datetime) and value.tzinfo is None else value


def moments(values: Sequence[Any], zone: ZoneInfo | None) -> Sequence[Any]:
    """`moment` of each value of a column; None where there is none. Raises for what one of them raises for."""
    if set(map(type, values)) == {str}:
        joined = "\n".join(values)
        shapes = set(joined.encode().translate(_DIGITS_AS_0).split(b"\n"))
        if joined.count("\n") < len(values):
            if all(map(_ZONED_SHAPE.fullmatch, shapes)):
                return values
            if all(map(_WALL_SHAPE.fullmatch, shapes)):
                walls = map(sub, map(datetime.fromisoformat, values), repeat(_EPOCH))
                return moments_of_walls(list(map(floordiv, walls, repeat(_MICROSECOND))), zone)
    return [None if value is None or value == "" else moment(value, zone) for value in values]


def moments_of_walls(walls: Sequence[int], zone: ZoneInfo | None) -> list[int]:
    """UTC microseconds of times that name no zone, given as if they were of UTC. Raises `LineFault` without a zone."""
    ahead = {hour: _ahead(hour, zone) for hour in {wall // US_HOUR for wall in walls}}
    if None in ahead.values():
        return [_zoned(_EPOCH + wall * _MICROSECOND, zone) for wall in walls]
    return [wall - ahead[wall // US_HOUR] for wall in walls]  # type: ignore[operator]


@lru_cache(maxsize=10_000)
def _ahead(hour: int, zone: ZoneInfo | None) -> int | None:
    """By how much clocks on the wall of a zone are ahead of UTC in one hour of theirs; None if that changes in it."""
    ends = hour * US_HOUR, (hour + 1) * US_HOUR - 1
    first, last = (end - _zoned(_EPOCH + end * _MICROSECOND, zone) for end in ends)
    return first if first == last else None


def objects(values: Sequence[Any], convert: Callable[[Any], Any]) -> list[dict[str, Any]]:
    """The JSON object of each value of a column, {} where there is none. Raises for what is no object."""
    if set(map(type, values)) <= {str, type(None)}:
        texts = [value for value in dict.fromkeys(values) if value]
        by_text = dict(zip(texts, _flat_objects(texts) or map(convert, texts), strict=True))
        return [by_text[value] if value else {} for value in values]
    found = [None if value is None or value == "" else convert(value) for value in values]
    if not set(map(type, found)) <= {dict, type(None)}:
        raise ValueError
    return [{} if one is None else one for one in found]


def _flat_objects(texts: Sequence[str]) -> list[Any] | None:
    """Objects that hold no objects; None where it takes a closer look to tell whether all is well."""
    joined = "\n".join(texts).encode()
    found = msgspec.json.Decoder().decode_lines(joined)
    if len(found) < len(texts) or joined.count(b"\n") >= len(texts) or set(map(type, found)) != {dict}:
        return None
    # Every key has a colon, so equal numbers prove that no key was lost.
    return found if joined.count(b":") == sum(map(len, found)) else None


def _zoned(wall: datetime, zone: ZoneInfo | None) -> int:
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
        if len(_KEY.findall(data)) != _count_keys(value):
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
