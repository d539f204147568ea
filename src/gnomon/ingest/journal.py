"""The journal: a SQLite file beside the store that holds acknowledged batches until the store has them for good.

`append()` returning is what an acknowledgement means: the batch is on disk (WAL, synchronous=FULL). Any number of
processes may append; positions rise by one and are never reused. Only the owner of the store removes batches, and
only after a store checkpoint that contains them. A damaged file is set aside, never deleted.
"""

from __future__ import annotations

import sqlite3
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from gnomon.errors import DiskFull, GnomonError, StoreDamaged, StoreUnavailable
from gnomon.event import Batch, sources_of
from gnomon.ingest.bodies import batch_of, body_of

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batch (
  position INTEGER PRIMARY KEY AUTOINCREMENT, crc INTEGER NOT NULL, summary TEXT NOT NULL, body BLOB NOT NULL);
"""


#: Begins of the kept values that are meant for every process of a store: write keys, thresholds of sampling, erasures,
#: rules of types, retention. The others are about this journal.
TARGETS = "backup-target:"  #: of the kept values that name a place to which backups went
SHARED = ("key:", "sampling:", "erased:", "types:", "retention:", TARGETS)
RESTORED = "restored"  #: the kept value that names the restore whose kept values the journal has

Sealed: TypeAlias = tuple[int, bytes, bytes]  #: checksum, summary, body

_KEEP_INSTEAD = "INSERT OR REPLACE INTO meta SELECT ?, ? WHERE (SELECT value FROM meta WHERE key = ?) IS ?"
_encode = msgspec.json.Encoder().encode
_decode_counts = msgspec.json.Decoder(list[list[Any]]).decode


def summary_of(batch: Batch) -> list[list[Any]]:
    """`[project, kind, source, outcome, reason, n]` of everything a batch will add to the books, rows as `pending`."""
    pending = sources_of(batch.rows)
    rows = [[batch.project, "event", source, "pending", "", n] for source, n in pending.items()]
    if batch.samples:
        rows.append([batch.project, "sample", None, "pending", "", len(batch.samples)])
    return rows + [[batch.project, *count] for count in batch.counts]


@dataclass(slots=True)
class _Waiting:
    batches: list[Batch]
    encoded: list[Sealed]
    done: threading.Event = field(default_factory=threading.Event)
    positions: list[int] = field(default_factory=list)
    error: BaseException | None = None


class Journal:
    """One process's hold on the journal file. Thread-safe; let go of around a fork (see `hold`)."""

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self._queue: list[_Waiting] = []
        self._queue_lock = threading.Lock()
        self._lock = threading.Lock()  # held by the one thread that talks to SQLite
        self._closed = False
        self._db: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._reader_inode: int | None = None
        self._reader_lock = threading.Lock()
        self.share: Callable[[str, str], None] | None = None  #: is told first of a shared value that is to be kept
        self._writing()

    def append(self, batches: list[Batch]) -> list[int]:
        """Make batches durable, all or none, and return their positions.

        Calls that meet are committed together (group commit): the first takes everyone's work along.
        Raises `DiskFull` or `StoreUnavailable`; nothing was acknowledged then.
        """
        waiting = _Waiting(batches, [_sealed(batch) for batch in batches])
        with self._queue_lock:
            self._queue.append(waiting)
        with self._lock:
            if not waiting.done.is_set():
                with self._queue_lock:
                    group, self._queue = self._queue, []
                self._commit(group)
        waiting.done.wait()
        if waiting.error is not None:
            raise _translated(waiting.error)
        return waiting.positions

    def adopt(self, sealed: Sealed) -> None:
        """Take in a batch of another journal as it is."""
        with self._lock:
            _guard(lambda: self._insert(sealed))

    def read(self, after: int, limit: int) -> list[tuple[int, int, bytes]]:
        """Up to `limit` sealed batches behind `after`, in order, as `(position, crc, body)`."""
        with self._reader_lock:
            query = "SELECT position, crc, body FROM batch WHERE position > ? ORDER BY position LIMIT ?"
            found: list[tuple[int, int, bytes]] = _guard(
                lambda: self._reading().execute(query, (after, limit)).fetchall()
            )
            return found

    def positions(self, after: int, limit: int) -> list[int]:
        """Up to `limit` positions behind `after`, in order."""
        with self._reader_lock:
            query = "SELECT position FROM batch WHERE position > ? ORDER BY position LIMIT ?"
            return [row[0] for row in _guard(lambda: self._reading().execute(query, (after, limit)).fetchall())]

    def pending(self, after: int, up_to: int = 2**62) -> list[list[Any]]:
        """What the batches behind `after`, up to a position, will add to the books, see `summary_of`."""
        with self._reader_lock:
            query = "SELECT summary FROM batch WHERE position > ? AND position <= ?"
            found = _guard(lambda: self._reading().execute(query, (after, up_to)).fetchall())
        return [entry for (text,) in found for entry in _counts(text)]

    def summary(self, position: int) -> list[list[Any]]:
        """What one batch adds to the books, see `summary_of`."""
        with self._reader_lock:
            query = "SELECT summary FROM batch WHERE position = ?"
            return _counts(_guard(lambda: self._reading().execute(query, (position,)).fetchone()[0]))

    def keep(self, key: str, value: str) -> None:
        """Keep a small value durably, for every process that uses this journal (policies that admins set).

        Where other journals belong to the same store, raises what the store raises, and keeps nothing then.
        """
        if self.share is not None and key.startswith(SHARED):
            self.share(key, value)
        self.keep_here(key, value)

    def keep_here(self, key: str, value: str) -> None:
        """As `keep`, of a value that came from elsewhere."""
        with self._lock:
            db = self._writing()
            _guard(lambda: db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (f"kept:{key}", value)))

    def keep_instead(self, key: str, before: str | None, value: str) -> bool:
        """Keep a value in the place of `before` (None: of nothing); False where another one is kept by now."""
        name = f"kept:{key}"
        with self._lock:
            db = self._writing()
            found = _guard(lambda: db.execute(_KEEP_INSTEAD, (name, value, name, before)))
        return bool(found.rowcount)

    def kept(self, key: str) -> str | None:
        """The value kept under a key; None when there is none."""
        with self._reader_lock:
            query = "SELECT value FROM meta WHERE key = ?"
            found = _guard(lambda: self._reading().execute(query, (f"kept:{key}",)).fetchone())
        return None if found is None else str(found[0])

    def all_kept(self) -> dict[str, str]:
        """Every kept value."""
        with self._reader_lock:
            query = "SELECT substr(key, 6), value FROM meta WHERE key LIKE 'kept:%'"
            return dict(_guard(lambda: self._reading().execute(query).fetchall()))

    def keep_only(self, values: dict[str, str]) -> None:
        """Put these values in the place of everything kept, in one transaction (a restore brings those of its time)."""
        with self._lock:
            db = self._writing()
            _guard(lambda: _replace_kept(db, values))

    def last_position(self) -> int:
        """The highest position that was ever given out; 0 in a new journal."""
        with self._reader_lock:
            query = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'batch'"
            return int(_guard(lambda: self._reading().execute(query).fetchone()[0]))

    def forget_up_to(self, position: int) -> None:
        """Remove batches that a store checkpoint holds. Only the owner of the store calls this."""
        with self._lock:
            db = self._writing()
            _guard(lambda: db.execute("DELETE FROM batch WHERE position <= ?", (position,)))
            _guard(lambda: db.executescript("PRAGMA incremental_vacuum"))

    def purge(self) -> None:
        """Overwrite everything that was forgotten, in the file and in its log."""
        with self._lock:
            db = self._writing()
            _guard(lambda: db.executescript("PRAGMA secure_delete=ON; VACUUM; PRAGMA wal_checkpoint(TRUNCATE)"))

    def used_bytes(self) -> int:
        """Bytes of the file that hold something, of those that its limit is about."""
        with self._lock:
            db = self._writing()
            names = ("page_count", "freelist_count", "page_size")
            pages, free, page_bytes = (_guard(lambda n=n: db.execute(f"PRAGMA {n}").fetchone()[0]) for n in names)
        return int((pages - free) * page_bytes)

    def leaves(self, size: int) -> bool:
        """Whether so many bytes more stay within its own limit; a write that fails then has met a full disk."""
        return self.used_bytes() + size <= self.max_bytes

    def file_bytes(self) -> int:
        """Bytes of the journal file itself."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def sizes(self) -> dict[str, int]:
        """Bytes on disk and number of batches waiting."""
        files = [self.path, Path(f"{self.path}-wal")]
        with self._reader_lock:
            waiting = _guard(lambda: self._reading().execute("SELECT count(*) FROM batch").fetchone()[0])
        return {"bytes": sum(f.stat().st_size for f in files if f.exists()), "batches": waiting}

    def close(self) -> None:
        """Let go of the file; its content stays."""
        with self._lock, self._reader_lock:
            self._closed = True
            self._disconnect()

    def continue_after(self, position: int) -> None:
        """Never give out a position that the store has already passed."""
        with self._lock:
            db = self._writing()
            _guard(lambda: _raise_sequence(db, position))

    def hold(self) -> None:
        """Before a fork: keep this process out of SQLite and let go of the file; it is opened again at the next use.

        SQLite remembers the locks of its process by file. A child that inherited an open connection would believe
        that it holds them, and the last real holder would remove the log under it, with all that is acknowledged.
        """
        self._lock.acquire()
        self._reader_lock.acquire()
        self._disconnect()

    def let_go(self) -> None:
        """The end of `hold`, in the parent."""
        self._reader_lock.release()
        self._lock.release()

    def after_fork(self) -> list[object]:
        """The end of `hold`, in a child. Returns connections that were inherited all the same: never close them."""
        inherited: list[object] = [self._db, self._reader]
        self._queue, self._db, self._reader = [], None, None
        self._queue_lock, self._lock, self._reader_lock = threading.Lock(), threading.Lock(), threading.Lock()
        return inherited

    def _disconnect(self) -> None:
        for connection in (self._db, self._reader):
            if connection is not None:
                connection.close()
        self._db = self._reader = None

    def _writing(self) -> sqlite3.Connection:
        if self._closed:
            raise StoreUnavailable("the journal is closed", remedy="Open the engine again.")
        if self._db is None:
            db = _guard(lambda: _connect(self.path))
            try:
                self._inode = _inode(self.path)
                _guard(lambda: self._prepare(db))
            except BaseException:
                db.close()
                raise
            self._db = db
        return self._db

    def _prepare(self, db: sqlite3.Connection) -> None:
        db.executescript(
            "PRAGMA page_size=8192; PRAGMA auto_vacuum=INCREMENTAL; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"
            + _SCHEMA
        )
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT OR IGNORE INTO meta VALUES ('journal_id', ?)", (uuid.uuid4().hex,))
        db.execute("COMMIT")
        self.id: str = db.execute("SELECT value FROM meta WHERE key='journal_id'").fetchone()[0]
        page_bytes = db.execute("PRAGMA page_size").fetchone()[0]
        db.execute(f"PRAGMA max_page_count={max(16, self.max_bytes // page_bytes)}")

    def _commit(self, group: list[_Waiting]) -> None:
        """Write a group in one transaction; when that fails one transaction each, so that one cannot sink all."""
        try:
            self._write(group)
        except (sqlite3.Error, OSError, GnomonError) as error:
            if len(group) == 1:
                group[0].error = error
            else:
                for waiting in group:
                    self._commit([waiting])
        except BaseException:  # KeyboardInterrupt in whoever carries the group: the others must not wait for ever
            for waiting in group:
                if not waiting.done.is_set():
                    waiting.error = StoreUnavailable("the write to the journal was interrupted", remedy="Try it again.")
            raise
        finally:
            for waiting in group:
                waiting.done.set()

    def _write(self, group: list[_Waiting]) -> None:
        while True:
            db = self._writing()
            try:
                if db.in_transaction:
                    db.execute("ROLLBACK")  # an interrupt came between this and the clean-up below
                db.execute("BEGIN IMMEDIATE")
                for waiting in group:
                    waiting.positions = [self._insert(entry) for entry in waiting.encoded]
                db.execute("COMMIT")
            except BaseException:
                _mark_replayed(group)  # it may be there all the same
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
            if _inode(self.path) == self._inode:
                return
            # The owner set a damaged file aside while this process still held it: what was just written
            # would be found by its salvage or not at all, so it is written again where it counts.
            _mark_replayed(group)
            db.close()
            self._db = None

    def _insert(self, entry: Sealed) -> int:
        cursor = self._writing().execute("INSERT INTO batch (crc, summary, body) VALUES (?, ?, ?)", entry)
        return int(cursor.lastrowid or 0)

    def _reading(self) -> sqlite3.Connection:
        inode = _inode(self.path)
        if self._reader is not None and inode != self._reader_inode:
            self._reader.close()  # the file was replaced under this process
            self._reader = None
        if self._reader is None:
            self._reader = _connect(self.path)
            self._reader_inode = inode
            self.id = self._reader.execute("SELECT value FROM meta WHERE key='journal_id'").fetchone()[0]
        return self._reader


def _mark_replayed(group: list[_Waiting]) -> None:
    for waiting in group:
        for batch in waiting.batches:
            batch.replayed = True


def _raise_sequence(db: sqlite3.Connection, position: int) -> None:
    db.execute("BEGIN IMMEDIATE")
    (highest,) = db.execute("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name='batch'").fetchone()
    if highest < position:
        db.execute("DELETE FROM sqlite_sequence WHERE name='batch'")
        db.execute("INSERT INTO sqlite_sequence VALUES ('batch', ?)", (position,))
    db.execute("COMMIT")


def _replace_kept(db: sqlite3.Connection, values: dict[str, str]) -> None:
    db.execute("BEGIN IMMEDIATE")
    try:
        db.execute("DELETE FROM meta WHERE key LIKE 'kept:%'")
        db.executemany("INSERT INTO meta VALUES (?, ?)", [(f"kept:{key}", value) for key, value in values.items()])
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def holds(sealed: Sealed) -> bool:
    """Whether the checksum of a batch holds."""
    return zlib.crc32(sealed[2]) == sealed[0]


def open_sealed(crc: int, body: bytes) -> Batch:
    """The batch of a sealed body. Raises `StoreDamaged` if its checksum does not hold, `StoreUnavailable`
    (journal-newer) if a later version wrote it."""
    if zlib.crc32(body) != crc:
        raise StoreDamaged("a journal batch fails its checksum", remedy="Run `gnomon doctor`.", code="journal-damaged")
    return batch_of(body)


def _counts(text: str | bytes) -> list[list[Any]]:
    try:
        found: list[list[Any]] = _decode_counts(text)
        return found
    except msgspec.DecodeError:  # damaged, and found again by its checksum when the batch is read
        return []


def salvage_kept(path: Path) -> dict[str, str]:
    """What a damaged journal kept, as far as it can be read."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            return dict(db.execute("SELECT substr(key, 6), value FROM meta WHERE key LIKE 'kept:%'").fetchall())
    except sqlite3.Error:
        return {}


