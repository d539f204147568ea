"""The one strict check in front of everything: keyword calls, wire JSON and imported files all pass here.

A whole batch is first *proven* clean by a few fast checks in C. Only when a proof fails is each event examined by
the exact rules in `rules.py`, which name the reason. The gate refuses; it never repairs, coerces or drops silently.
"""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import repeat
from typing import Any, TypeAlias

import msgspec

from gnomon.config import Settings
from gnomon.errors import InvalidValue
from gnomon.event import AT, GIVEN, NAME_BYTES, WIRE_ALIASES, Row, in_a_row, sources_of
from gnomon.ingest.addresses import (
    bare_address,
    bare_domain,
    bare_endpoint,
    bare_source,
    bare_url,
    bare_urls,
    split_url,
)
from gnomon.ingest.calls import CALL, CALL_PROPERTIES, FROM_FIELDS, Columns, WireCalls, columns_of, plain, without_empty
from gnomon.ingest.proof import NewIds, Proof
from gnomon.ingest.rules import Refusal, check_event, check_sample, encode_properties, exact
from gnomon.pseudonyms import HIDDEN, Pseudonyms
from gnomon.timerange import parse_moment

_OF_PEOPLE = tuple(map(CALL.index, ("user_id", "device_id", "session_id", "properties")))
_KNOWN = frozenset(GIVEN) | WIRE_ALIASES.keys()
_SHOWN = _KNOWN | {"url", "name", "value", "kind", "labels"}
#: Calls that are proven at once: enough that fixed costs do not matter, few enough for the processor's caches.
AT_ONCE = 1_000
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

    rows: Sequence[Row] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    received: Counter[str | None] = field(default_factory=Counter)
    checked_ids: bool = False  #: some ids came from outside, so a repeat may carry another time

    def add(self, other: Admitted) -> None:
        """Take over what another part of the batch became."""
        rows = self.rows if isinstance(self.rows, list) else [*self.rows]  # parts may be many, and small
        rows.extend(other.rows)
        self.rows = rows
        self.add_refusals(other)

    def add_refusals(self, other: Admitted) -> None:
        """As `add`, of everything but the rows."""
        self.refused += other.refused
        self.received += other.received
        self.checked_ids |= other.checked_ids


