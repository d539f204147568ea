"""From a body as it was sent to the events in it: unpacked within a cap, measured before it is parsed, then decoded.

What makes the whole body unreadable is refused here (400, 413, 415, 422 too-deep); what is wrong with single events is
the gate's to say. Repeated keys are found here, as a decoded object no longer shows them.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable
from operator import methodcaller
from typing import Any

import msgspec

from gnomon.config import Settings
from gnomon.event import INT64_MAX, INT64_MIN
from gnomon.ingest.gate import CALL_PROPERTIES, CALL_WEIGHT, ONE, Doubled, Wire
from gnomon.ingest.intake import WireCalls
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
_NONES = methodcaller("count", None)


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


def decoded(body: bytes, settings: Settings) -> tuple[list[Any], bool]:
    """The events of a body, and whether it was a single one. Raises `Problem` (400, 413, 422)."""
    outside = _outside(body)
    if _deeper(outside, settings.max_nesting + _is_list(body)):
        raise Problem(422, "an event is nested too deeply", code="too-deep",
                      remedy=f"At most {settings.max_nesting} levels; nothing of the body was taken.")  # fmt: skip
    if outside.count(b",") > MOST_VALUES:
        raise _too_many()
    if b"0" * 19 in outside.translate(_DIGITS) and any(map(_beyond, _LONG.finditer(outside))):
        raise malformed("an integer is beyond 64 bits")
    usual = _is_list(body) and outside.count(b"{") <= 2 * settings.max_batch_size
    quick = _quickly(body, outside) if usual else None
    if quick is not None and len(quick) <= settings.max_batch_size:
        return quick, False
    try:
        content = _LIST_DECODER.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, RecursionError):
        raise malformed() from None
    alone = not isinstance(content, list)
    events = [content] if alone else content
    if len(events) > settings.max_batch_size:
        raise Problem(413, "the batch is too large", code="batch-too-large",
                      remedy=f"Send at most {settings.max_batch_size} events at once; nothing was taken.")  # fmt: skip
    if outside.count(b":") != _keys(events):
        content = json.loads(body, object_pairs_hook=_object)  # 20 times slower, for the ones to blame only
        events = [_marked(event) for event in ([content] if alone else content)]
    return events, alone


def _quickly(body: bytes, outside: bytes) -> WireCalls | None:
    """The calls of a batch in which nothing is unusual, a third faster than by objects; None: look closer.

    Usual are events with fields of the row only, none null or twice, whose properties are flat.
    """
    try:
        events = _QUICK_DECODER.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, RecursionError):
        return None
    calls = WireCalls(map(msgspec.structs.astuple, events))
    properties = [call[CALL_PROPERTIES] for call in calls if call[CALL_PROPERTIES] is not None]
    if not calls or not {type(one) for one in properties} <= {dict}:
        return None
    if outside.count(b"{") != len(calls) + len(properties) or outside.count(b"[") != 1:
        return None
    weighed = sum(call[CALL_WEIGHT] is not ONE for call in calls)
    named = len(calls) * (len(Wire.__struct_fields__) - 1) - sum(map(_NONES, calls)) + weighed
    return calls if named + sum(map(len, properties)) == outside.count(b":") else None


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


def _is_list(body: bytes) -> bool:
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
