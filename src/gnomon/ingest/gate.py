"""The one strict check in front of everything: keyword calls, wire JSON and imported files all pass here.

A whole batch is first *proven* clean by a few fast checks in C. Only when a proof fails is each event examined by
the exact rules in `rules.py`, which name the reason. The gate refuses; it never repairs, coerces or drops silently.
"""

from __future__ import annotations

import os
import reprlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from operator import itemgetter
from typing import Any, TypeAlias

import msgspec

from gnomon.config import Settings
from gnomon.errors import InvalidValue
from gnomon.event import AT, GIVEN, NAME_BYTES, WIRE_ALIASES, Row
from gnomon.ingest.addresses import (
    bare_address,
    bare_domain,
    bare_endpoint,
    bare_source,
    bare_url,
    bare_urls,
    split_url,
)
from gnomon.ingest.rules import (
    FLAT_PROPERTIES,
    NARROW_ROWS,
    PLAIN_ROWS,
    Refusal,
    check_event,
    check_sample,
    encode_properties,
    exact,
)
from gnomon.pseudonyms import HIDDEN, Pseudonyms
from gnomon.timerange import parse_moment

#: The order of a keyword call as the collector buffers it; `at_ns` is the caller's clock, `url` is taken apart here.
CALL: tuple[str, ...] = (
    "type", "user_id", "device_id", "session_id", "source", "application", "domain", "endpoint", "method",
    "status_code", "duration_ms", "bytes_sent", "bytes_received", "success", "error_code", "weight", "properties",
    "id", "ts", "at_ns", "url",
)  # fmt: skip
CALL_SOURCE = CALL.index("source")
CALL_PROPERTIES = CALL.index("properties")
CALL_TYPE, CALL_USER, CALL_WEIGHT = CALL.index("type"), CALL.index("user_id"), CALL.index("weight")
#: A keyword call in the buffer. Unlike a tuple it is nothing to the garbage collector, which would otherwise stop a
#: caller for 90 us after every 700 calls, and look at every waiting call again in each full collection.
Call = msgspec.defstruct("Call", [(name, Any) for name in CALL], gc=False)
_FROM_FIELDS = tuple(name for name in CALL if name not in ("at_ns", "url"))
#: The weight of an event that names none; told by identity from one that names 1.
ONE = 1.0
#: An event of wire JSON with fields of the row only, for batches that are clean: decoded so it becomes a call at once.
Wire = msgspec.defstruct(
    "Wire",
    [(name, Any, ONE if name == "weight" else None) for name in _FROM_FIELDS],
    forbid_unknown_fields=True,
    gc=False,
)
_KNOWN = frozenset(GIVEN) | WIRE_ALIASES.keys()
_SHOWN = _KNOWN | {"url", "name", "value", "kind", "labels"}
_TS, _PROPERTIES = AT["ts"], AT["properties"]


#: What else the fields of an event from outside have to pass, see `Gate.admit_fields`.
Vet: TypeAlias = Callable[[dict[str, Any]], None]


class Doubled(dict[str, Any]):
    """An object of wire JSON in which a key stood more than once, here or further in."""


@dataclass(frozen=True, slots=True)
class Refused:
    """One event that did not pass: its place in the batch, a stable code, the detail, and what was sent (cut)."""

    index: int
    code: str
    detail: str
    text: str
    source: str | None = None
    id: str | None = None


@dataclass(slots=True)
class Admitted:
    """What the gate made of a batch: rows in `ROW` order, refusals, and how many arrived from each source."""

    rows: list[Row] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    received: Counter[str | None] = field(default_factory=Counter)
    encoded: bytes | None = None  #: `rows` as JSON, where the proof has made it anyway
    checked_ids: bool = False  #: some ids came from outside, so a repeat may carry another time

    def add(self, other: Admitted) -> None:
        """Take over what another part of the batch became."""
        self.rows += other.rows
        self.encoded = None
        self.refused += other.refused
        self.received += other.received
        self.checked_ids |= other.checked_ids


