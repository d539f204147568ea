"""One at a time among the processes that use a database on a server: who made a table holds a lock.

A `Lease` is waited for: making a table of one name is what ClickHouse does for one of many only. A `Claim` is not: each
makes a table of its own and then looks for those of others, so of two at least one sees the other, and gives way. As no
name comes twice, what was lost can be removed without a doubt about whose it is. (docs/decisions/0042)

Holders renew their tables all the time, and what was not renewed for a while is broken. A holder that was stopped for
longer may still write, but under a number that the next one has decided, see `ledger`.
"""

from __future__ import annotations

import logging
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from gnomon.errors import StoreUnavailable
from gnomon.store.clickhouse.connecting import FAILED, Connection, Settings
from gnomon.store.clickhouse.faults import EXISTS, code_of
from gnomon.store.texts import quoted

log = logging.getLogger("gnomon.store.clickhouse")

WRITING, UPKEEP, TURN = "writing_now", "upkeep_now", "turn_now"  #: the tables, or what their names begin with
LOCKS = (WRITING, UPKEEP, TURN)
BROKEN_SECONDS = 20  #: by the server's clock: what was not renewed for so long was lost
RENEWED_SECONDS = 4.0
LOOK_SECONDS = 0.02
TRIES, WAIT_SECONDS = 8, 0.1  #: of a claim that meets another one which is not decided, and after the first of them
_MADE = "CREATE TABLE {} (nothing UInt8) ENGINE = Null COMMENT {}"
_SEEN = """SELECT name, comment, toInt64(dateDiff('second', metadata_modification_time, now())) FROM system.tables
WHERE database = {} AND startsWith(name, {})"""


