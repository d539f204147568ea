"""Reading the audit: the check of the whole chain, and the entries for people. Nothing here writes a byte.

The check follows every entry from the anchored start to the anchored end and names the first one that is not as it
was written. Whoever holds the key and may write all files can make up another chain: only a head that was noted
elsewhere shows that (`expect`).
"""

from __future__ import annotations

import hmac
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from gnomon.errors import InvalidValue, StoreDamaged
from gnomon.timerange import DateRange, from_us
from gnomon.upkeep.anchor import GENESIS, Anchor, Key, broken, claims_entries, read_block, read_key
from gnomon.upkeep.chain import COLUMNS, MOST_WAIT

_NUMBER, _TEXT, _EITHER = (int,), (str,), (int, type(None))
#: The types that SQLite may give back, in the order of COLUMNS; a REAL or a BLOB in their place is an edit.
_TYPES = (_NUMBER, _NUMBER, _TEXT, _TEXT, _TEXT, _EITHER, _EITHER, _TEXT, _EITHER, _NUMBER, _TEXT)

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


@dataclass(frozen=True)
class Head:
    """The number of entries ever written and the hash of the last: note its text elsewhere to prove a later chain."""

    count: int
    hash: str

    def __str__(self) -> str:
        return f"{self.count}:{self.hash}"

    @classmethod
    def parse(cls, text: str) -> Head:
        """The head in a text `count:hash`. Raises `InvalidValue` (bad-head)."""
        count, _, hash = text.strip().partition(":")
        if not (count.isascii() and count.isdigit() and len(hash) == 64 and set(hash) <= set("0123456789abcdef")):
            raise InvalidValue("that is no head of an audit", code="bad-head",
                               remedy="Give what `gnomon audit head` printed: COUNT:HASH.")  # fmt: skip
        return cls(int(count), hash)


@dataclass(frozen=True)
class Verdict:
    """Whether the audit is as it was written; if not, the first bad entry (None when it is no single one) and why."""

    sound: bool
    entries: int  #: that were followed
    head: Head
    first_bad: int | None = None
    reason: str = ""

    def __bool__(self) -> bool:
        return self.sound

    def __str__(self) -> str:
        if self.sound:
            return f"The audit is sound: {self.entries:,} entries, head {self.head}"
        place = "" if self.first_bad is None else f" at entry {self.first_bad}"
        return f"The audit is NOT sound{place}: {self.reason}"