class Gate:
    """Checks batches against the limits in `settings`; `clock_us` gives the time in UTC microseconds."""

    def __init__(self, settings: Settings, clock_us: Callable[[], int]) -> None:
        self.settings = settings
        self._clock_us = clock_us
        self.pseudonyms = pseudonyms_of(settings)
        self._proof = Proof(settings)

    def admit_calls(self, calls: Sequence[Row], *, imported: bool = False) -> Admitted:
        """Check keyword calls (tuples in `CALL` order)."""
        now, new, parts = self._clock_us(), NewIds(), list[Admitted]()
        for start in range(0, len(calls), AT_ONCE):
            part = calls[start : start + AT_ONCE]
            found = self._proven(columns_of(part), new, now, imported=imported)
            parts.append(self._examined(part, new, now, imported, start) if found is None else found)
        return _together(parts)

    def admit_columns(self, columns: Columns, count: int, *, imported: bool = False) -> Admitted | None:
        """Check events as columns in the order of `FROM_FIELDS`, each with an id; None: they have to go one by one."""
        now = self._clock_us()
        columns = [*without_empty(columns), [now * 1_000] * count, None]
        return self._proven(columns, NewIds(), now, imported=imported)

    def admit_wire(self, calls: WireCalls) -> Admitted:
        """Check events of wire JSON of which nothing is unusual so far."""
        now, new = self._clock_us(), NewIds()
        at_ns = now * 1_000
        found = self._proven([*calls.columns, [at_ns] * len(calls), None], new, now, typed=True, ascii=calls.ascii)
        if found is not None:
            return found
        return self._examined([(*row, at_ns, None) for row in calls.rows()], new, now, False)

    def _proven(self, columns: Columns, new: NewIds, now: int, *, typed: bool = False,
                ascii: bool = False, imported: bool = False) -> Admitted | None:  # fmt: skip
        """The batch as rows if all of it is clean; None means «examine», not «bad»."""
        if self.pseudonyms is not None:
            try:
                columns, typed, ascii = _replaced(self.pseudonyms, columns, imported), False, False
            except Exception:  # noqa: BLE001  a value may raise from any of its own methods: the rules say what it is
                return None
        found = self._proof.of(columns, new, now, self._time_bounds(now, imported), typed=typed, ascii=ascii,
                               imported=imported)  # fmt: skip
        if found is None:
            return None
        return Admitted(found.rows, [], found.rows.sources().copy(), found.ids_given)

    def _examined(self, calls: Sequence[Row], new: NewIds, now: int, imported: bool, start: int = 0) -> Admitted:
        """Each event by the exact rules; the first of them has the place `start` in its batch."""
        out = Admitted()
        rows = self._normalise(calls, new, now, out, imported)
        out.rows = self._examine(calls, rows, now, imported, out)
        if start:
            out.refused = [replace(refused, index=refused.index + start) for refused in out.refused]
        out.received = sources_of(out.rows).copy()
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

    def _normalise(self, calls: Sequence[Row], new: NewIds, now: int, out: Admitted,
                   imported: bool) -> list[Row | None]:  # fmt: skip
        """Calls as rows, None where one cannot be made a row."""
        rows: list[Row | None] = []
        pseudonyms = self.pseudonyms
        for index, call in enumerate(plain(calls)):
            try:
                (type_, user, device, session, source, application, domain, endpoint, method, status, duration, sent,
                 received, success, error, weight, props, id_, ts, at_ns, url) = call  # fmt: skip
                if pseudonyms is not None:
                    user, device, session, props = pseudonyms.of_event(user, device, session, props, imported)
                if id_ is None:
                    id_ = new.one(at_ns)
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
                rows.append((id_, moment, now, type_, user, device, session, source, application, domain, endpoint,
                             method, status, duration, sent, received, success, error, weight, text))  # fmt: skip
            except Refusal as refusal:
                out.refused.append(self._refused_call(index, refusal, call))
                rows.append(None)
            except TypeError:  # a URL that cannot be hashed
                out.refused.append(self._refused_call(index, Refusal("wrong-type", "url: not text"), call))
                rows.append(None)
        return rows

    def _examine(self, calls: Sequence[Row], rows: list[Row | None], now: int, imported: bool,
                 out: Admitted) -> list[Row]:  # fmt: skip
        good: list[Row] = []
        given = list(plain(calls))
        for index, row in enumerate(rows):
            if row is None:
                continue
            try:
                bare = tuple(map(exact, row))
                check_event(bare, given[index][CALL_PROPERTIES], self.settings)
                self._check_time(row[_TS], now, imported)
                good.append(bare)
            except Refusal as refusal:
                out.refused.append(self._refused_call(index, refusal, given[index]))
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


def _together(parts: Sequence[Admitted]) -> Admitted:
    """Parts of one batch as one."""
    if len(parts) == 1:
        return parts[0]
    whole = Admitted(rows=in_a_row([part.rows for part in parts]))
    for part in parts:
        whole.add_refusals(part)
    return whole


def _replaced(pseudonyms: Pseudonyms, columns: Columns, imported: bool) -> Columns:
    """Columns with pseudonyms in the place of ids."""
    of_people = [columns[place] for place in _OF_PEOPLE]
    if not any(of_people):
        return columns
    found = map(pseudonyms.of_event, *(one or repeat(None) for one in of_people), repeat(imported))
    columns = [*columns]
    for place, one in zip(_OF_PEOPLE, zip(*found, strict=True), strict=True):
        columns[place] = one if columns[place] is not None else None
    return columns


def pseudonyms_of(settings: Settings) -> Pseudonyms | None:
    """What replaces ids in the project of these settings, None where nothing does. Raises `InvalidValue`."""
    if settings.pseudonym_keys:
        return Pseudonyms(settings.pseudonym_keys, settings.pseudonym_properties, settings.project,
                          settings.max_string_bytes, settings.max_nesting)  # fmt: skip
    if settings.pseudonym_properties:
        raise InvalidValue("properties are to become pseudonyms, but there is no key",
                           remedy="Set pseudonym_keys as well.", code="weak-key")  # fmt: skip
    return None


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
    return (*map(fields.get, FROM_FIELDS), now_ns, None)


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


def source_of(value: Any) -> str | None:
    """The source under which an event is booked: as a row would hold it, unknown (None) if none could."""
    if not issubclass(type(value), str):  # not isinstance: that asks the value, and a proxy may raise
        return None
    value = bare_source(value)
    try:
        return value if 0 < len(value.encode()) <= NAME_BYTES and "\x00" not in value else None
    except UnicodeEncodeError:
        return None


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