class _Held:
    """What is common to both: a table that is renewed. `settings` name the database."""

    def __init__(self, name: str, make: Callable[[], Connection], settings: Settings) -> None:
        self.name, self._make = name, make
        self._settings = {**settings, "max_execution_time": 10, "additional_table_filters": "{}"}
        self._id = uuid.uuid4().hex

    def _tables(self, con: Connection, prefix: str) -> list[tuple[str, str, int]]:
        """Of each table its name, its comment, and for how many seconds it was not renewed."""
        asked = _SEEN.format(quoted(str(self._settings["database"])), quoted(prefix))
        return [(str(name), str(comment), int(age)) for name, comment, age in con.run(asked, self._settings).rows]

    @contextmanager
    def _renewed(self, renew: Callable[[Connection], None]) -> Iterator[None]:
        stop = threading.Event()
        thread = threading.Thread(target=self._go_on, args=(renew, stop), name="gnomon-lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _go_on(self, renew: Callable[[Connection], None], stop: threading.Event) -> None:
        con: Connection | None = None
        while not stop.wait(RENEWED_SECONDS):
            with suppress(*FAILED, StoreUnavailable):  # the next one may get through; else the lock is lost
                con = con or self._make()
                renew(con)
        if con is not None:
            with suppress(*FAILED):
                con.close()


class Lease(_Held):
    """A lock of one name, which is waited for."""

    @contextmanager
    def held(self, con: Connection, wait: float) -> Iterator[None]:
        """Hold it. Raises `StoreUnavailable` when another process does for longer than `wait` seconds."""
        self._take(con, time.monotonic() + wait)
        try:
            with self._renewed(self._renew):
                yield
        finally:
            with suppress(*FAILED):  # else it is broken by whoever comes next
                if self._seen(con)[:1] == [self._id]:
                    con.run(f"DROP TABLE IF EXISTS {self.name} SYNC", self._settings)

    def check(self, con: Connection) -> None:
        """Raise `StoreUnavailable` where it is lost: this process was stopped for too long, or the server away."""
        if self._seen(con)[:1] != [self._id]:
            raise StoreUnavailable(
                "another process took this one for lost while it changed the database", code="store-moved",
                remedy="It is tried again by itself.",
            )  # fmt: skip

    def is_taken(self, con: Connection) -> bool:
        """Whether anybody holds it."""
        seen = self._seen(con)
        return bool(seen) and int(seen[1]) <= BROKEN_SECONDS

    def _take(self, con: Connection, until: float) -> None:
        while True:
            try:
                con.run(_MADE.format(self.name, quoted(self._id)), self._settings)
                return
            except FAILED as error:
                if code_of(error) != EXISTS:
                    raise
            seen = self._seen(con)
            if seen[:1] == [self._id]:
                return  # the driver asked again, as the answer was lost
            if seen and int(seen[1]) > BROKEN_SECONDS:
                self._break(con, str(seen[0]))
            elif time.monotonic() > until:
                raise StoreUnavailable(
                    "another process is changing the database for longer than this one waits",
                    remedy="It is tried again by itself.",
                )
            time.sleep(LOOK_SECONDS)

    def _seen(self, con: Connection) -> list[str | int]:
        """Who holds it, and for how many seconds it was not renewed."""
        return next(([comment, age] for name, comment, age in self._tables(con, self.name) if name == self.name), [])

    def _break(self, con: Connection, holder: str) -> None:
        """Take it from a holder that is gone. One at a time does so: a second one would take it from the first."""
        with suppress(*FAILED), Claim(f"{self.name}_broken", self._make, self._settings).taken(con, 1) as mine:
            seen = self._seen(con)
            if mine is None or seen[:1] != [holder] or int(seen[1]) <= BROKEN_SECONDS:
                return
            con.run(f"DROP TABLE IF EXISTS {self.name} SYNC", self._settings)
            log.warning("a process that was changing the database is gone (%s)", holder[:8])

    def _renew(self, con: Connection) -> None:
        if self._seen(con)[:1] == [self._id]:
            con.run(f"ALTER TABLE {self.name} MODIFY COMMENT {quoted(self._id)}", self._settings)


class Claim(_Held):
    """A lock that only one of many gets, and nobody waits for."""

    def __init__(self, name: str, make: Callable[[], Connection], settings: Settings) -> None:
        super().__init__(f"{name}_", make, settings)
        self._table = self.name + self._id

    @contextmanager
    def taken(self, con: Connection, tries: int = TRIES) -> Iterator[Claim | None]:
        """It, or None where another process has it, or others wanted it at the same moments again and again."""
        try:
            if not self._try(con, tries):
                yield None
                return
            con.run(f"ALTER TABLE {self._table} MODIFY COMMENT 'held'", self._settings)
            with self._renewed(self._renew):
                yield self
        finally:
            with suppress(*FAILED):  # else it is taken for lost
                con.run(f"DROP TABLE IF EXISTS {self._table} SYNC", self._settings)

    def is_held(self, con: Connection) -> bool:
        """Whether nobody can have taken it for lost so far."""
        return any(name == self._table and age <= BROKEN_SECONDS for name, _, age in self._tables(con, self.name))

    def _try(self, con: Connection, tries: int) -> bool:
        for n in range(tries):
            con.run(_MADE.format(self._table, "'asked'"), self._settings)
            others = [each for each in self._tables(con, self.name) if each[0] != self._table]
            alive = [comment for _, comment, age in others if age <= BROKEN_SECONDS]
            if not alive:
                self._remove([name for name, _, _ in others], con)
                return True
            con.run(f"DROP TABLE IF EXISTS {self._table} SYNC", self._settings)
            if "held" in alive:
                return False
            time.sleep(random.uniform(0, WAIT_SECONDS * 1.5**n) if n + 1 < tries else 0)
        return False

    def _remove(self, lost: list[str], con: Connection) -> None:
        for name in lost:
            con.run(f"DROP TABLE IF EXISTS {name} SYNC", self._settings)
            log.warning("a process that had a piece of work is gone (%s)", name)

    def _renew(self, con: Connection) -> None:
        """What was taken for lost is not there any more."""
        con.run(f"ALTER TABLE {self._table} MODIFY COMMENT 'held'", self._settings)