def salvage(path: Path) -> Iterator[tuple[int, Sealed]]:
    """Every batch of a damaged journal that can still be read, with its position; its checksum may not hold."""
    try:
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    except sqlite3.Error:
        return
    query = "SELECT position, crc, summary, body FROM batch WHERE position > ? ORDER BY position LIMIT 1"
    position, misses = 0, 0
    try:
        while misses < 1_000:
            try:
                row = db.execute(query, (position,)).fetchone()
            except sqlite3.Error:
                position, misses = position + 1, misses + 1
                continue
            if row is None:
                return
            position, misses = row[0], 0
            if isinstance(row[1], int) and isinstance(row[3], bytes):
                yield position, row[1:]
    finally:
        db.close()


def free_name(path: Path) -> Path:
    """A new name beside `path` for a damaged file."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    names = (path.with_name(f"{path.name}.damaged-{stamp}{'-' + str(n) if n else ''}") for n in range(10_000))
    return next(name for name in names if not name.exists())


def check(path: Path) -> None:
    """Raise `StoreDamaged` if the journal file does not pass SQLite's own integrity check."""
    if not path.exists():
        return
    db = _connect(path)
    try:
        verdict = _guard(lambda: db.execute("PRAGMA quick_check(1)").fetchone()[0])
    finally:
        db.close()
    if verdict != "ok":
        raise StoreDamaged("the journal fails its integrity check", code="journal-damaged")


def _sealed(batch: Batch) -> Sealed:
    body = body_of(batch)
    return zlib.crc32(body), _encode(summary_of(batch)), body


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=30.0, isolation_level=None, check_same_thread=False)


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def _guard(call: Any) -> Any:
    try:
        return call()
    except sqlite3.Error as error:
        raise _translated(error) from error


def _translated(error: BaseException) -> BaseException:
    """SQLite's and the system's errors in our words."""
    name = getattr(error, "sqlite_errorname", "")
    if (
        name == "SQLITE_FULL"
        or (isinstance(error, OSError) and error.errno in (28, 122))
        or name in ("SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE")
    ):
        return DiskFull(
            "the journal cannot grow", remedy="Free disk space or raise journal_max_bytes; recording goes on by itself."
        )
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return StoreDamaged(
            "the journal file is damaged",
            remedy="Reopen the engine: it sets the file aside and rebuilds it.",
            code="journal-damaged",
        )
    if isinstance(error, sqlite3.Error | OSError):
        return StoreUnavailable(
            f"the journal cannot be written ({name or type(error).__name__})",
            remedy="Check that its folder exists and can be written.",
        )
    return error