@dataclass(frozen=True)
class AuditEntry:
    """One entry, for people: `who` is a name, or its digest once the name was erased."""

    number: int
    at: datetime
    project: str
    who: str
    operation: str
    range: tuple[datetime, datetime] | None
    outcome: str
    rows: int | None
    duration_ms: float
    detail: dict[str, Any] = field(default_factory=dict)
    hash: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; times as ISO texts."""
        span = None if self.range is None else [moment.isoformat() for moment in self.range]
        return {**asdict(self), "at": self.at.isoformat(), "range": span}


def verify(path: Path, expect: Head | None = None) -> Verdict:
    """Check the audit in `path` (`<store>.audit`), and that it holds `expect`, a head that was noted earlier.

    Raises `StoreUnavailable` when another process holds it for too long, or it cannot be opened.
    """
    with _reading(path) as (db, block):
        try:
            key = read_key(key_of(path))
        except StoreDamaged as error:
            return _unsound(0, None, error.message)
        if key is None:
            begun = claims_entries(block or b"") or (db and db.execute("SELECT 1 FROM entry LIMIT 1").fetchone())
            if not begun and expect is None:
                return Verdict(True, 0, Head(0, GENESIS.hex()))
            return _unsound(0, None, "the key of the audit is missing")
        return examine(db, None if block is None else Anchor.unsealed(block, key), key, expect)


def examine(db: sqlite3.Connection | None, anchor: Anchor | None, key: Key, expect: Head | None = None) -> Verdict:
    """`verify` on an open database (None: the file is missing) and the anchor (None: missing, or not as sealed)."""
    if anchor is None:
        return _unsound(0, None, "the anchor is missing or was changed")
    trail = _Trail(anchor, key, expect)
    try:
        for row in db.execute(f"SELECT {COLUMNS}, hash FROM entry ORDER BY number") if db else ():
            trail.follow(row)
        trail.end()
        names = db.execute("SELECT who, project, name FROM name").fetchall() if db else []
        trail.check_names(names)
    except sqlite3.Error:
        return _unsound(trail.number, trail.number + 1, "it cannot be read")
    except _Fault as fault:
        return _unsound(trail.number, *fault.args)
    return Verdict(True, trail.number - anchor.base, Head(trail.number, trail.hash.hex()))


class _Fault(Exception):
    """The first bad entry, or None, and the reason."""


class _Trail:
    """The way along the chain: where it is, and whom it met."""

    def __init__(self, anchor: Anchor, key: Key, expect: Head | None) -> None:
        self.anchor, self.key, self.expect = anchor, key, expect
        self.number, self.hash = anchor.base, anchor.base_hash
        self.people: dict[str, int] = {}  # digest of whoever acted, and the first entry that says so
        self.erased: set[str] = set()
        self._compare()

    def follow(self, row: tuple[Any, ...]) -> None:
        """Take the next entry. Raises `_Fault`."""
        *fields, hash = row
        number = fields[0]
        if number < 1:
            raise _Fault(number, "it was never written")
        if number <= self.anchor.base:
            return  # pruned, only the end of the process came before they were removed
        if number != self.number + 1:
            raise _Fault(self.number + 1, "it is missing")
        if not all(type(value) in types for value, types in zip(fields, _TYPES, strict=True)):
            raise _Fault(number, "it was changed")
        try:
            expected = self.key.entry(self.hash, _encode(fields))
        except ValueError:  # half of a surrogate pair
            raise _Fault(number, "it was changed") from None
        if type(hash) is not bytes or not hmac.compare_digest(hash, expected):
            raise _Fault(number, "it was changed, or stands in another place")
        self.number, self.hash = number, hash
        self._compare()
        self.people.setdefault(fields[3], number)
        if fields[4] == "forget":
            self.erased.update(_strings(_decode(fields[10])))

    def _compare(self) -> None:
        if self.number == self.anchor.last and self.hash != self.anchor.head:
            raise _Fault(self.number, "the anchor knows another entry in its place")
        if self.expect and self.expect.count == self.number and self.expect.hash != self.hash.hex():
            raise _Fault(self.number, "another entry was noted as the head")

    def end(self) -> None:
        """All entries were followed: the end must be the anchored one. Raises `_Fault`."""
        anchor = self.anchor
        if self.number < anchor.last:
            raise _Fault(self.number + 1, "it is missing, and so are all behind it")
        if not anchor.broken and anchor.met(self.number, self.hash).broken:
            raise _Fault(anchor.last + 1, "the anchor does not know it: the anchor is an older one")
        if anchor.broken:
            raise _Fault(anchor.broken, "an append found it missing or changed")
        if self.expect and self.expect.count > self.number:
            raise _Fault(self.number + 1, "it is missing: a later head was noted")
        if self.expect and self.expect.count < anchor.base:
            raise _Fault(None, "the entries up to the noted head are pruned")

    def check_names(self, names: list[tuple[Any, Any, Any]]) -> None:
        """A name belongs to its digest, and is missing only if it was erased by an entry. Raises `_Fault`."""
        for who, project, name in names:
            try:
                fits = self.key.person(project, name) == who
            except (TypeError, ValueError):
                fits = False
            if not fits:
                raise _Fault(self.people.get(who), "the name of who did it was changed")
            self.people.pop(who, None)
        for who, number in self.people.items():
            if who not in self.erased:
                raise _Fault(number, "the name of who did it is missing")


def head(path: Path) -> Head:
    """The head as the anchor and the last entry say it. Raises `StoreDamaged` (audit-broken) where they disagree."""
    with _reading(path) as (db, block):
        key = read_key(key_of(path))
        if key is None:
            return Head(0, GENESIS.hex())
        anchor = None if block is None else Anchor.unsealed(block, key)
        last = db.execute("SELECT number, hash FROM entry ORDER BY number DESC LIMIT 1").fetchone() if db else None
        if anchor is not None:
            anchor = anchor.met(*(last or (anchor.base, anchor.base_hash)))
        if anchor is None or anchor.broken:
            raise broken("the audit and its anchor do not fit together")
        return Head(anchor.last, anchor.head.hex())


def entries(path: Path, project: str, span: DateRange, who: str | None, limit: int) -> list[AuditEntry]:
    """The newest entries of a project within `span`, newest first, of one principal or (None) of all."""
    with _reading(path) as (db, block):
        key = read_key(key_of(path))
        if db is None or key is None:
            return []
        anchor = Anchor.unsealed(block or b"", key)
        found = db.execute(
            f"SELECT {COLUMNS}, hash, (SELECT name FROM name WHERE name.who = entry.who) FROM entry "
            "WHERE project = ? AND at_us >= ? AND at_us < ? AND number > ? AND (? IS NULL OR who = ?) "
            "ORDER BY number DESC LIMIT ?",
            (project, span.start_us, span.end_us, anchor.base if anchor else 0,
             *[None if who is None else key.person(project, who)] * 2, limit),
        ).fetchall()  # fmt: skip
        return [_shown(row, span.zone) for row in found]


def _shown(row: tuple[Any, ...], zone: ZoneInfo) -> AuditEntry:
    number, at_us, project, who, operation, start_us, end_us, outcome, rows, duration_us, detail, hash, name = row
    span = None if start_us is None or end_us is None else (from_us(start_us, zone), from_us(end_us, zone))
    return AuditEntry(number, from_us(at_us, zone), project, who if name is None else name, operation, span, outcome,
                      rows, duration_us / 1_000, _decode(detail), hash.hex())  # fmt: skip


def key_of(path: Path) -> Path:
    """The file with the key of an audit."""
    return path.with_name(f"{path.name}.key")


@contextmanager
def _reading(path: Path) -> Iterator[tuple[sqlite3.Connection | None, bytes | None]]:
    """One state of the table and the anchor that belongs to it; None for what is missing."""
    opened: list[sqlite3.Connection] = []

    def look() -> None:
        if path.exists():
            db = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=MOST_WAIT, isolation_level=None
            )
            opened.append(db)
            db.execute("BEGIN")
            db.execute("SELECT number FROM entry LIMIT 1").fetchone()  # from here on the state stands still

    try:
        try:
            block = read_block(path.with_name(f"{path.name}.anchor"), MOST_WAIT, look)
        except sqlite3.Error as error:
            raise broken("the file of the audit cannot be read") from error
        yield (opened[0] if opened else None), block
    finally:
        for db in opened:
            db.close()


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _strings(part)


def _unsound(entries: int, first_bad: int | None, reason: str) -> Verdict:
    return Verdict(False, entries, Head(0, GENESIS.hex()), first_bad, reason)