class Gate:
    """Checks batches against the limits in `settings`; `clock_us` gives the time in UTC microseconds."""

    def __init__(self, settings: Settings, clock_us: Callable[[], int]) -> None:
        self.settings = settings
        self._clock_us = clock_us
        self.pseudonyms = pseudonyms_of(settings)
        # Texts outside properties are at most 9 names and 2 addresses: about 6 KB.
        self._limits_allow_proof = (
            settings.max_event_bytes >= settings.max_string_bytes + 8_192
            and settings.max_properties >= 256
            and settings.max_nesting >= 2
        )

    def admit_calls(self, calls: Sequence[Row], *, imported: bool = False) -> Admitted:
        """Check keyword calls (tuples in `CALL` order)."""
        now = self._clock_us()
        out = Admitted()
        rows, properties = self._normalise(calls, now, out, imported)
        if rows and not self._all_clean(rows, properties, now, imported, out):
            rows = self._examine(calls, rows, properties, now, imported, out)
        out.rows = [row for row in rows if row is not None]
        out.received = Counter(map(itemgetter(AT["source"]), out.rows))
        out.received.update(refused.source for refused in out.refused)
        return out

    def admit_fields(self, events: Iterable[Any], *, imported: bool = False, vet: Vet | None = None) -> Admitted:
        """Check events given as mappings of field names (wire JSON, imported files).

        `vet` gets the fields of each, may fill some in, and raises `Refusal` for what this sender may not send.
        """
        calls: list[Row] = []
        places: list[int] = []
        early: list[Refused] = []
        now_ns = self._clock_us() * 1_000
        for index, event in enumerate(events):
            try:
                call = _call_from_fields(event, now_ns, vet)
            except Refusal as refusal:
                early.append(self._refused(index, refusal, event))
                continue
            calls.append(call)
            places.append(index)
        out = self.admit_calls(calls, imported=imported)
        out.received.update(item.source for item in early)
        moved = [replace(refused, index=places[refused.index]) for refused in out.refused]
        out.refused = sorted(early + moved, key=lambda refused: refused.index)
        return out

    def admit_samples(self, samples: Sequence[Row]) -> tuple[list[Row], list[Refused]]:
        """Check metric samples `(name, value, kind, labels, ts, at_ns, id)`; rows come back in `SAMPLE_ROW` order."""
        now = self._clock_us()
        rows: list[Row] = []
        refused: list[Refused] = []
        for index, (name, value, kind, labels, ts, at_ns, id_) in enumerate(samples):
            try:
                moment = at_ns // 1_000 if ts is None else _moment(ts, False)
                text = check_sample(exact(name), exact(value), exact(kind), labels, exact(id_), self.settings)
                if text and self.pseudonyms is not None:
                    text = encode_properties(self.pseudonyms.of_properties(labels))
                text = text and bare_urls(text)
                self._check_time(moment, now, False)
                rows.append((moment, now, exact(name), exact(kind), float(value), text, exact(id_)))
            except Refusal as refusal:
                shown = {"name": name, "value": value, "kind": kind, "labels": labels}
                shown |= {} if id_ is None else {"id": id_}
                refused.append(self._refused(index, refusal, shown))
        return rows, refused

    def _normalise(self, calls: Sequence[Row], now: int, out: Admitted,
                   imported: bool) -> tuple[list[Row | None], list[Any]]:  # fmt: skip
        """Calls as rows, None where one cannot be made a row. Long on purpose: a call less here is 0.1 us an event."""
        rows: list[Row | None] = []
        properties: list[Any] = []
        middle, counter = _id_parts()
        last_ms, head, pseudonyms = -1, "", self.pseudonyms
        for index, call in enumerate(_plain(calls)):
            try:
                (type_, user, device, session, source, application, domain, endpoint, method, status, duration, sent,
                 received, success, error, weight, props, id_, ts, at_ns, url) = call  # fmt: skip
                if pseudonyms is not None:
                    user, device, session, props = pseudonyms.of_event(user, device, session, props, imported)
                if id_ is None:
                    ms = at_ns // 1_000_000
                    if ms != last_ms:
                        last_ms, head = ms, f"{(ms >> 16) & 0xFFFFFFFF:08x}-{ms & 0xFFFF:04x}{middle}"
                    counter += 1
                    id_ = f"{head}{counter:012x}"
                else:
                    out.checked_ids = True
                moment = at_ns // 1_000 if ts is None else _moment(ts, imported)
                if domain is not None or endpoint is not None:
                    domain, endpoint = bare_address(domain, endpoint)
                source = (
                    source if source is None or (type(source) is str and "@" not in source) else bare_source(source)
                )
                error = error if error is None else bare_source(error)
                if url is not None:
                    host, path = split_url(url)
                    domain = host if domain is None else domain
                    endpoint = path if endpoint is None else endpoint
                if success is None:
                    success = status < 400 if type(status) is int else _outcome(status, error)
                text = None
                if props is not None and props != {}:
                    text = encode_properties(props)
                    text = bare_urls(text) if "@" in text else text
                    properties.append(props)
                rows.append((id_, moment, now, type_, user, device, session, source, application, domain, endpoint,
                             method, status, duration, sent, received, success, error, weight, text))  # fmt: skip
            except Refusal as refusal:
                out.refused.append(self._refused_call(index, refusal, call))
                rows.append(None)
            except TypeError:  # a URL that cannot be hashed
                out.refused.append(self._refused_call(index, Refusal("wrong-type", "url: not text"), call))
                rows.append(None)
        return rows, properties

    def _all_clean(self, rows: list[Row | None], properties: list[Any], now: int, imported: bool,
                   out: Admitted) -> bool:  # fmt: skip
        """True only if every rule holds for every row; False means «examine», not «bad»."""
        whole = [row for row in rows if row is not None]
        moments = [row[_TS] for row in whole]
        if not moments:
            return True
        if not self._limits_allow_proof or (out.checked_ids and {type(row[0]) for row in whole} != {str}):
            return False
        low, high = self._time_bounds(now, imported)
        if min(moments) < low or max(moments) > high:
            return False
        try:
            msgspec.convert(whole, PLAIN_ROWS)
            body = _encode_rows(whole)
            if not body.isascii():
                msgspec.convert(whole, NARROW_ROWS)
            if properties:
                msgspec.convert(properties, FLAT_PROPERTIES)
        except (msgspec.ValidationError, TypeError, ValueError, OverflowError):
            return False
        if b"\\u0000" in body:
            return False
        if properties and not self._texts_clean([row[_PROPERTIES] for row in whole if row[_PROPERTIES] is not None]):
            return False
        out.encoded = body
        return True

    def _texts_clean(self, texts: list[str]) -> bool:
        joined = "".join(texts)
        bytes_each = 1 if joined.isascii() else 4
        if max(map(len, texts)) * bytes_each > self.settings.max_string_bytes:
            return False
        return joined.count("{") + joined.count("[") == len(texts)  # flat

    def _examine(self, calls: Sequence[Row], rows: list[Row | None], properties: list[Any], now: int,
                 imported: bool, out: Admitted) -> list[Row | None]:  # fmt: skip
        good: list[Row | None] = []
        plain_calls = list(_plain(calls))
        for index, row in enumerate(rows):
            if row is None:
                continue
            try:
                plain = tuple(map(exact, row))
                check_event(plain, plain_calls[index][CALL_PROPERTIES], self.settings)
                self._check_time(row[_TS], now, imported)
                good.append(plain)
            except Refusal as refusal:
                out.refused.append(self._refused_call(index, refusal, plain_calls[index]))
        out.refused.sort(key=lambda refused: refused.index)
        return good

    def _refused_call(self, index: int, refusal: Refusal, call: Row) -> Refused:
        shown = {name: value for name, value in zip(CALL, call, strict=True) if value is not None and name != "at_ns"}
        return self._refused(index, refusal, shown)

    def _refused(self, index: int, refusal: Refusal, sent: Any) -> Refused:
        given = sent if isinstance(sent, Mapping) else {}
        id_, source = given.get("id"), source_of(given.get("source", given.get("src")))
        kept = exact(id_) if isinstance(id_, str) and len(id_) <= 200 and id_.isprintable() else None
        return Refused(index, refusal.code, refusal.detail, self.shown(sent), source, kept)

    def shown(self, sent: Any) -> str:
        """What was sent as the quarantine keeps it: cut, without credentials, and without what pseudonyms replace."""
        return _cut(_bare(sent if self.pseudonyms is None else self.pseudonyms.hidden(sent, _SHOWN)))

    def shown_line(self, line: str) -> str:
        """A line of a file that could not be read, for the quarantine: nobody knows where in it an id stands."""
        return line if self.pseudonyms is None else HIDDEN

    def _time_bounds(self, now: int, imported: bool) -> tuple[int, int]:
        low = 0 if imported else now - self.settings.max_past_days * 86_400_000_000
        return low, now + self.settings.max_future_seconds * 1_000_000

    def _check_time(self, moment: int, now: int, imported: bool) -> None:
        low, high = self._time_bounds(now, imported)
        if not low <= moment <= high:
            past = "1970" if imported else f"{self.settings.max_past_days} days back"
            raise Refusal("time-out-of-range", f"ts: outside {past} .. {self.settings.max_future_seconds} s ahead")


