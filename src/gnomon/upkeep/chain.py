"""The files of the audit: a table of entries, each authenticated together with the one before it, key and anchor.

An append commits entries and moves the anchor under one lock, so threads and processes form one chain. What does not
fit is never mended: the anchor notes it for good, and the chain goes on behind it. Names of principals stand in a table
of their own, beside the chain, which holds their digests only: a name can be erased and every entry still verifies.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from gnomon.access import Person
from gnomon.errors import StoreUnavailable
from gnomon.files import sync_folder
from gnomon.upkeep.anchor import (
    GENESIS,
    Anchor,
    AnchorFile,
    Key,
    broken,
    claims_entries,
    make_key,
    read_key,
)

#: Seconds that an append waits for other processes.
MOST_WAIT = 2.0
MOST_DETAIL_BYTES = 8 * 1024

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entry (
  number INTEGER PRIMARY KEY, at_us INTEGER NOT NULL, project TEXT NOT NULL, who TEXT NOT NULL, operation TEXT NOT NULL,
  start_us INTEGER, end_us INTEGER, outcome TEXT NOT NULL, rows INTEGER, duration_us INTEGER NOT NULL,
  detail TEXT NOT NULL, hash BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS entry_at ON entry (at_us);
CREATE TABLE IF NOT EXISTS name (who TEXT PRIMARY KEY, project TEXT NOT NULL, name TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS probe (n INTEGER NOT NULL);
INSERT INTO probe SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM probe);
"""
COLUMNS = "number, at_us, project, who, operation, start_us, end_us, outcome, rows, duration_us, detail"

Fields: TypeAlias = tuple[Any, ...]  #: of one entry, in the order of COLUMNS

_encode = msgspec.json.Encoder().encode
_encode_sorted = msgspec.json.Encoder(order="deterministic").encode


@dataclass(slots=True)
class Draft:
    """An entry before it has a number: with the names that become digests."""

    at_us: int
    project: str
    who: str
    operation: str
    start_us: int | None = None
    end_us: int | None = None
    outcome: str = "ok"
    rows: int | None = None
    duration_us: int = 0
    detail: dict[str, Any] = field(default_factory=dict)
    written: bool = False


