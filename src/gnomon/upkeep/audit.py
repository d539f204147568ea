"""The audit of one engine: every question, change and refusal leaves an entry, also while the disk is full.

Who cannot leave an entry may not change anything: a change begins only after a write has been proven to work. A
question is answered all the same; its entry waits in memory, is written as soon as that works, and is counted by
`state()`. Entries that meet are committed together. Every entry is also a line of the log.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from gnomon.access import Note, speaking
from gnomon.errors import DiskFull, EngineClosed, GnomonError, StoreUnavailable
from gnomon.timerange import US_DAY, Clock, to_us
from gnomon.upkeep.anchor import Anchor, broken, read_block
from gnomon.upkeep.chain import MOST_WAIT, Chain, Draft

log = logging.getLogger("gnomon.audit")

#: Operations that change nothing; any other one is a change.
READINGS = frozenset({"query", "explain", "quarantine", "access_log", "active_users", "summary", "user", "dashboard"})
MOST_WAITING = 10_000
#: After a failed write, questions leave the next attempt to others for so long.
RETRY_SECONDS = 1.0
#: What a write may meet; a number beyond 64 bits is what an edit may have left behind.
_FAULTS = (sqlite3.Error, OSError, GnomonError, ArithmeticError)

_ALL: weakref.WeakSet[Audit] = weakref.WeakSet()


class Audit:
    """Thread-safe; made for one store file, the files come into being with the first entry."""

    def __init__(self, store_file: Path, clock: Clock, *, durable: bool) -> None:
        self.path = store_file.with_name(f"{store_file.name}.audit")
        self.chain = Chain(self.path, durable=durable)
        self._clock = clock
        self._waiting: deque[Draft] = deque()
        self._lost = 0
        self._retry_at = 0.0
        self._closed = False
        self._lock = threading.Lock()  # held by the one thread that talks to the files
        self._queue_lock = threading.RLock()  # for moments; re-entrant, as a question may come out of a finalizer
        _ALL.add(self)

    def audited(self, project: str, note: Note) -> Audited:
        """The span of an operation; see `Audited`."""
        return Audited(self, project, note)

    def refused(self, project: str, name: str, error: GnomonError) -> None:
        """Leave the entry of a call that the caller has no right to."""
        Audited(self, project, Note(name)).leave(error.code)

    def prove(self) -> None:
        """Return if an entry can be written now. Raises `DiskFull` or `StoreUnavailable` (audit-unavailable)."""
        try:
            with self._held():
                self._write()
                self.chain.prove()
        except _FAULTS as error:
            raise _refusal(error) from error
        self._retry_at = 0.0

    def add(self, draft: Draft) -> None:
        """Write an entry, or keep it until that works. Never raises for a disk or a file."""
        if self._closed and not self.chain.durable:
            return  # a store in memory is gone, and its audit with it
        with self._queue_lock:
            self._waiting.append(draft)
            while len(self._waiting) > MOST_WAITING:
                self._waiting.popleft()
                self._lost += 1
        if time.monotonic() < self._retry_at:
            return
        try:
            with self._held():
                if not draft.written:
                    self._write()
            self._retry_at = 0.0
        except _FAULTS as error:
            self._retry_at = time.monotonic() + RETRY_SECONDS
            log.warning("the audit cannot be written: %d entries wait in memory, %d are lost (%s)", len(self._waiting),
                        self._lost, getattr(error, "code", type(error).__name__))  # fmt: skip

    def now_us(self) -> int:
        """The time of the engine's clock."""
        return to_us(self._clock())

    def _write(self) -> None:
        """Everything that waits, in one commit. The lock is held."""
        with self._queue_lock:
            batch = list(self._waiting)
        if not batch:
            return
        try:
            self.chain.append(batch)
        finally:
            with self._queue_lock:
                while self._waiting and self._waiting[0].written:
                    self._waiting.popleft()
            if self._closed:
                self.chain.close()

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Within the lock of this process. Raises `StoreUnavailable` when a thread keeps it for too long."""
        if not self._lock.acquire(timeout=MOST_WAIT):
            raise StoreUnavailable("another thread holds the audit", remedy="Try it again.", code="audit-unavailable")
        try:
            yield
        finally:
            self._lock.release()

    def state(self) -> dict[str, int]:
        """Entries ever written, waiting in memory and lost; `broken` is 1 where anchor and table did not fit."""
        found = {"entries": 0, "waiting": len(self._waiting), "lost": self._lost, "broken": 0}
        try:
            key = self.chain.key()
            if key is not None:
                block = read_block(self.chain.anchor_file.path, 1.0, lambda: None)
                anchor = None if block is None else Anchor.unsealed(block, key)
                found["entries"] = anchor.last if anchor else 0
                found["broken"] = int(anchor is None or anchor.broken > 0)
        except (OSError, GnomonError):
            found["broken"] = 1
        return found

    def prune(self, days: int) -> int:
        """Drop entries older than `days`; the caller audits it. Raises `StoreDamaged` if the chain does not verify."""
        from gnomon.upkeep import verify  # deferred, as it is rarely needed

        verdict = verify.verify(self.path)
        if not verdict:
            raise broken(str(verdict))
        with self._held():
            return self.chain.prune(self.now_us() - days * US_DAY)

    def erase(self, project: str, name: str) -> None:
        """Remove the name of a person who also was a principal. An entry `forget` with that `Person` must exist."""
        with self._held():
            self.chain.erase(project, name)

    def copy_to(self, folder: Path) -> list[Path]:
        """A consistent copy of the files for a backup; returns their paths."""
        with self._held():
            self._write()
            return self.chain.copy_to(folder)

    def close(self) -> None:
        """Write what waits and let go of the files."""
        try:
            with self._held():
                self._closed = True
                self._write()
        except _FAULTS:
            log.error("%d entries of the audit could not be written", len(self._waiting))
        finally:
            self.chain.close()

    def hold(self) -> None:
        """Before a fork: no thread is in SQLite, and the files are let go of, as a child must not inherit them open."""
        self._lock.acquire()
        self.chain.close()

    def let_go(self) -> None:
        """The end of `hold`, in the parent."""
        self._lock.release()

    def after_fork(self) -> None:
        """The end of `hold`, in a child: what waits is the parent's to write."""
        self._lock, self._queue_lock = threading.Lock(), threading.RLock()
        self._waiting = deque()


