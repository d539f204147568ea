"""From a body as it was sent to the events in it: unpacked within a cap, measured before it is parsed, then decoded.

What makes the whole body unreadable is refused here (400, 413, 415, 422 too-deep); what is wrong with single events is
the gate's to say. Repeated keys are found here, as a decoded object no longer shows them.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable, Sequence
from itertools import chain, repeat
from operator import is_
from typing import Any, NamedTuple

import msgspec

from gnomon.config import Settings
from gnomon.event import BY_NAME, INT64_MAX, INT64_MIN
from gnomon.ingest.calls import CALL_PROPERTIES, CALL_WEIGHT, FROM_FIELDS, ONE, Columns, WireCalls, columns_of
from gnomon.ingest.gate import Doubled
from gnomon.ingest.proof import Wire
from gnomon.server.problems import Problem

#: A number that may be beyond 64 bits; with a point or an exponent it is a float, and the decoder's to refuse.
_LONG = re.compile(rb"-?(?<![\d.eE+])\d{19,}(?![\d.eE])")
#: Every digit as 0, so that a long number is a substring: 0.02 ms for 240 KB, where the pattern takes 0.7.
_DIGITS = bytes(48 if 48 <= code <= 57 else 32 for code in range(256))
#: Values of a body. 20 MiB of `{},` would take 3 GB of objects; a full batch of ordinary events has 20,000.
MOST_VALUES = 500_000
_ALIKE = bytes.maketrans(b"[]", b"{}")
_BUT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_LIST_DECODER = msgspec.json.Decoder()
_WIRES: Any = list[Wire]  # type: ignore[valid-type]
_QUICK_DECODER = msgspec.json.Decoder(_WIRES)
_QUICK_ONE = msgspec.json.Decoder(Wire)
#: A larger body is measured before it is decoded, even if it looks usual: so many bytes hold at most 40 MB of objects.
MOST_QUICK_BYTES = 2 * MOST_VALUES
_TEXT_FIELDS = tuple(place for place, name in enumerate(FROM_FIELDS) if BY_NAME[name].kind in ("text", "time"))


def unpacked(body: bytes, encoding: str, settings: Settings) -> bytes:
    """The body without its gzip, never more than `max_unpacked_bytes`. Raises `Problem` (400, 413, 415)."""
    if encoding in ("", "identity"):
        return body
    if encoding != "gzip":
        raise Problem(415, "this content encoding is not taken", remedy="Use gzip, or none.", code="bad-media-type")
    most, found = settings.max_unpacked_bytes, bytearray()
    try:
        while body:  # a gzip file may have several members
            member = zlib.decompressobj(wbits=31)
            found += member.decompress(body, most + 1 - len(found))
            if len(found) > most:
                raise too_large(most, "unpacked")
            if not member.eof:
                raise malformed()
            body = member.unused_data
    except zlib.error:
        raise malformed() from None
    return bytes(found)


def decoded(body: bytes, settings: Settings) -> tuple[list[Any] | WireCalls, bool]:
    """The events of a body, and whether it was a single one. Raises `Problem` (400, 413, 422)."""
    alone = not is_list(body)
    quick = _quickly(body, alone, settings)
    return (decoded_slowly(body, settings), alone) if quick is None else (quick, alone)


def decoded_slowly(body: bytes, settings: Settings) -> list[Any]:
    """The events, or samples, of a body as objects. Raises `Problem` (400, 413, 422)."""
    alone = not is_list(body)
    outside = _outside(body)
    if _deeper(outside, settings.max_nesting + (not alone)):
        raise Problem(422, "an event is nested too deeply", code="too-deep",
                      remedy=f"At most {settings.max_nesting} levels; nothing of the body was taken.")  # fmt: skip
    if outside.count(b",") > MOST_VALUES:
        raise _too_many()
    if b"0" * 19 in outside.translate(_DIGITS) and any(map(_beyond, _LONG.finditer(outside))):
        raise malformed("an integer is beyond 64 bits")
    try:
        content = _LIST_DECODER.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, RecursionError):
        raise malformed() from None
    events = [content] if alone else content
    if len(events) > settings.max_batch_size:
        raise Problem(413, "the batch is too large", code="batch-too-large",
                      remedy=f"Send at most {settings.max_batch_size} events at once; nothing was taken.")  # fmt: skip
    if outside.count(b":") != _keys(events):
        content = json.loads(body, object_pairs_hook=_object)  # 20 times slower, for the ones to blame only
        events = [_marked(event) for event in ([content] if alone else content)]
    return events


def _quickly(body: bytes, alone: bool, settings: Settings) -> WireCalls | None:
    """The calls of a body in which nothing is unusual, in a quarter of the time; None: look closer."""
    found = loose(body, alone, settings)
    return None if found is None else gathered([found])


class Loose(NamedTuple):
    """The events of a body that looks usual so far: no key is looked for that is null or stands twice."""

    events: list[Any]
    alone: bool
    quotes: int
    ascii: bool


def loose(body: bytes, alone: bool, settings: Settings) -> Loose | None:
    """The events of a body, None for one that has to be looked at more closely.

    Usual are events with fields of the row only, of the types that a clean batch has: so nothing is nested deeper than
    properties, and no number is beyond 64 bits.
    """
    most = settings.max_batch_size
    if settings.max_nesting < 2 or (len(body) > MOST_QUICK_BYTES and _is_large(body, most)):
        return None
    try:
        events = [_QUICK_ONE.decode(body)] if alone else _QUICK_DECODER.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, RecursionError):
        return None
    if not 0 < len(events) <= most:
        return None
    return Loose(events, alone, _quotes(body), body.isascii() and not (b"\\" in body and b"\\u" in body))


def gathered(parts: Sequence[Loose]) -> WireCalls | None:
    """The calls of bodies, one after the other; None where a key in one of them is null or stands twice.

    No body has fewer quotes than the texts that came out of it, so one sum over all of them tells.
    """
    events = parts[0].events if len(parts) == 1 else list(chain.from_iterable(part.events for part in parts))
    columns = columns_of(events)
    if sum(part.quotes for part in parts) != 2 * _texts(columns):
        return None
    return WireCalls(columns, len(events), ascii=all(part.ascii for part in parts))


def _is_large(body: bytes, most: int) -> bool:
    return body.count(b"{") > 2 * most or body.count(b",") > MOST_VALUES


def _quotes(body: bytes) -> int:
    """How many quotes open or close a text in a body that parses."""
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    return body.count(b'"')


def _texts(columns: Columns) -> int:
    """How many texts there are, names of keys among them: more stand in the body where a key is null or there twice."""
    found = 0
    for place, column in enumerate(columns):
        if column is None:
            continue
        named = len(column) - (0 if place == CALL_WEIGHT else column.count(None))
        if place == CALL_WEIGHT:
            named -= sum(map(is_, column, repeat(ONE)))
        elif place == CALL_PROPERTIES:
            given = [one for one in column if one is not None]
            found += sum(map(len, given)) + [*map(type, chain.from_iterable(map(dict.values, given)))].count(str)
        found += 2 * named if place in _TEXT_FIELDS else named
    return found


def _marked(value: Any) -> Any:
    """An event as it is, or as a `Doubled` where an object within it is one."""
    return Doubled(value) if isinstance(value, dict) and _has_doubled(value) else value


def _has_doubled(value: Any) -> bool:
    if isinstance(value, Doubled):
        return True
    inner: Iterable[Any] = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(_has_doubled(one) for one in inner)


def malformed(what: str = "the body is no well-formed JSON in UTF-8") -> Problem:
    """The body cannot be read."""
    return Problem(400, what, remedy="Send JSON in UTF-8, with finite numbers.", code="bad-json")


def too_large(most: int, how: str = "as it is sent") -> Problem:
    """The body is larger than the settings allow."""
    return Problem(413, f"the body is larger than {most} bytes {how}", code="body-too-large",
                   remedy="Send fewer events at once; nothing was taken.", headers={"Connection": "close"})  # fmt: skip


def _too_many() -> Problem:
    return Problem(413, f"the body holds more than {MOST_VALUES} values", remedy="Send fewer events at once.",
                   code="body-too-large")  # fmt: skip


def _outside(body: bytes) -> bytes:
    """The body without its strings: exact for whatever parses, and all in C (0.8 ms for 220 KB). Raises `Problem`."""
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    if body.count(b'"') > 4 * MOST_VALUES:  # a key and a value have two each; the parts take 50 bytes
        raise _too_many()
    return b"".join(body.split(b'"')[::2])


def is_list(body: bytes) -> bool:
    """Whether a body is a batch."""
    return body.lstrip(b" \t\r\n")[:1] == b"["


def _deeper(outside: bytes, levels: int) -> bool:
    """Whether brackets are nested deeper than so many levels: each turn takes the innermost ones away.

    Both kinds count alike, as a turn would else take two levels; that they fit together is the decoder's to say.
    """
    brackets = outside.translate(_ALIKE, _BUT_BRACKETS)
    for _ in range(levels):
        before = len(brackets)
        brackets = brackets.replace(b"{}", b"")
        if len(brackets) == before:  # nothing left, or not balanced, which the decoder says
            return brackets.count(b"{") > levels
    return bool(brackets)


def _beyond(found: re.Match[bytes]) -> bool:
    """Whether an integer does not fit into 64 bits; its digits are counted first, as reading many takes long."""
    return len(found[0]) > 20 or not INT64_MIN <= int(found[0]) <= INT64_MAX


def _keys(values: Iterable[Any]) -> int:
    """How many keys the objects in decoded values have, all together."""
    total = 0
    for value in values:
        kind = value.__class__
        if kind is dict:
            total += len(value)
            for inner in value.values():  # without a call for each: 0.6 ms for 1,000 events
                kind = inner.__class__
                if kind is dict or kind is list:
                    total += _keys((inner,))
        elif kind is list:
            total += _keys(value)
    return total


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else Doubled(found)