def pseudonyms_of(settings: Settings) -> Pseudonyms | None:
    """What replaces ids in the project of these settings, None where nothing does. Raises `InvalidValue`."""
    if settings.pseudonym_keys:
        return Pseudonyms(settings.pseudonym_keys, settings.pseudonym_properties, settings.project,
                          settings.max_string_bytes, settings.max_nesting)  # fmt: skip
    if settings.pseudonym_properties:
        raise InvalidValue("properties are to become pseudonyms, but there is no key",
                           remedy="Set pseudonym_keys as well.", code="weak-key")  # fmt: skip
    return None


_encode_rows = msgspec.json.Encoder().encode


def _call_from_fields(event: Any, now_ns: int, vet: Vet | None = None) -> Row:
    if not isinstance(event, Mapping):
        raise Refusal("wrong-type", "event: not an object")
    if type(event) is Doubled:
        raise Refusal("duplicate-key", "event: a key stands twice in an object")
    fields = dict(event)
    if not fields.keys() <= _KNOWN:
        raise Refusal("unknown-field", "event: has a field that is not part of the event row")
    for alias, name in WIRE_ALIASES.items():
        if alias in fields:
            value = fields.pop(alias)
            if name in fields and fields[name] != value:
                raise Refusal(f"{name}-conflict", f"{alias} and {name} differ")
            fields[name] = value
    if vet is not None:
        vet(fields)
    if fields.get("weight") is None:
        fields["weight"] = 1.0
    return (*map(fields.get, _FROM_FIELDS), now_ns, None)


