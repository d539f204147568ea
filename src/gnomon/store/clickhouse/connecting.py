"""Ways to a ClickHouse: the engine in this process, or a server over HTTP. Both take rows and answers as Native blocks.

A connection is used by one thread at a time, see `Connections`. An embedded engine cannot be used after a fork, and
its own clean-up would wait for threads that exist in the parent only: a child ends without it.
"""

from __future__ import annotations

import ctypes
import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from clickhouse_connect import get_client
from clickhouse_connect.datatypes.registry import get_from_name
from clickhouse_connect.driver.ctypes import RespBuffCls
from clickhouse_connect.driver.exceptions import ClickHouseError, DataError
from clickhouse_connect.driver.httputil import get_pool_manager
from clickhouse_connect.driver.insert import InsertContext
from clickhouse_connect.driver.query import QueryContext
from clickhouse_connect.driver.transform import NativeTransform

from gnomon.errors import EngineClosed, StoreBusy, StoreUnavailable
from gnomon.store import Table
from gnomon.store.clickhouse.address import Address
from gnomon.store.clickhouse.faults import of_opening, translated

WAIT_SECONDS = 10.0  #: how long a question waits for a connection that is in use
CONNECT_SECONDS = 10
MERCY_SECONDS = 5  #: how much longer than the server's own time-out the client waits for an answer
Settings = Mapping[str, str | int | float]


class Connection(Protocol):
    """What both ways can do. Errors are those of the driver, see `faults.translated`."""

    def run(self, text: str, settings: Settings) -> Table:
        """Run one statement; `settings` may name the `database` of its tables."""

    def put(self, table: str, columns: Sequence[tuple[str, str, Sequence[Any]]], settings: Settings) -> None:
        """Insert rows, given as columns of `(name, type, values)`."""

    def close(self) -> None:
        """Let go of it."""


#: What the driver and the engine raise.
FAILED = (ClickHouseError, RuntimeError, OSError)
#: What the driver says of its own, bare and before our words, where a host set up no logging.
logging.getLogger("clickhouse_connect").addHandler(logging.NullHandler())
_PLAIN = QueryContext()
_Buffer: Any = RespBuffCls


class Embedded:
    """The engine in this process, opened with the first connection and shut with the last."""

    def __init__(self, path: str) -> None:
        import chdb

        if _STARTED_IN and _STARTED_IN[0] != os.getpid():
            raise StoreBusy(
                "this process was forked from one that had ClickHouse open, and cannot use it",
                remedy="Open the store in the process that it was forked from, or start this one with spawn.",
            )
        _STARTED_IN[:] = [os.getpid()]
        try:
            self._engine: Any = chdb.connect(path)  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise of_opening(error) from error
        self._set: dict[str, str] = {}
        _OPEN.add(self)

    def run(self, text: str, settings: Settings) -> Table:
        """See `Connection.run`."""
        self._apply(settings)
        result = self._engine.query(text, "Native")
        found: Any = NativeTransform.parse_response(_Buffer(_Bytes(result.bytes())), _PLAIN)
        return _table(self, text, settings, found)

    def put(self, table: str, columns: Sequence[tuple[str, str, Sequence[Any]]], settings: Settings) -> None:
        """See `Connection.put`."""
        self._apply(settings)
        names = ", ".join(name for name, _, _ in columns)
        inserting = self._engine.send_insert(f"INSERT INTO {table} ({names})", "Native")
        try:
            for block in _blocks(columns):
                inserting.append(block)
            inserting.finish()
        except BaseException:
            with suppress(RuntimeError):
                inserting.cancel()
            raise

    def _apply(self, settings: Settings) -> None:
        """Settings stay with the connection, so those of the statement before are taken back."""
        wanted = {name: str(value) for name, value in settings.items()}
        gone = self._set.keys() - wanted.keys() - {"database"}
        changed = {name: _literal(value) for name, value in wanted.items() if self._set.get(name) != value}
        database = changed.pop("database", None)
        if database is not None:
            self._engine.query(f"USE {wanted['database']}")
        words = [f"{name} = {word}" for name, word in (changed | dict.fromkeys(gone, "DEFAULT")).items()]
        if words:
            self._engine.query(f"SET {', '.join(words)}")
        self._set = {"database": self._set.get("database", ""), **wanted}

    def close(self) -> None:
        """See `Connection.close`."""
        _OPEN.discard(self)
        self._engine.close()


