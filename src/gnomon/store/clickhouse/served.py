"""A ClickHouse store on a server, which other processes use as well: its locks and turns, and what all have to know."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from gnomon.config import Settings
from gnomon.store import Turn
from gnomon.store.clickhouse import ClickHouseStore, turns
from gnomon.store.clickhouse.asking import LOCK_SECONDS
from gnomon.store.clickhouse.connecting import FAILED, Connection
from gnomon.store.clickhouse.deciding import WRITE_SECONDS
from gnomon.store.clickhouse.faults import translated
from gnomon.store.clickhouse.leases import UPKEEP, WRITING, Lease
from gnomon.store.clickhouse.ledger import (
    MARK,
    Head,
    read_head,
)

ALONE_SECONDS = 60.0  #: how long upkeep waits for that of another process
KEPT = "kept:"  #: of the keys of the state that hold what every process has to know


class ServedClickHouse(ClickHouseStore):
    """The same on a server; see also `gnomon.store.Served`, `Turns` and `Marked`."""

    def __init__(self, url: str, settings: Settings) -> None:
        self._leases: dict[str, Lease] = {}  #: what this process holds, or held until somebody took it for lost
        super().__init__(url, settings)

    def is_used(self) -> bool:
        """See `Served.is_used`."""
        with self._asked_for_state() as con:
            return any(key.startswith("journal:") for key in self._newest(con).state)

    def keep(self, key: str, value: str) -> None:
        """See `Served.keep`."""

        self._put(KEPT + key, value)

    def _put(self, key: str, value: str, check: Callable[[Connection], None] = lambda _: None) -> None:
        def put(con: Connection, head: Head) -> None:
            check(con)
            with self._or_burn(head.committed + 1):
                self._commit(con, head.committed + 1, {key: value})

        self._changed(put, WRITE_SECONDS)

    def keep_instead(self, key: str, before: str | None, value: str) -> bool:
        """See `Served.keep_instead`."""

        def put(con: Connection, head: Head) -> bool:
            if self._newest(con).state.get(KEPT + key) != before:
                return False
            with self._or_burn(head.committed + 1):
                self._commit(con, head.committed + 1, {KEPT + key: value})
            return True

        return self._changed(put, WRITE_SECONDS)

    def all_kept(self) -> dict[str, str]:
        """See `Served.all_kept`."""
        with self._asked_for_state() as con:
            state = self._newest(con).state
        return {key.removeprefix(KEPT): value for key, value in state.items() if key.startswith(KEPT)}

    @contextmanager
    def alone(self) -> Iterator[None]:
        """See `Served.alone`."""
        lease = Lease(UPKEEP, self._connect, self._session)
        try:
            with self._own_connection() as con, lease.held(con, ALONE_SECONDS), self._holding(lease):
                yield
        except FAILED as error:
            raise translated(error, writing=True) from error

    @contextmanager
    def _holding(self, lease: Lease) -> Iterator[None]:
        self._leases[lease.name] = lease
        try:
            yield
        finally:
            del self._leases[lease.name]

    def last_turn(self, name: str) -> int | None:
        """See `Turns.last_turn`."""
        with self._asked_for_state() as con:
            known = self._newest(con).state.get(turns.PREFIX + name)
        return None if known is None else int(known)

    @contextmanager
    def turn(self, name: str, period_us: int, now_us: int | None = None) -> Iterator[Turn | None]:
        """See `Turns.turn`."""

        def look(con: Connection) -> int | None:
            known = read_head(con, self._session).state.get(turns.PREFIX + name)
            return turns.due(con, self._plain(), known, period_us, now_us)

        with self._asked_for_state() as asking:
            found = look(asking)
        if found is None:
            yield None  # most looks find nothing to do, and need no connection of their own
            return
        claim = turns.claim_of(name, self._connect, self._session)
        with self._own_connection() as con, ExitStack() as taken:
            try:
                turn = taken.enter_context(turns.taken(con, name, claim, look, self._put))
            except FAILED as error:
                raise translated(error, writing=True) from error
            yield turn

    def moment(self) -> tuple[int, str]:
        """See `Marked.moment`."""
        with self._asked_for_state() as con:
            head = self._newest(con)
        return head.version, head.state.get(MARK, "")

    def _open(self) -> None:
        with self._writing_connection() as con:
            try:
                known = {name for (name,) in con.run("SELECT name FROM system.settings", {"database": "default"}).rows}
                self._session = {name: value for name, value in self._session.items() if name in {*known, "database"}}
                con.run(f"CREATE DATABASE IF NOT EXISTS {self._address.database}", {"database": "default"})
                with self._alone_in_the_database(con):
                    self._opened(con)
            except FAILED as error:
                raise translated(error, writing=True) from error

    @contextmanager
    def _alone_in_the_database(self, con: Connection) -> Iterator[None]:
        lease = Lease(WRITING, self._connect, self._session)
        with lease.held(con, LOCK_SECONDS), self._holding(lease):
            yield

    def _check_alone(self, con: Connection, name: str = WRITING) -> None:
        if lease := self._leases.get(name):
            lease.check(con)

    def _is_read(self, con: Connection) -> bool:
        """Also by another process, which does upkeep then."""
        others = UPKEEP not in self._leases and Lease(UPKEEP, self._connect, self._session).is_taken(con)
        return others or super()._is_read(con)
