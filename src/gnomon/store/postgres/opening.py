"""Opening a PostgreSQL store: what the server must be and allow, and the schema, brought up to date by Alembic.

Every setting that matters is made for one transaction at a time, so that a pooler between (PgBouncer, also one that
shares connections by transaction) changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import Any, TypeAlias

import psycopg
from psycopg import errors, sql
from psycopg.types.numeric import NumericBinaryLoader

from gnomon.errors import InvalidValue, StoreUnavailable
from gnomon.store.postgres.address import Address, address_of
from gnomon.store.postgres.faults import of_connecting, translated

KNOWN = 3  #: the newest schema that this version knows
#: The number of the words (`postgres_words.sql`) of this version. A store never goes back to words of a lower one, as
#: programs of two versions may use it at once.
WORDS = 1
IDLE_MS = 60_000  #: a transaction whose process was stopped in the middle holds nobody up for longer than this
CHECK_MS = 5_000  #: a server process whose client is gone ends so soon, and holds no old rows any longer
#: A bound that an administrator gave to whole transactions (PostgreSQL 17) would end a turn, a copy or a long change in
#: the middle, and so again each time. Statements and idle transactions have bounds of ours.
NO_BOUND = (
    "SELECT set_config('transaction_timeout', '0', true) WHERE current_setting('transaction_timeout', true) <> '0'"
)
#: Not the fault of a migration.
_PASSING = (psycopg.OperationalError, errors.InsufficientPrivilege)
REVISIONS = resources.files("gnomon.store.migrations").joinpath("postgres")
OLDEST_SERVER = 150_000  #: PostgreSQL 15: the first that takes NULLS NOT DISTINCT

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]


@dataclass(frozen=True)
class Found:
    """What a store is, as its `state` table says."""

    schema: int
    least: int  #: the oldest version of the schema whose programs may go on using it
    store_id: str


def connect(address: Address) -> Connection:
    """A connection in autocommit mode: transactions are begun in words, see `begin`. Raises `StoreUnavailable`."""
    try:
        con = psycopg.connect(**address.parameters, autocommit=True, prepare_threshold=None)
    except psycopg.Error as error:
        raise of_connecting(error) from None  # the driver's message may hold what the URL held
    con.adapters.register_loader("numeric", _Number)
    return con


class _Number(NumericBinaryLoader):
    """A sum of whole numbers is a whole number, as in every other store; money and the like stay decimal."""

    def load(self, data: Any) -> Any:
        found = super().load(data)
        return int(found) if found.as_tuple().exponent == 0 else found


def begin(address: Address, *, reading: bool, milliseconds: int, lock_milliseconds: int = 0,
          careful: bool = False) -> str:  # fmt: skip
    """The words that begin a transaction: one snapshot for reading, what is committed for writing.

    In a `careful` one, doubles are infinite or 0 where PostgreSQL would refuse the statement (decision 0028): the
    operators and sums of our schema stand before its own.
    """
    kind = "ISOLATION LEVEL REPEATABLE READ READ ONLY" if reading else "ISOLATION LEVEL READ COMMITTED READ WRITE"
    durable = "" if reading else (
        "; SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'"
    )  # fmt: skip
    own = f"{address.quoted}, pg_catalog" if careful else address.quoted
    return (
        f"BEGIN {kind}; SET LOCAL search_path = {own}, pg_temp; SET LOCAL TimeZone = 'UTC'; "
        f"SET LOCAL jit = off; SET LOCAL client_min_messages = warning; "
        f"SET LOCAL idle_in_transaction_session_timeout = {IDLE_MS}; "
        f"SET LOCAL client_connection_check_interval = {CHECK_MS}; SET LOCAL standard_conforming_strings = on; "
        f"SET LOCAL statement_timeout = {milliseconds}; SET LOCAL lock_timeout = {lock_milliseconds}; "
        f"{NO_BOUND}{durable}"
    )


def migrate(address: Address) -> Found:
    """Look at the server and bring the schema up to date; many processes may come at once.

    Raises `StoreUnavailable`, `InvalidValue` with code `newer-schema` or `foreign-file`.
    """
    with connect(address) as con:
        _check_server(con)
        try:
            found = look(con, address)
            if found is None or found.schema < KNOWN or _lacks_words(con, address, found):
                found = _upgrade(con, address)
        except psycopg.Error as error:
            raise translated(error, writing=True) from error
    return checked(found)


def identity(url: str) -> str | None:
    """What tells the store at a URL from others, None where there is none; nothing is made. Raises as `migrate`."""
    address = address_of(url)
    with connect(address) as con:
        try:
            found = look(con, address)
        except psycopg.Error as error:
            raise translated(error) from error
    return None if found is None else found.store_id


def checked(found: Found) -> Found:
    """The same. Raises `InvalidValue` when this version is too old for it."""
    if found.least > KNOWN:
        raise InvalidValue(
            f"the store has schema {found.schema}, this version knows {KNOWN}",
            remedy="Upgrade gnomon.",
            code="newer-schema",
        )
    return found


def _check_server(con: Connection) -> None:
    if con.info.server_version < OLDEST_SERVER:
        raise StoreUnavailable(
            f"the database is PostgreSQL {con.info.server_version // 10_000}, and Gnomon needs 15 or newer",
            remedy="Upgrade the database.", code="store-too-old",
        )  # fmt: skip
    if con.execute("SHOW server_encoding").fetchone() != ("UTF8",):
        raise StoreUnavailable(
            "the database does not keep its texts in UTF-8", code="store-encoding",
            remedy="Create one with ENCODING 'UTF8' TEMPLATE template0.",
        )  # fmt: skip


def look(con: Connection, address: Address) -> Found | None:
    """What is there; None where there is nothing yet. Raises `InvalidValue` with code `foreign-file`."""
    there = con.execute(
        "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = %s AND c.relkind IN ('r', 'p')", [address.schema],
    ).fetchall()  # fmt: skip
    if not there:
        return None
    if ("state",) in there:
        place = sql.Identifier(address.schema, "state")
        kept: dict[str, str] = dict(con.execute(sql.SQL("SELECT key, value FROM {}").format(place)).fetchall())
        if {"schema", "schema_least", "store_id"} <= kept.keys():
            return Found(int(kept["schema"]), int(kept["schema_least"]), kept["store_id"])
    raise InvalidValue(
        "the schema of the database holds tables that Gnomon did not make",
        remedy="Name another one in the store's URL: ?schema=...",
        code="foreign-file",
    )


def _lacks_words(con: Connection, address: Address, found: Found) -> bool:
    """Whether there are older words than ours. Those of a newer schema are left as they are."""
    place = sql.Identifier(address.schema, "state")
    row = con.execute(sql.SQL("SELECT value FROM {} WHERE key = 'words'").format(place)).fetchone()
    number = int(row[0]) if row is not None and len(row[0]) < 10 and row[0].isdecimal() else 0  # once it was a digest
    return found.schema == KNOWN and number < WORDS


def _words(address: Address) -> str:
    text = resources.files("gnomon.store.migrations").joinpath("postgres_words.sql").read_text("utf-8")
    return text.replace("{schema}", address.quoted)


def _upgrade(con: Connection, address: Address) -> Found:
    con.execute(begin(address, reading=False, milliseconds=0, lock_milliseconds=60_000))
    try:
        con.execute("SELECT pg_advisory_xact_lock(hashtextextended('gnomon schema ' || %s, 0))", [address.schema])
        found = look(con, address)  # another process may have been quicker
        if found is None:
            _make_schema(con, address)
        if found is None or found.schema < KNOWN:
            _run_alembic(con, address)
            found = look(con, address)
        assert found is not None
        if _lacks_words(con, address, found):
            con.execute(_words(address))
            con.execute("INSERT INTO state VALUES ('words', %s) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                        [str(WORDS)])  # fmt: skip
        con.execute("COMMIT")
    except BaseException:
        if not con.closed:
            con.execute("ROLLBACK")
        raise
    return found


def _make_schema(con: Connection, address: Address) -> None:
    # IF NOT EXISTS asks for the right to make one even where it is there.
    if con.execute("SELECT FROM pg_namespace WHERE nspname = %s", [address.schema]).fetchone() is not None:
        return
    try:
        con.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(address.schema)))
    except errors.InsufficientPrivilege as error:
        raise StoreUnavailable(
            "the database user may not create Gnomon's schema", code="store-rights",
            remedy=f"Run CREATE SCHEMA {address.quoted} AUTHORIZATION <user> as the owner of the database.",
        ) from error  # fmt: skip


def _run_alembic(con: Connection, address: Address) -> None:
    """Alembic's steps on this connection, within its transaction."""
    from alembic import command  # deferred: half a second, needed when the schema changes only
    from alembic.config import Config
    from alembic.util import CommandError
    from sqlalchemy import create_engine
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError
    from sqlalchemy.pool import StaticPool
    from sqlalchemy.sql import quoted_name

    config = Config()
    config.set_main_option("script_location", str(REVISIONS).replace("%", "%%"))
    engine = create_engine("postgresql+psycopg://", creator=lambda: _Within(con), poolclass=StaticPool,
                           pool_reset_on_return=None, _initialize=False)  # fmt: skip
    try:
        with engine.connect() as bound:
            config.attributes.update(connection=bound, schema=quoted_name(address.schema, quote=True))
            command.upgrade(config, f"{KNOWN:04}")
    except (SQLAlchemyError, CommandError) as error:
        if isinstance(error, DBAPIError) and isinstance(error.orig, _PASSING):
            raise translated(error.orig, writing=True) from error
        raise StoreUnavailable(
            "the tables cannot be brought to the schema of this version; nothing was changed",
            remedy="Report this; go back to the version of Gnomon that was in use.", code="store-migration",
        ) from error  # fmt: skip


class _Within:
    """A connection whose transaction belongs to somebody else: who uses it can neither end nor begin one."""

    def __init__(self, con: Connection) -> None:
        self._con = con

    def __getattr__(self, name: str) -> Any:
        return getattr(self._con, name)

    def commit(self) -> None:
        """Left to the owner of the transaction."""

    def rollback(self) -> None:
        """Left to the owner of the transaction."""

    def close(self) -> None:
        """Left to the owner of the transaction."""
