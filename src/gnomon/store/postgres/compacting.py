"""Which tables a change took rows from, and writing those anew, so that no byte of what was deleted stays in them."""

from __future__ import annotations

import time

import psycopg
from psycopg import errors, sql

from gnomon.errors import StoreUnavailable
from gnomon.store.postgres.address import Address
from gnomon.store.postgres.opening import Connection

PREFIX = "touched:"  #: of the keys of the state that name a table which still holds deleted bytes
LOCK_SECONDS = 60
LOOK_SECONDS = 0.1

#: The server's own count of this transaction, so that it is noted by the very commit that makes it true. A server that
#: does not count may have taken rows from any. `events` has none of its own: its months are named.
_NOTE = f"""INSERT INTO state SELECT '{PREFIX}' || relname, pg_current_xact_id()::text FROM pg_stat_xact_user_tables
WHERE schemaname = current_schema() AND relname NOT IN ('state', 'events')
AND (n_tup_upd + n_tup_del > 0 OR current_setting('track_counts') = 'off')
ON CONFLICT (key) DO UPDATE SET value = excluded.value"""
#: A table is written anew outside of a transaction of ours, so under the bounds of the session.
_BOUNDS = """SELECT set_config(name, {}, false) FROM pg_settings
WHERE name IN ('lock_timeout', 'statement_timeout', 'transaction_timeout')"""
#: Whoever looks at the database as it was before a transaction, or has written in an older one that is open, in
#: whatever database of the server, as no snapshot is younger than it: until they end, the server keeps deleted rows.
_LOOKING_BACK = """SELECT (SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid()
AND greatest(age(backend_xid), CASE WHEN datname = current_database() THEN age(backend_xmin) END)
  >= age(%s::text::xid8::xid))
+ (SELECT count(*) FROM pg_prepared_xacts WHERE age(transaction) >= age(%s::text::xid8::xid))
+ (SELECT count(*) FROM pg_replication_slots WHERE age(xmin) >= age(%s::text::xid8::xid))"""


def note_touched(con: Connection) -> None:
    """Note, in its transaction, from which tables a change took or changed rows."""
    con.execute(_NOTE)


def compact_touched(con: Connection, address: Address) -> None:
    """Write the noted tables anew (VACUUM FULL), each in its own transaction; outside of any.

    Questions that began before are waited for; those to a table wait while it is written. Raises `StoreUnavailable`
    where that cannot be done within a while: it is done by the next compaction then.
    """
    state = sql.Identifier(address.schema, "state")
    noted = con.execute(
        sql.SQL("SELECT substr(key, {}), value FROM {} WHERE key LIKE {} ORDER BY key").format(
            len(PREFIX) + 1, state, PREFIX + "%"
        )
    ).fetchall()
    for name, transaction in noted:
        table = sql.Identifier(address.schema, name)
        _wait_for_older(con, transaction)
        try:
            con.execute(_BOUNDS.format(f"CASE name WHEN 'lock_timeout' THEN '{LOCK_SECONDS * 1_000:.0f}' ELSE '0' END"))
            con.execute(sql.SQL("VACUUM (FULL, ANALYZE) {}").format(table))
        except errors.UndefinedTable:
            pass
        except psycopg.Error as error:
            raise _not_compacted() from error
        finally:
            if not con.closed:
                con.execute(_BOUNDS.format("reset_val"))
        con.execute(sql.SQL("DELETE FROM {} WHERE key = {}").format(state, PREFIX + name))


def _wait_for_older(con: Connection, transaction: str) -> None:
    until = time.monotonic() + LOCK_SECONDS
    while True:
        row = con.execute(_LOOKING_BACK, [transaction] * 3).fetchone()
        if row == (0,):
            return
        if time.monotonic() > until:
            raise _not_compacted()
        time.sleep(LOOK_SECONDS)


def _not_compacted() -> StoreUnavailable:
    return StoreUnavailable(
        "a table could not be written anew, so deleted values are still in its file",
        remedy="End transactions that run for minutes (pg_stat_activity), and do it again as the owner of the tables.",
        code="store-not-compacted",
    )