class Chain:
    """One process's hold on the files of one audit. Not thread-safe; `close()` it around a fork."""

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        self.path = path
        self.durable = durable
        self.anchor_file = AnchorFile(path.with_name(f"{path.name}.anchor"), durable=durable)
        self.key_path = path.with_name(f"{path.name}.key")
        self._name, self._key_name = str(path), str(self.key_path)
        self._db: sqlite3.Connection | None = None
        self._inode: int | None = None
        self._key: tuple[tuple[int, int], Key] | None = None
        self._written: tuple[Key, bytes, Anchor] | None = None  #: the anchor as this process wrote it last

    def append(self, drafts: Sequence[Draft]) -> None:
        """Add entries and mark them as written. Raises `sqlite3.Error`, `OSError` or `GnomonError`; then none is."""
        with self._writing() as (db, key, anchor):
            last = db.execute("SELECT number, hash FROM entry ORDER BY number DESC LIMIT 1").fetchone()
            number, previous = last or ((anchor.base, anchor.base_hash) if anchor else (0, GENESIS))
            if anchor is not None:
                anchor = anchor.met(number, previous)
                if number <= anchor.last:  # entries are gone: go on behind the gap, which stays to be seen
                    number, previous = anchor.last, anchor.head
            if type(previous) is not bytes:  # an edit, which stays to be seen where it is
                previous = GENESIS
            rows = []
            for draft in drafts:
                number += 1
                fields = _fields(number, draft, key)
                previous = key.entry(previous, _encode(fields))
                rows.append((*fields, previous))
            if anchor is not None:
                anchor, sync = anchor.coming(number, previous)
                self._move(key, anchor, sync=sync)
            self._insert(db, rows, drafts)
            if anchor is not None:
                self._move(key, anchor._replace(last=number, head=previous), sync=False)

    def _insert(self, db: sqlite3.Connection, rows: Sequence[Fields], drafts: Sequence[Draft]) -> None:
        try:
            db.executemany(f"INSERT INTO entry VALUES ({', '.join('?' * 12)})", rows)
            names = [(row[3], draft.project, draft.who) for row, draft in zip(rows, drafts, strict=True)]
            db.executemany("INSERT OR IGNORE INTO name VALUES (?, ?, ?)", names)
            db.execute("COMMIT")
        except sqlite3.Error:
            raise  # rolled back, by SQLite itself or by whoever began
        except BaseException:  # an interrupt: it may have come just behind the commit
            _mark(drafts, not db.in_transaction)
            raise
        _mark(drafts, True)

    def prove(self) -> None:
        """Commit something and write the anchor again: what a change needs before it may begin. Raises as `append`."""
        with self._writing() as (db, key, anchor):
            db.execute("UPDATE probe SET n = n + 1")
            db.execute("COMMIT")
            if anchor is not None:
                self._move(key, anchor, sync=True)

    def prune(self, before_us: int) -> int:
        """Drop the oldest entries up to the first that is not older than `before_us`; returns how many.

        The caller has verified them. The anchor moves first: a crash in between leaves entries that count no more.
        """
        with self._writing() as (db, key, anchor):
            if anchor is None or anchor.broken:
                raise broken("the anchor of the audit is missing or does not fit")
            kept = db.execute(
                "SELECT number FROM entry WHERE at_us >= ? ORDER BY number LIMIT 1", (before_us,)
            ).fetchone()
            first = kept[0] if kept else anchor.last  # the last entry always stays
            base = db.execute("SELECT number, hash FROM entry WHERE number = ?", (first - 1,)).fetchone()
            moved = anchor._replace(base=base[0], base_hash=base[1]) if base and base[0] > anchor.base else anchor
            self._move(key, moved, sync=True)
            db.execute("DELETE FROM entry WHERE number <= ?", (moved.base,))
            db.execute("DELETE FROM name WHERE who NOT IN (SELECT who FROM entry)")
            db.execute("COMMIT")
            return moved.base - anchor.base

    def erase(self, project: str, name: str) -> None:
        """Remove a name; its digest stays. Call it only when an entry with operation `forget` names the digest."""
        with self._writing() as (db, key, _):
            db.execute("DELETE FROM name WHERE who = ?", (key.person(project, name),))
            db.execute("COMMIT")
            until = time.monotonic() + MOST_WAIT
            while db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:  # the log would go on holding it
                if time.monotonic() > until:
                    raise StoreUnavailable("the audit is being read", remedy="Try it again.", code="audit-unavailable")
                time.sleep(0.01)

    def copy_to(self, folder: Path) -> list[Path]:
        """A consistent copy of all three files in `folder`, for backups; none when there is no audit yet."""
        if not self.key_path.exists():
            return []
        target = folder / self.path.name
        with self._writing() as (db, _, _), closing(sqlite3.connect(target)) as copy:
            db.execute("COMMIT")
            db.backup(copy)
            anchor = target.with_name(self.anchor_file.path.name)
            anchor.write_bytes(self.anchor_file.read())
        return [target, anchor, Path(shutil.copy2(self.key_path, folder))]

    def key(self) -> Key | None:
        """The key, or None as long as there is no audit. Raises `StoreDamaged` when the file holds none."""
        try:
            found = os.stat(self._key_name)  # noqa: PTH116  for each entry
        except FileNotFoundError:
            return None
        version = (found.st_ino, found.st_mtime_ns)
        if self._key is None or self._key[0] != version:
            key = read_key(self.key_path)
            self._key = None if key is None else (version, key)
        return self._key[1] if self._key else None

    # -- the files ------------------------------------------------------------------------------------------------

    @contextmanager
    def _writing(self) -> Iterator[tuple[sqlite3.Connection, Key, Anchor | None]]:
        """Within the lock and a transaction: the database, the key, and the anchor (None when it is no good)."""
        with self.anchor_file.locked(MOST_WAIT):
            key = self.key() or self._begin()
            db = self._connected()
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db, key, self._anchor(key)
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")

    def _anchor(self, key: Key) -> Anchor | None:
        block = self.anchor_file.read()
        if self._written is not None and (self._written[0], self._written[1]) == (key, block):
            return self._written[2]  # sealed by this very process
        return Anchor.unsealed(block, key)

    def _move(self, key: Key, anchor: Anchor, *, sync: bool) -> None:
        block = anchor.sealed(key)
        self.anchor_file.write(block, sync=sync)
        self._written = (key, block, anchor)

    def _begin(self) -> Key:
        """The first use. The key comes last: from then on a missing file has been taken away."""
        entries = self._connected().execute("SELECT count(*) FROM entry").fetchone()[0]
        if entries or claims_entries(self.anchor_file.read()):
            raise broken("the key of the audit is missing")
        secret = self.key_path.with_name(f"{self.key_path.name}.begun")
        key = make_key(secret, durable=self.durable)
        self._move(key, Anchor(), sync=True)
        secret.rename(self.key_path)
        if self.durable:
            sync_folder(self.path.parent)
        return key

    def _connected(self) -> sqlite3.Connection:
        inode = _inode(self._name)
        if self._db is not None and (inode is None or inode != self._inode):
            self._db.close()  # the file was replaced
            self._db = None
        if self._db is None:
            if inode is None:
                os.close(os.open(self.path, os.O_CREAT | os.O_CLOEXEC, 0o600))
            db = sqlite3.connect(self.path, timeout=MOST_WAIT, isolation_level=None, check_same_thread=False)
            try:
                level = "FULL" if self.durable else "OFF"
                db.executescript(
                    f"PRAGMA journal_mode=WAL; PRAGMA synchronous={level}; PRAGMA secure_delete=ON; {_SCHEMA}"
                )
            except BaseException:
                db.close()
                raise
            self._db, self._inode = db, _inode(self._name)
        return self._db

    def close(self) -> None:
        """Let go of the files; the next use opens them again."""
        if self._db is not None:
            self._db.close()
            self._db = None
        self.anchor_file.close()


def _mark(drafts: Sequence[Draft], written: bool) -> None:
    for draft in drafts:
        draft.written = written


def _fields(number: int, draft: Draft, key: Key) -> Fields:
    return (number, draft.at_us, draft.project, key.person(draft.project, draft.who), draft.operation, draft.start_us,
            draft.end_us, draft.outcome, draft.rows, draft.duration_us, _detail(draft, key))  # fmt: skip


def _detail(draft: Draft, key: Key) -> str:
    if not draft.detail:
        return "{}"
    try:
        text = _encode_sorted(_without_names(draft.detail, draft.project, key))
    except (TypeError, ValueError):
        return '{"left_out":"not plain"}'
    return text.decode() if len(text) <= MOST_DETAIL_BYTES else '{"left_out":"too long"}'


def _without_names(value: Any, project: str, key: Key) -> Any:
    """A detail with the digest in place of every `Person`."""
    if isinstance(value, Person):
        return key.person(project, value.id)
    if isinstance(value, dict):
        return {name: _without_names(part, project, key) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_names(part, project, key) for part in value]
    return value


def _inode(name: str) -> int | None:
    try:
        return os.stat(name).st_ino  # noqa: PTH116  for each entry
    except FileNotFoundError:
        return None
