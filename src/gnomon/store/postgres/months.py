"""The months of the event table: each has a partition of its own, made when its first row comes.

Where one cannot be made at once, because a long question holds the table, its rows go to the default partition: the
answers are the same. The next attempt moves them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from datetime import datetime, timedelta

import psycopg

from gnomon.store.postgres.address import Address
from gnomon.store.postgres.opening import Connection, begin

log = logging.getLogger("gnomon.store.postgres")

PATIENCE_MS = 2_000  #: questions queue behind whoever waits to make a partition, so it waits no longer than this
AGAIN_SECONDS = 60.0
US_DAY = 86_400_000_000
_BARE = ("user_id", "device_id", "session_id", "id_text", "properties")  #: columns of a person, see postgres_0001.sql

#: Held by whoever changes the store, until the commit.
LOCK = "SELECT value::bigint FROM state WHERE key = 'version' FOR UPDATE"
ATTACHED = """SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'events'::regclass"""
_MOVE = """WITH moved AS (DELETE FROM events_default WHERE ts >= '{0}' AND ts < '{1}' RETURNING *)
INSERT INTO {2} SELECT * FROM moved"""


class Months:
    """Which months are known to have a partition."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._known: set[datetime] = set()
        self._next_try = 0.0

    def provide(self, con: Connection, moments: Iterable[int]) -> None:
        """Make partitions for moments (UTC microseconds) where they are missing; leaves it for later if it cannot."""
        missing = months_of(moments) - self._known
        if not missing or time.monotonic() < self._next_try:
            return
        try:
            self._make(con, sorted(missing))
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            con.execute("ROLLBACK")
            self._next_try = time.monotonic() + AGAIN_SECONDS
            log.info("a partition for a new month has to wait: the table is in use")

    def settle(self, con: Connection) -> None:
        """Give the rows of the default partition months of their own, for a checkpoint."""
        con.execute(begin(self._address, reading=True, milliseconds=60_000))
        found = con.execute("SELECT DISTINCT epoch_us(date_trunc('month', ts)) FROM events_default").fetchall()
        con.execute("COMMIT")
        self._known -= months_of(us for (us,) in found)
        self.provide(con, [us for (us,) in found])

    def _make(self, con: Connection, months: list[datetime]) -> None:
        con.execute(begin(self._address, reading=False, milliseconds=600_000, lock_milliseconds=PATIENCE_MS))
        con.execute(LOCK)
        there = {name for (name,) in con.execute(ATTACHED).fetchall()}
        wanted = [month for month in months if name_of(month) not in there]
        for month in wanted:
            name, after = name_of(month), month_after(month)
            con.execute(f"CREATE TABLE IF NOT EXISTS {name} (LIKE events INCLUDING ALL)")
            bare = ", ".join(f"ALTER {column} SET STATISTICS 0" for column in _BARE)
            con.execute(f"ALTER TABLE {name} {bare}")
            con.execute("LOCK TABLE events_default IN ACCESS EXCLUSIVE MODE")
            con.execute(_MOVE.format(month, after, name))
            con.execute(f"ALTER TABLE events ATTACH PARTITION {name} FOR VALUES FROM ('{month}') TO ('{after}')")
        con.execute("COMMIT")
        self._known.update(months)


def months_of(moments: Iterable[int]) -> set[datetime]:
    """The starts of the months in which moments (UTC microseconds) lie."""
    days = {us // US_DAY for us in moments}
    return {(datetime(1970, 1, 1) + timedelta(days=day)).replace(day=1) for day in days}


def month_after(month: datetime) -> datetime:
    """The start of the next month."""
    return (month + timedelta(days=31)).replace(day=1)


def name_of(month: datetime) -> str:
    """The partition of a month."""
    return f"events_{month.year:04}_{month.month:02}"
