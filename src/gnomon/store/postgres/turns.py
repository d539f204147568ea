"""Whose turn it is to do a piece of background work, and when it was done last, for all processes of a database.

The turn is an advisory lock of a transaction that does nothing else, so a pooler may be between, and the server itself
ends the turn of a process that died. What is due is told by the server's clock: those of the hosts may differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import psycopg

from gnomon.store import Turn
from gnomon.store.dialect import quoted
from gnomon.store.postgres.address import Address
from gnomon.store.postgres.connections import close
from gnomon.store.postgres.faults import translated
from gnomon.store.postgres.opening import Connection, begin, connect
from gnomon.store.postgres.writing import SET_STATE

PREFIX = "job:"  #: of the keys of the state that say when work was begun that ended well, UTC microseconds
ASK_MS = 10_000
#: For a transaction that waits on its client for minutes: a host that is gone without a word is noticed within 25 s.
PATIENT = (
    "SET LOCAL idle_in_transaction_session_timeout = 0; SET LOCAL tcp_keepalives_idle = 10; "
    "SET LOCAL tcp_keepalives_interval = 5; SET LOCAL tcp_keepalives_count = 3"
)
TRY = "SELECT pg_try_advisory_xact_lock(hashtextextended({}, 0))"
_CLOCK = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"


def due(name: str, period_us: int, now_us: int | None) -> str:
    """The question for `(the time, whether the work is due)`; a time to come is that of a clock that was wrong."""
    now = _CLOCK if now_us is None else str(now_us)
    known = f"(SELECT value::bigint FROM state WHERE key = {quoted(PREFIX + name)})"
    return (
        f"SELECT now, last IS NULL OR now < last OR now - last >= {period_us} "
        f"FROM (SELECT {now} AS now, {known} AS last) AS at"
    )


@contextmanager
def taken(address: Address, name: str, period_us: int, now_us: int | None) -> Iterator[Turn | None]:
    """The turn, None where it is another process's or the work is not due any more. Raises `StoreUnavailable`."""
    con = connect(address)
    try:
        try:
            found = _try(con, address, name, period_us, now_us)
        except psycopg.Error as error:
            raise translated(error, writing=True) from error
        yield None if found is None else Turn(found, partial(_note, con, name, found))
    finally:
        close(con)


def _try(con: Connection, address: Address, name: str, period_us: int, now_us: int | None) -> int | None:
    con.execute(begin(address, reading=False, milliseconds=ASK_MS))
    con.execute(PATIENT)
    if con.execute(TRY.format(quoted(f"gnomon job {address.schema} {name}"))).fetchone() != (True,):
        return None
    row = con.execute(due(name, period_us, now_us)).fetchone()
    return row[0] if row is not None and row[1] else None


def _note(con: Connection, name: str, at_us: int) -> None:
    try:
        con.execute(SET_STATE, [PREFIX + name, str(at_us)])
        con.execute("COMMIT")
    except psycopg.Error as error:
        raise translated(error, writing=True) from error