class Remote:
    """A server, over HTTP. `pool` is shared by the connections of a store."""

    def __init__(self, address: Address, pool: Any) -> None:
        try:
            self._client: Any = get_client(
                host=address.host, port=address.port, username=address.user, password=address.password,
                database="default", interface="https" if address.secure else "http", connect_timeout=CONNECT_SECONDS,
                pool_mgr=pool, query_limit=0, autogenerate_session_id=False, query_retries=0, compress=True,
                client_name="gnomon",
            )  # fmt: skip
        except FAILED as error:
            raise translated(error, writing=True) from None  # the driver's message may hold what the URL held

    def run(self, text: str, settings: Settings) -> Table:
        """See `Connection.run`."""
        self._wait_for(settings)
        if text.lstrip(" (").split(None, 1)[0].upper() in ("SELECT", "WITH", "DESCRIBE", "EXPLAIN", "CHECK"):
            return _table(self, text, settings, self._client.query(text, settings=dict(settings)))
        self._client.command(text, settings=dict(settings))
        return Table([], [])

    def put(self, table: str, columns: Sequence[tuple[str, str, Sequence[Any]]], settings: Settings) -> None:
        """See `Connection.put`."""
        self._wait_for(settings)
        self._client.insert(
            table, [values for _, _, values in columns], column_names=[name for name, _, _ in columns],
            column_type_names=[kind for _, kind, _ in columns], column_oriented=True, settings=dict(settings),
        )  # fmt: skip

    def _wait_for(self, settings: Settings) -> None:
        """A server that does not answer at all is given up a little after it should have said so itself."""
        self._client.timeout = self._client.timeout.clone()
        self._client.timeout._read = float(settings.get("max_execution_time", 300)) + MERCY_SECONDS

    def close(self) -> None:
        """See `Connection.close`."""
        self._client.close()


def _table(con: Connection, text: str, settings: Settings, found: Any) -> Table:
    """An answer. One without rows comes as no block at all, so that its columns have to be asked for."""
    names = list(found.column_names)
    if not names and text.lstrip(" (").split(None, 1)[0].upper() in ("SELECT", "WITH"):
        names = [str(name) for name, *_ in con.run(f"DESCRIBE ({text})", settings).rows]
    return Table(names, [(*row,) for row in found.result_rows])


class _Bytes:
    """An answer that is there as a whole, as the driver reads it."""

    last_message: bytes | None = None
    exception_tag: str | None = None

    def __init__(self, data: bytes) -> None:
        self.gen = iter((data,))

    def close(self) -> None:
        """Nothing is open."""


def _blocks(columns: Sequence[tuple[str, str, Sequence[Any]]]) -> Iterator[bytes]:
    """Native blocks of rows."""
    names, kinds = [name for name, _, _ in columns], [get_from_name(kind) for _, kind, _ in columns]
    context = InsertContext("", names, kinds, [values for _, _, values in columns], column_oriented=True)
    prefix = True
    for block in NativeTransform.build_insert(context):
        if context.insert_exception is not None:
            raise DataError("a value does not fit its column") from context.insert_exception
        yield block[block.index(b"\n") + 1 :] if prefix else block
        prefix = False


def _literal(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def pool_of(address: Address) -> Any:
    """The sockets of a store on a server."""
    return None if address.path is not None else get_pool_manager()


class Connections:
    """Hands out up to `most` connections at a time, made by `make`, and keeps them for the next question."""

    def __init__(self, make: Callable[[], Connection], most: int) -> None:
        self._make = make
        self._free = threading.BoundedSemaphore(most)
        self._idle: list[Connection] = []
        self._lock = threading.Lock()
        self._closed = False

    @contextmanager
    def one(self) -> Iterator[Connection]:
        """A connection. Raises `StoreUnavailable` when none came free in time, or none can be made."""
        if self._closed:
            raise EngineClosed("the store is closed", remedy="Open the engine again.")
        if not self._free.acquire(timeout=WAIT_SECONDS):
            raise StoreUnavailable(
                "every connection to the database is in use", code="store-crowded",
                remedy="Ask again in a moment; if it lasts, raise database_connections or ask less at once.",
            )  # fmt: skip
        try:
            with self._lock:
                kept = self._idle.pop() if self._idle else None
            con = kept or self._make()
            try:
                yield con
            except BaseException:
                _close(con)  # whatever state the failed statement left it in
                raise
            self._give_back(con)
        finally:
            self._free.release()

    def _give_back(self, con: Connection) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(con)
                return
        _close(con)

    def close(self) -> None:
        """Let go of all of them; those in use are closed when they come back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for con in idle:
            _close(con)


def _close(con: Connection) -> None:
    with suppress(*FAILED):
        con.close()


# -- fork ---------------------------------------------------------------------------------------------------------

_OPEN: weakref.WeakSet[Embedded] = weakref.WeakSet()
_LEFT_TO_THE_PARENT: list[Any] = []
_STARTED_IN: list[int] = []  #: the process whose engine this is; its threads outlive the last connection


def _in_child() -> None:
    """Nothing of the parent's engine is ever destroyed here, and the process ends before its clean-up can wait."""
    if not _STARTED_IN:
        return
    for each in list(_OPEN):
        engine = each._engine
        for thing in (each, engine, getattr(engine, "_conn", None)):
            _LEFT_TO_THE_PARENT.append(thing)
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
    _OPEN.clear()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "on_exit"):  # glibc: what is registered last runs first, and `_exit` takes the status as it comes
        libc.on_exit(ctypes.cast(libc._exit, ctypes.c_void_p), None)


os.register_at_fork(after_in_child=_in_child)