class Audited:
    """A span of code that leaves one entry: `with engine._audited("prune") as note: ...; note.rows = n`.

    The outcome is `ok`, the code of the error, `interrupted`, or `failed` for an exception that is none of ours. A
    change is refused before it begins when no entry could be written: raises `DiskFull`, `StoreUnavailable`.
    """

    __slots__ = ("_at_us", "_audit", "_began", "_note", "_project", "_who")

    def __init__(self, audit: Audit, project: str, note: Note) -> None:
        self._audit, self._project, self._note = audit, project, note
        self._who = speaking().name
        self._at_us = audit.now_us()
        self._began = time.perf_counter_ns()

    def __enter__(self) -> Note:
        if self._note.operation not in READINGS:
            try:
                self._audit.prove()
            except GnomonError as error:
                self.leave(error.code)
                raise
        return self._note

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if isinstance(error, EngineClosed):
            return  # nothing was asked of anything
        if error is None:
            self.leave("ok")
        elif isinstance(error, GnomonError):
            self.leave(error.code)
        else:
            self.leave("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")

    def leave(self, outcome: str) -> None:
        """Leave the entry, and its line in the log."""
        note, took_us = self._note, (time.perf_counter_ns() - self._began) // 1_000
        start_us, end_us = (note.range.start_us, note.range.end_us) if note.range else (None, None)
        self._audit.add(Draft(self._at_us, self._project, self._who, note.operation, start_us, end_us, outcome,
                              note.rows, took_us, note.detail))  # fmt: skip
        if log.isEnabledFor(logging.INFO):
            told: dict[str, Any] = {"project": self._project, "operation": note.operation, "rows": note.rows,
                                    "duration_ms": took_us / 1_000, "status": outcome,
                                    "error": None if outcome == "ok" else outcome}  # fmt: skip
            log.info("%s: %s", note.operation, outcome, extra=told)


def _refusal(error: Exception) -> GnomonError:
    """Why a change may not begin, in our words."""
    name = getattr(error, "sqlite_errorname", "")
    if name == "SQLITE_FULL" or (isinstance(error, OSError) and error.errno in (28, 122)):
        return DiskFull("the audit cannot grow, so nothing may be changed", remedy="Free disk space, and try it again.")
    if isinstance(error, GnomonError):
        return StoreUnavailable(f"the audit cannot be written, so nothing may be changed: {error.message}",
                                remedy=error.remedy, code="audit-unavailable")  # fmt: skip
    return StoreUnavailable(
        f"the audit cannot be written, so nothing may be changed ({name or type(error).__name__})",
        remedy="Check that the folder of the store exists and can be written.", code="audit-unavailable",
    )  # fmt: skip


_FORKING: list[Audit] = []


def _before_fork() -> None:
    for audit in list(_ALL):
        audit.hold()
        _FORKING.append(audit)


def _in_parent() -> None:
    while _FORKING:
        _FORKING.pop().let_go()


def _in_child() -> None:
    _FORKING.clear()
    for audit in list(_ALL):
        audit.after_fork()


os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)
