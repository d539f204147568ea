"""Which tables a change took rows from, and writing those anew, so that no byte of what was deleted stays in them."""

from __future__ import annotations

import psycopg
from psycopg import errors, sql

from gnomon.errors import StoreUnavailable
from gnomon.store.postgres.address import Address
from gnomon.store.postgres.opening import Connection

PREFIX = "touched:"  #: of the keys of the state that name a table which still holds deleted bytes
LOCK_SECONDS = 60

#: The server's own count of this transaction, so that it is noted by the very commit that makes it true.
_NOTE = f"""INSERT INTO state SELECT '{PREFIX}' || relname, '' FROM pg_stat_xact_user_tables
WHERE schemaname = current_schema() AND n_tup_upd + n_tup_del > 0 AND relname <> 'state' ON CONFLICT (key) DO NOTHING"""


def note_touched(con: Connection) -> None:
    """Note, in its transaction, from which tables a change took or changed rows."""
    con.execute(_NOTE)


def compact_touched(con: Connection, address: Address) -> None:
    """Write the noted tables anew (VACUUM FULL), each in its own transaction; outside of any.

    Questions to a table wait while it is written. Raises `StoreUnavailable` where one cannot be had.
    """
    state = sql.Identifier(address.schema, "state")
    noted = con.execute(
        sql.SQL("SELECT substr(key, {}) FROM {} WHERE key LIKE {}").format(len(PREFIX) + 1, state, PREFIX + "%")
    ).fetchall()
    for (name,) in noted:
        table = sql.Identifier(address.schema, name)
        try:
            con.execute(sql.SQL("SET lock_timeout = {}").format(f"{LOCK_SECONDS}s"))
            con.execute(sql.SQL("VACUUM (FULL, ANALYZE) {}").format(table))
        except errors.UndefinedTable:
            pass
        except psycopg.Error as error:
            raise StoreUnavailable(
                "a table could not be written anew, so deleted values are still in its file",
                code="store-not-compacted",
                remedy="Run it again; the database user must own the tables, and nothing may hold them for a minute.",
            ) from error  # fmt: skip
        finally:
            if not con.closed:
                con.execute("RESET lock_timeout")
        con.execute(sql.SQL("DELETE FROM {} WHERE key = {}").format(state, PREFIX + name))
