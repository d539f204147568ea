"""One at a time among the processes that use a database on a server: who made a certain table holds the lock.

Making a table is what ClickHouse does for one of many only. Its holder renews it all the time, and what was not renewed
for a while is broken. A holder that was stopped for longer may still write, but under a number that the next one has
burnt, see `ledger`.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from gnomon.errors import StoreUnavailable
from gnomon.store.clickhouse.connecting import FAILED, Connection, Settings
from gnomon.store.clickhouse.faults import EXISTS, code_of

log = logging.getLogger("gnomon.store.clickhouse")

WRITING, UPKEEP = "writing_now", "upkeep_now"  #: the tables
LOCKS = (WRITING, UPKEEP)
BROKEN_SECONDS = 20  #: by the server's clock: what was not renewed for so long was lost
RENEWED_SECONDS = 4.0
LOOK_SECONDS = 0.02


class Lease:
    """A lock of one name. `settings` name the database."""

    def __init__(self, name: str, make: Callable[[], Connection], settings: Settings) -> None:
        self._name, self._make = name, make
        self._settings = {**settings, "max_execution_time": 10, "additional_table_filters": "{}"}

    @contextmanager
    def held(self, con: Connection, wait: float) -> Iterator[None]:
        """Hold it. Raises `StoreUnavailable` when another process does for longer than `wait` seconds."""
        holder = uuid.uuid4().hex
        self._take(con, holder, time.monotonic() + wait)
        stop = threading.Event()
        thread = threading.Thread(target=self._renew, args=(holder, stop), name="gnomon-lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            with suppress(*FAILED):  # else it is broken by whoever comes next
                if self._seen(con)[:1] == [holder]:
                    con.run(f"DROP TABLE IF EXISTS {self._name} SYNC", self._settings)

    def _take(self, con: Connection, holder: str, until: float) -> None:
        while True:
            try:
                con.run(
                    f"CREATE TABLE {self._name} (nothing UInt8) ENGINE = MergeTree ORDER BY nothing COMMENT '{holder}'",
                    self._settings,
                )
                return
            except FAILED as error:
                if code_of(error) != EXISTS:
                    raise
            seen = self._seen(con)
            if seen and int(seen[1]) > BROKEN_SECONDS:
                self._break(con, seen[0])
            elif time.monotonic() > until:
                raise StoreUnavailable(
                    "another process is changing the database for longer than this one waits",
                    remedy="It is tried again by itself.",
                )
            else:
                time.sleep(LOOK_SECONDS)

    def _seen(self, con: Connection) -> list[str]:
        """Who holds it, and for how many seconds it was not renewed."""
        asked = (
            "SELECT comment, toString(dateDiff('second', metadata_modification_time, now())) FROM system.tables "
            f"WHERE database = '{self._settings['database']}' AND name = '{self._name}'"
        )
        rows = con.run(asked, self._settings).rows
        return [str(word) for word in rows[0]] if rows else []

    def _break(self, con: Connection, holder: str) -> None:
        """Take it from a holder that is gone; one of many does so."""
        aside = f"{self._name}_{uuid.uuid4().hex}"
        with suppress(*FAILED):
            con.run(f"RENAME TABLE {self._name} TO {aside}", self._settings)
            log.warning("a process that was changing the database is gone (%s)", holder[:8])
            con.run(f"DROP TABLE {aside} SYNC", self._settings)

    def _renew(self, holder: str, stop: threading.Event) -> None:
        con: Connection | None = None
        while not stop.wait(RENEWED_SECONDS):
            with suppress(*FAILED, StoreUnavailable):  # the next one may get through; else the lock is lost
                con = con or self._make()
                if self._seen(con)[:1] == [holder]:
                    con.run(f"ALTER TABLE {self._name} MODIFY COMMENT '{holder}'", self._settings)
        if con is not None:
            with suppress(*FAILED):
                con.close()
