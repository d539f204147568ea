"""A whole batch at once: columns of calls are cut, proven clean and made into rows, nearly all of it in C.

What is proven here is stricter than the rules, so that a batch that passes has nothing to refuse. None means «look at
each event», never «bad»; nothing is refused here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, repeat
from operator import is_
from typing import Any

import msgspec

from gnomon.config import Settings
from gnomon.event import Rows
from gnomon.ingest.addresses import bare_address, bare_source, bare_urls, split_url
from gnomon.ingest.bodies import encoded
from gnomon.ingest.calls import FROM_FIELDS, ONE, Column, Columns
from gnomon.ingest.rules import MOST_PROPERTIES, NARROW, WIDE
from gnomon.timerange import parse_moment, parse_moments


def _columns_type(name: str, types: dict[str, Any]) -> Any:
    """Columns in the order of `FROM_FIELDS` as a msgspec type; times are looked at by themselves."""

    def column(field: str) -> tuple[str, Any]:
        if field == "ts":
            return field, None
        each = types[field] if field in ("type", "weight") else types[field] | None
        return field, list[each] if field in ("type", "weight") else list[each] | None  # type: ignore[valid-type]

    return msgspec.defstruct(name, [column(field) for field in FROM_FIELDS], array_like=True, gc=False)


WIDE_COLUMNS: Any = _columns_type("WideColumns", WIDE)
NARROW_COLUMNS: Any = _columns_type("NarrowColumns", NARROW)
#: An event of wire JSON with fields of the row only, each as a clean batch has it.
Wire = msgspec.defstruct(
    "Wire",
    [("type", WIDE["type"]), *((name, {**WIDE, "ts": str}[name], ONE if name == "weight" else None)
                               for name in FROM_FIELDS[1:])],
    forbid_unknown_fields=True, gc=False,
)  # fmt: skip
_encode_lines = msgspec.json.Encoder().encode_lines
_values = msgspec.structs.astuple


@dataclass(frozen=True, slots=True)
class Proven:
    """The rows of a clean batch, and whether ids were given."""

    rows: Rows
    ids_given: bool


class Proof:
    """The proof within the limits of `settings`."""

    def __init__(self, settings: Settings) -> None:
        self._most_text = settings.max_string_bytes
        # Texts outside properties are at most 9 names and 2 addresses: about 6 KB.
        self._possible = (
            settings.max_event_bytes >= settings.max_string_bytes + 8_192
            and settings.max_properties >= MOST_PROPERTIES
            and settings.max_nesting >= 2
        )

    def of(self, columns: Columns, new: NewIds, now: int, bounds: tuple[int, int], *, typed: bool = False,
           ascii: bool = False, imported: bool = False) -> Proven | None:  # fmt: skip
        """What becomes of columns in `CALL` order; None where something is unusual.

        `now` and `bounds` are UTC microseconds; `typed` says that the columns came out of the types of the wire,
        `ascii` that every text in them is ASCII without NUL.
        """
        if not self._possible:
            return None
        try:
            return self._of(columns, new, now, bounds, typed, ascii, imported)
        except Exception:  # noqa: BLE001  a value may raise from any of its own methods: the rules say what it is
            return None

    def _of(self, columns: Columns, new: NewIds, now: int, bounds: tuple[int, int], typed: bool,
            ascii: bool, imported: bool) -> Proven | None:  # fmt: skip
        *fields, at_ns, url = columns
        assert at_ns is not None
        ids, ts = fields[-2:]
        moments = [at // 1_000 for at in at_ns] if ts is None else _moments(ts, at_ns, imported)
        if min(moments) < bounds[0] or max(moments) > bounds[1]:
            return None
        fields[-1] = None
        if not (_cut(fields, url) and typed):
            fields = [*_values(msgspec.convert(fields, WIDE_COLUMNS))]
            ids = fields[-2]
        (type_, user, device, session, source, application, domain, endpoint, method, status, duration, sent,
         received, success, error, weight, properties, _, _) = fields  # fmt: skip
        texts = None if properties is None else self._texts(properties)
        if ids is None or None in ids:
            ids = new.where_missing(ids, at_ns)
        success = _successes(success, status, error)
        count = len(moments)
        whole = (ids, moments, [now] * count, type_, user, device, session, source, application, domain, endpoint,
                 method, status, duration, sent, received, success, error, weight, texts)  # fmt: skip
        rows = Rows(whole, count)
        if not ascii:
            rows.encoded = encoded(rows)
            if b"\\u0000" in rows.encoded:
                return None
            if not rows.encoded.isascii():
                msgspec.convert(fields, NARROW_COLUMNS)
        return Proven(rows, fields[-2] is not None)

    def _texts(self, properties: Column) -> Column | None:
        """Properties as JSON texts. Raises ValueError where one may be too long."""
        filled = [one for one in properties if one]
        if not filled:
            return None
        lines = _encode_lines(filled)
        texts = lines.decode().split("\n")
        texts.pop()
        bytes_each = 1 if lines.isascii() else 4
        if max(map(len, texts)) * bytes_each > self._most_text or max(map(len, filled)) > MOST_PROPERTIES:
            raise ValueError
        if b"@" in lines:
            texts = list(map(bare_urls, texts))
        if len(filled) == len(properties):
            return texts
        left = iter(texts)
        return [next(left) if one else None for one in properties]


def _moments(ts: Column, at_ns: Column, imported: bool) -> list[int]:
    if set(map(type, ts)) == {str}:
        distinct = list(dict.fromkeys(ts))
        found = parse_moments(distinct)
        return found if len(distinct) == len(ts) else [*map(dict(zip(distinct, found, strict=True)).__getitem__, ts)]
    if imported and set(map(type, ts)) == {int}:
        return [*ts]
    return [_moment(one, at, imported) for one, at in zip(ts, at_ns, strict=True)]


def _moment(ts: Any, at_ns: int, imported: bool) -> int:
    if ts is None:
        return at_ns // 1_000
    if imported and type(ts) is int:
        return ts
    if not isinstance(ts, str | datetime):
        raise TypeError
    return parse_moment(ts)


def _cut(fields: Columns, url: Column | None) -> bool:
    """Take addresses apart and credentials away, in place; whether nothing had to be done."""
    before = source, domain, endpoint, error = tuple(fields[place] for place in _ADDRESSES)
    if "@" in _joined(source):
        source = list(map(bare_source, source or ()))
    if "@" in _joined(error):
        error = list(map(bare_source, error or ()))
    both = _joined(domain) + _joined(endpoint)
    if "@" in both or "?" in both or "#" in both:
        pairs = list(chain.from_iterable(map(bare_address, domain or repeat(None), endpoint or repeat(None))))
        domain, endpoint = pairs[::2], pairs[1::2]
    if url is not None:
        parts = list(chain.from_iterable((None, None) if one is None else split_url(one) for one in url))
        domain, endpoint = _filled(domain, parts[::2]), _filled(endpoint, parts[1::2])
    after = (source, domain, endpoint, error)
    for place, column in zip(_ADDRESSES, after, strict=True):
        fields[place] = column
    return all(map(is_, before, after))


def _filled(column: Column | None, other: Column) -> Column:
    """The first column, with values of the other where it has none."""
    return other if column is None else [b if a is None else a for a, b in zip(column, other, strict=True)]


def _joined(column: Column | None) -> str:
    """All texts of a column as one. Raises TypeError for what is no text."""
    if column is None:
        return ""
    try:
        return "".join(column)
    except TypeError:
        return "".join([one for one in column if one is not None])


def _successes(success: Column | None, status: Column | None, error: Column | None) -> Column | None:
    """Whether each went well: as given, else by its status, else a failure where there is an error."""
    if success is None and status is None:
        return None if error is None else [None if one is None else False for one in error]
    if success is None and error is None and status is not None:
        return [None if one is None else one < 400 for one in status]
    if success is not None and None not in success:
        return success
    nothing = repeat(None)
    return [
        given if given is not None else code < 400 if code is not None else None if fault is None else False
        for given, code, fault in zip(success or nothing, status or nothing, error or nothing, strict=False)
    ]


class NewIds:
    """Makes the ids of one batch: UUIDv7 texts (RFC 9562, 5.7) with the time in front.

    Ids of one batch are consecutive, so a store compresses them well; 74 random bits keep batches apart.
    """

    __slots__ = ("_counter", "_head", "_middle", "_ms")

    def __init__(self) -> None:
        noise = int.from_bytes(os.urandom(10), "big")
        self._middle = f"-7{noise & 0xFFF:03x}-{0x8000 | (noise >> 12) & 0x3FFF:04x}-"
        self._counter = (noise >> 26) & 0x7FFF_FFFF_FFFF
        self._ms, self._head = -1, ""

    def one(self, at_ns: int) -> str:
        """The next id, of an event that was recorded at that nanosecond."""
        ms = at_ns // 1_000_000
        if ms != self._ms:
            self._ms, self._head = ms, f"{(ms >> 16) & 0xFFFFFFFF:08x}-{ms & 0xFFFF:04x}{self._middle}"
        self._counter += 1
        return f"{self._head}{self._counter:012x}"

    def where_missing(self, given: Column | None, at_ns: Column) -> Column:
        """Ids as given; made where there is none."""
        if given is not None:
            return [self.one(at) if id_ is None else id_ for at, id_ in zip(at_ns, given, strict=True)]
        first, last = at_ns[0] // 1_000_000, at_ns[-1] // 1_000_000
        if first != last or min(at_ns) // 1_000_000 != first or max(at_ns) // 1_000_000 != first:
            return list(map(self.one, at_ns))
        start = self._counter + 2
        made = [self.one(at_ns[0])]
        made += [f"{self._head}{counter:012x}" for counter in range(start, start + len(at_ns) - 1)]
        self._counter += len(at_ns) - 1
        return made


_ADDRESSES = tuple(map(FROM_FIELDS.index, ("source", "domain", "endpoint", "error_code")))
