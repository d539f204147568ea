"""What the values of a whole column mean: the same as `values` makes of each, for many at once.

What one of them would be refused for raises, as does what takes a closer look: then each goes by itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import repeat
from operator import floordiv, sub
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from gnomon.ingest.values import CONVERT, moment, number_or_text, zoned
from gnomon.timerange import US_HOUR

#: Times with their digits as 0: with a zone, which the gate reads, and without one.
_ZONED = re.compile(rb"0000-00-00[T ]00:00:00(?:\.0{1,9})?(?:Z|[+-]00:00)")
_WALL = re.compile(rb"0000-00-00(?:[T ]00:00(?::00(?:\.0{1,9})?)?)?")
_DIGITS_AS_0 = bytes(48 if 48 <= code <= 57 else code for code in range(256))
_decode_lines: Callable[[bytes], list[Any]] = msgspec.json.Decoder().decode_lines
_EPOCH = datetime(1970, 1, 1)  # of any clock on the wall
_MICROSECOND = timedelta(microseconds=1)


def _lines(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?:{pattern}\n)*+")


_WHOLE, _DECIMAL = r"(?:0|-?[1-9][0-9]{0,16}+)", r"-?(?:0|[1-9][0-9]{0,16}+)\.[0-9]{1,17}+"
#: What texts may be made of, and a quicker way to convert them then.
_QUICKLY: dict[Callable[[Any], Any], list[tuple[re.Pattern[str], Callable[[str], Any]]]] = {
    CONVERT["integer"]: [(_lines(_WHOLE), int)],
    CONVERT["real"]: [(_lines(f"(?:{_DECIMAL}|{_WHOLE})"), float)],
    number_or_text: [(_lines(r"[^-0-9\n][^\n]*+"), str), (_lines(_WHOLE), int), (_lines(_DECIMAL), float)],
}


def converted(values: Sequence[Any], convert: Callable[[Any], Any], same: set[type]) -> Sequence[Any]:
    """Each value as `convert` makes it, which leaves those of some types the same; None where there is nothing."""
    kinds = set(map(type, values)) - {type(None)}
    if not kinds <= same:
        if len(kinds) == 1 and kinds <= {str, int, float}:  # of two types, 1 and 1.0 would be one value
            return _each_once(values, convert)
        return [None if value is None or value == "" else convert(value) for value in values]
    if str in kinds and "" in values:
        values = [value or None for value in values]
    return [value if value == value else None for value in values] if float in kinds else values


def _each_once(values: Sequence[Any], convert: Callable[[Any], Any]) -> list[Any]:
    distinct = set(values) - {None, ""}
    how, patterns = convert, _QUICKLY.get(convert)
    if patterns is not None:
        joined = "\n".join([*distinct, ""])
        how = next((quickly for pattern, quickly in patterns if pattern.fullmatch(joined)), convert)
    found: dict[Any, Any] = {value: how(value) for value in distinct}
    return list(map(found.get, values))


def moments(values: Sequence[Any], zone: ZoneInfo | None) -> Sequence[Any]:
    """`moment` of each value; None where there is none."""
    if set(map(type, values)) == {str}:
        joined = "\n".join(values)
        shapes = set(joined.encode().translate(_DIGITS_AS_0).split(b"\n"))
        if joined.count("\n") < len(values):
            if all(map(_ZONED.fullmatch, shapes)):
                return values
            if all(map(_WALL.fullmatch, shapes)):
                walls = map(sub, map(datetime.fromisoformat, values), repeat(_EPOCH))
                return moments_of_walls(list(map(floordiv, walls, repeat(_MICROSECOND))), zone)
    return [None if value is None or value == "" else moment(value, zone) for value in values]


def moments_of_walls(walls: Sequence[int], zone: ZoneInfo | None) -> list[int]:
    """UTC microseconds of times that name no zone, given as if they were of UTC. Raises `LineFault` without a zone."""
    ahead = {hour: _ahead(hour, zone) for hour in {wall // US_HOUR for wall in walls}}
    if None in ahead.values():
        return [zoned(_EPOCH + wall * _MICROSECOND, zone) for wall in walls]
    return [wall - ahead[wall // US_HOUR] for wall in walls]  # type: ignore[operator]


@lru_cache(maxsize=10_000)
def _ahead(hour: int, zone: ZoneInfo | None) -> int | None:
    """By how much clocks on the wall of a zone are ahead of UTC in one hour of theirs; None if that changes in it."""
    ends = hour * US_HOUR, (hour + 1) * US_HOUR - 1
    first, last = (end - zoned(_EPOCH + end * _MICROSECOND, zone) for end in ends)
    return first if first == last else None


def objects(values: Sequence[Any], convert: Callable[[Any], Any]) -> list[dict[str, Any]]:
    """The JSON object of each value, {} where there is none."""
    if set(map(type, values)) <= {str, type(None)}:
        texts = [value for value in dict.fromkeys(values) if value]
        try:
            found = _flat_objects(texts)
        except (ValueError, msgspec.MsgspecError):
            found = None
        by_text = dict(zip(texts, found or map(convert, texts), strict=True))
        return [by_text[value] if value else {} for value in values]
    each = [None if value is None or value == "" else convert(value) for value in values]
    if not set(map(type, each)) <= {dict, type(None)}:
        raise ValueError
    return [{} if one is None else one for one in each]


def _flat_objects(texts: Sequence[str]) -> list[dict[str, Any]] | None:
    """Objects that hold no objects; None where it takes a closer look to tell whether all is well."""
    joined = "\n".join(texts).encode()
    found = line_objects(joined, len(texts)) if texts else []
    # Every key has a colon, so equal numbers prove that no key was lost.
    return found if joined.count(b":") == sum(map(len, found)) else None


def line_objects(text: bytes, count: int) -> list[dict[str, Any]]:
    """The object of each of so many lines. Raises ValueError or msgspec's errors where not each line is just that."""
    plain = text.replace(b"\r\n", b"\n").removesuffix(b"\r")
    # The decoder takes line ends for any other space: an object could end on the next line, and two share one. But
    # where each line ends with a brace and the next one opens one, there is no way to go on with an object.
    if not plain.startswith(b"{") or not plain.endswith(b"}") or plain.count(b"}\n{") != count - 1:
        raise ValueError
    found = _decode_lines(text)
    if plain.count(b"\n") != count - 1 or len(found) != count or set(map(type, found)) != {dict}:
        raise ValueError
    return found
