"""Connections for questions: a bounded number, kept between questions, and a reason at once where there is none.

A pool of its own (docs/decisions/0026): a question that meets a database that is down shall fail with the reason and
at once, no thread shall run in a host for it, and a forked child shall use nothing of its parent's.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import psycopg
from psycopg.pq import TransactionStatus

from gnomon.errors import EngineClosed, StoreUnavailable
from gnomon.store.postgres.opening import Connection

IDLE_SECONDS = 300.0  #: a connection that nobody used for so long is given back to the database
WAIT_SECONDS = 10.0  #: how long a question waits for one that is in use


class Connections:
    """Hands out up to `most` connections at a time, made by `make`."""

    def __init__(self, make: Callable[[], Connection], most: int) -> None:
        self._make = make
        self._free = threading.BoundedSemaphore(most)
        self._idle: list[tuple[float, Connection]] = []
        self._lock = threading.Lock()
        self._closed = False

    @contextmanager
    def one(self, wait: float = WAIT_SECONDS) -> Iterator[tuple[Connection, bool]]:
        """A connection, and whether it was kept from before, so that it may have died meanwhile.

        Raises `StoreUnavailable` when none came free within `wait` seconds, or none can be made.
        """
        if self._closed:
            raise EngineClosed("the store is closed", remedy="Open the engine again.")
        if not self._free.acquire(timeout=wait):
            raise StoreUnavailable(
                "every connection to the database is in use", code="store-crowded",
                remedy="Ask again in a moment; if it lasts, raise database_connections or ask less at once.",
            )  # fmt: skip
        try:
            kept = self._take()
            con = kept or self._make()
            try:
                yield con, kept is not None
            finally:
                self._give_back(con)
        finally:
            self._free.release()

    def drop_idle(self) -> None:
        """Close what nobody uses: after a restart of the database all of them are dead."""
        with self._lock:
            idle, self._idle = self._idle, []
        for _, con in idle:
            close(con)

    def close(self) -> None:
        """Let go of all of them; those in use are closed when they come back."""
        self._closed = True
        self.drop_idle()

    def _take(self) -> Connection | None:
        with self._lock:
            return self._idle.pop()[1] if self._idle else None

    def _give_back(self, con: Connection) -> None:
        if con.closed or con.pgconn.transaction_status != TransactionStatus.IDLE or self._closed:
            close(con)
            return
        now = time.monotonic()
        with self._lock:
            self._idle.append((now, con))
            old = [kept for at, kept in self._idle if at < now - IDLE_SECONDS]
            self._idle = [(at, kept) for at, kept in self._idle if at >= now - IDLE_SECONDS]
        for each in old:
            close(each)


def close(con: Connection) -> None:
    """Close a connection, whatever state it is in."""
    with suppress(psycopg.Error, OSError):
        con.close()


def cut(con: Connection) -> None:
    """End whatever waits on a connection, from any thread: for a server that does not answer at all any more."""
    with suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(con.fileno())) as own:
        own.shutdown(socket.SHUT_RDWR)