def _moment(ts: Any, imported: bool) -> int:
    """UTC microseconds of what a caller gave as `ts`; importers give them as they are, nobody else may."""
    if imported and type(ts) is int:
        return ts
    if not isinstance(ts, str | datetime):
        raise Refusal("bad-time", "ts: neither an aware datetime nor ISO 8601 text with a zone")
    try:
        return parse_moment(ts)
    except InvalidValue as error:
        raise Refusal(error.code, f"ts: {error.message}") from None


def _outcome(status: Any, error: Any) -> bool | None:
    """Without a status an error code means failure; without both the outcome is unknown."""
    if status is not None:
        return exact(status) < 400 if isinstance(status, int) and not isinstance(status, bool) else None
    return False if error is not None else None


def _id_parts() -> tuple[str, int]:
    """The middle and the first counter of a batch's ids: UUIDv7 texts (RFC 9562, 5.7) with the time in front.

    Ids of one batch are consecutive, so a store compresses them well; 74 random bits keep batches apart.
    """
    noise = int.from_bytes(os.urandom(10), "big")
    middle = f"-7{noise & 0xFFF:03x}-{0x8000 | (noise >> 12) & 0x3FFF:04x}-"
    return middle, (noise >> 26) & 0x7FFF_FFFF_FFFF


def source_of(value: Any) -> str | None:
    """The source under which an event is booked: as a row would hold it, unknown (None) if none could."""
    if not issubclass(type(value), str):  # not isinstance: that asks the value, and a proxy may raise
        return None
    value = bare_source(value)
    try:
        return value if 0 < len(value.encode()) <= NAME_BYTES and "\x00" not in value else None
    except UnicodeEncodeError:
        return None


def _plain(calls: Sequence[Any]) -> Iterable[Row]:
    """Calls as tuples in `CALL` order, one after the other."""
    return map(msgspec.structs.astuple, calls) if calls and isinstance(calls[0], Call) else calls


#: How the fields that may hold an address are shown in the quarantine.
_BARE = {"url": bare_url, "domain": bare_domain, "endpoint": bare_endpoint, "source": bare_source, "src": bare_source,
         "error_code": bare_source}  # fmt: skip


def _bare(shown: Any) -> Any:
    """What was sent, without the credentials that a row would not hold either."""
    if not isinstance(shown, Mapping):
        return shown
    return {name: _BARE[name](value) if name in _BARE else value for name, value in shown.items()}


_BRIEF = reprlib.Repr()
_BRIEF.maxdict, _BRIEF.maxstring, _BRIEF.maxother = 64, 500, 500


def _cut(shown: Any) -> str:
    """What was sent, as printable text of at most 2,000 characters for the quarantine."""
    try:
        text = msgspec.json.encode(shown, enc_hook=repr).decode()
    except (TypeError, ValueError, RecursionError, OverflowError):
        try:
            text = _BRIEF.repr(shown).encode("ascii", "backslashreplace").decode()
        except ValueError:  # an integer of more digits than Python writes
            text = "a value that cannot be shown"
    return bare_urls(text)[:2_000].replace("\x00", "\\u0000")
