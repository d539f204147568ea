"""What every store can do (`Store`), and `open_store(url)`, which picks one. A store keeps; it decides nothing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable
from urllib.parse import parse_qsl

from gnomon.errors import InvalidValue, MissingExtra, StoreUnavailable
from gnomon.event import Batch

if TYPE_CHECKING:
    from gnomon.config import Settings
    from gnomon.store.dialect import Dialect


SUSPECT = ".suspect"  #: ending of the file beside a store that says: damage was seen here, look at every block


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of one answer, column names first."""

    columns: list[str]
    rows: list[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Repeated:
    """A read-only statement that is asked again and again with other values, so that it is parsed once.

    `values` are SQL expressions for `$1`, `$2` and so on in `text`.
    """

    text: str
    values: tuple[str, ...]


Statement: TypeAlias = str | Repeated
Entry: TypeAlias = tuple[str, str | None, str, str, int]  #: of the books: project, source, outcome, reason, n


@dataclass(frozen=True, slots=True)
class Contents:
    """What a store holds: for each table the number of rows and a hash that does not depend on their order.

    `engine` names the database and its version, on which the hash depends; `known_schema` is that of this version.
    """

    tables: dict[str, tuple[int, str]]
    engine: str
    schema: int
    known_schema: int


PRUNED = (
    "events",
    "sightings",
    "samples",
    "rolled",
    "activity",
    "active_days",
)  #: tables from which pruning takes rows


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the tables of `PRUNED` take on disk, of all projects: `(rows, bytes)` of each; and the bytes that writing
    the files anew would give back anyhow."""

    tables: dict[str, tuple[int, int]]
    spare: int = 0

    def of(self, table: str, rows: int) -> float:
        """The bytes of so many rows of a table, were all of them alike."""
        held, size = self.tables.get(table, (0, 0))
        return size * rows / held if held else 0.0


@dataclass(frozen=True, slots=True)
class Entering:
    """What a copy has to know where it takes the place of other content: that it holds everything of the journal up
    to `position`, that its data version must be above `above_version`, a note that is kept as the state `restored`,
    and the books of restores so far."""

    journal_id: str
    position: int
    above_version: int
    note: str
    books: list[Entry] = field(default_factory=list)


class Moment(Protocol):
    """One moment of a store, see `Copying.snapshot`."""

    def contents(self) -> Contents:
        """What the store held at that moment, read from every block. Raises `StoreDamaged`."""

    def copy_to(self, file: Path) -> None:
        """Make a store file of that moment, within `Writer.resting()`. Raises `OSError`."""


@runtime_checkable
class Copying(Protocol):
    """A store that can be copied while it works, and given other content."""

    def snapshot(self) -> AbstractContextManager[Moment]:
        """This moment of the store. Enter it right after a checkpoint, within `Writer.paused()`."""

    def exchange(self, file: Path, aside: Path) -> None:
        """Put a settled copy in the place of the content; the old file stays under `aside`, on the same disk.

        Questions that run are waited for. Call it within `Writer.paused()`. When it raises, the old content is back
        at its last checkpoint.
        """


@runtime_checkable
class Columnar(Protocol):
    """A store that can hand out an answer by columns, without making a Python object of every value."""

    def columns(self, statement: Statement, timeout: float) -> Any:
        """The answer to a read-only statement as a `pyarrow.Table`, within `timeout` seconds.

        Raises what `Store.ask` raises, and `MissingExtra` without pyarrow.
        """


@runtime_checkable
class Served(Protocol):
    """A store on a database server, which many processes may use at the same time."""

    store_id: str  #: what tells it from every other one

    def is_used(self) -> bool:
        """Whether anything was ever written into it."""

    def keep(self, key: str, value: str) -> None:
        """Keep a small value for every process that uses the store."""

    def keep_instead(self, key: str, before: str | None, value: str) -> bool:
        """Keep a value in the place of `before` (None: of nothing); False where another one is kept by now."""

    def all_kept(self) -> dict[str, str]:
        """Every kept value."""

    def alone(self) -> AbstractContextManager[None]:
        """While no other process does upkeep on it. Raises `StoreUnavailable` when another one does for too long."""


class Reading(Protocol):
    """One moment of a store."""

    streams: bool  #: whether rows of a long answer come one part after the other; else it is there as a whole

    def rows(self, statement: str) -> Iterator[list[tuple[Any, ...]]]:
        """The rows of a read-only statement in parts of some thousand. One at a time: read a statement to its end."""


@runtime_checkable
class Carrying(Protocol):
    """A store whose rows can be carried to another one, and that takes in those of another; see `store.carrying`."""

    def reading(self) -> AbstractContextManager[Reading]:
        """This moment of the store, whatever is written meanwhile. Raises what `Store.ask` raises."""

    def fill(self, table: str, rows: Callable[[], Iterable[list[tuple[Any, ...]]]], first: Sequence[str],
             state: Mapping[str, str | None]) -> None:  # fmt: skip
        """Run statements, put rows into a table, then values into the state (None: away), in one transaction where the
        store has any.

        `rows` may be called again. The data version stays. For a copy that nobody else uses yet.
        """

    def settle(self, *, done: bool, compact: bool) -> None:
        """Make durable what was filled in; with `compact` free of deleted bytes, when `done` ready for questions."""


@runtime_checkable
class Mending(Protocol):
    """A store that carries over, when it is opened, what can be read of its damaged parts."""

    @property
    def damaged(self) -> bool:
        """Whether rows may be missing, so that `put_back` is to be called with all that the journal has."""

    def put_back(self, work: Sequence[tuple[int, Batch]]) -> int:
        """Store rows of batches that had been stored and are not there any more; returns how many. Not in the books."""

    def mended(self) -> None:
        """There is no more to put back."""


@runtime_checkable
class Marked(Protocol):
    """A store whose content can be told from every other content that ever had the same version."""

    store_id: str

    def moment(self) -> tuple[int, str]:
        """The data version, and a mark that was made at random with it: a database that went back to an earlier
        content hands out its versions again, but no mark."""


@dataclass(frozen=True, slots=True)
class Turn:
    """The right to do a piece of background work: taken at `now_us`, by the clock that told that it was due.

    `done()` keeps that it was done, and ends the turn. Raises `StoreUnavailable` where that cannot be kept.
    """

    now_us: int
    done: Callable[[], None]


@runtime_checkable
class Turns(Protocol):
    """A store on a server that tells which of many processes does a piece of background work."""

    def turn(self, name: str, period_us: int, now_us: int | None = None) -> AbstractContextManager[Turn | None]:
        """The turn to do the work of that name, where it was not done within `period_us`; None where it was, or where
        another process is at it. `now_us` instead of the server's own clock. Raises `StoreUnavailable`."""

    def last_turn(self, name: str) -> int | None:
        """`now_us` of the last turn of that name that ended well, whoever had it. Raises `StoreUnavailable`."""


class Store(Protocol):
    """One open store. All methods may be called from any thread; `write`, `change` and `checkpoint` under
    the writer's lock only."""

    dialect: Dialect
    bulk: int  #: how many times as large its transactions are, and waited for, as those of a file

    def position(self, journal_id: str) -> int:
        """The position in that journal up to which this store has everything; 0 for a journal it has not seen."""

    def write(self, work: Sequence[tuple[int, Batch]], journal_id: str) -> dict[int, Counter[str]]:
        """Store batches `(position, Batch)` in one transaction: rows without repeats, books, quarantine, position.

        Returns, by position, how many rows of a batch were not stored and why: `duplicate` or `sealed`.
        """

    def ask(self, statements: Sequence[Statement], timeout: float) -> list[Table]:
        """Answer read-only statements from one snapshot, at most `timeout` seconds each."""

    def change(self, statements: Sequence[str], timeout: float = 3_600.0) -> list[Table]:
        """Run statements in one transaction, all or none, and raise the data version; for upkeep.

        Call it within `Writer.paused()`. It is not durable by itself: a crash takes the store back to its last
        checkpoint, so the caller checkpoints, or is able to do it again.
        """

    def data_version(self) -> int:
        """A number that rises with every change of the data, and is odd while one is about to be seen.

        Who finds the same even number before and after a question knows that nothing changed meanwhile, but for spans
        of `alive` that went on for a period or two: beats that do nothing else leave the number as it is.
        Raises `StoreUnavailable` with code `unfinished-copy` where another process still fills a store on a server.
        """

    def checkpoint(self, *, compact: bool = False) -> None:
        """Make the store's files complete without any log beside them; with `compact` also free of deleted bytes."""

    def describe(self) -> dict[str, Any]:
        """Versions, sizes and row counts, for the doctor."""

    def disk_bytes(self) -> int:
        """What the store takes on disk; 0 in memory."""

    def sizes(self) -> Sizes:
        """What tables take on disk, as of the last checkpoint; 0 in memory."""

    def close(self) -> None:
        """Let go of the files."""


def open_store(url: str, settings: Settings) -> Store:
    """Open the store that `url` names: a DuckDB path, `duckdb://path`, `:memory:`, `postgresql://...`, `chdb://path`
    or `clickhouse://...`.

    Raises `InvalidValue` for a scheme that this version does not know, `StoreBusy` when another process owns the
    file, `StoreDamaged` when it cannot be read, `StoreUnavailable` when the database cannot be reached.
    """
    scheme, separator, rest = url.partition("://")
    if scheme in _CLICKHOUSE:
        _need(url)
        from gnomon.store.clickhouse import ClickHouseStore
        from gnomon.store.clickhouse.served import ServedClickHouse

        if clustered(url):
            from gnomon.store.clickhouse.clustered import ClusteredClickHouse

            return ClusteredClickHouse(url, settings)
        return (ServedClickHouse if served(url) else ClickHouseStore)(url, settings)
    if served(url):
        _need(url)
        from gnomon.store.postgres import PostgresStore

        return PostgresStore(url, settings)
    if separator and scheme != "duckdb":
        raise unknown_store()
    from gnomon.store.duckdb import DuckDBStore

    return DuckDBStore(rest if separator else url, settings)


def clustered(url: str) -> bool:
    """Whether `url` names a store that is spread over the servers of a ClickHouse cluster."""
    return url.startswith("clickhouse://") and "cluster" in dict(parse_qsl(url.partition("?")[2]))


def served(url: str) -> bool:
    """Whether a database server keeps the store, so that any number of processes may use it."""
    return url.partition("://")[0] in ("postgresql", "postgres", "clickhouse")


def is_file(url: str) -> bool:
    """Whether the store is a DuckDB file, or in memory; every other one is named by a scheme."""
    return "://" not in url.removeprefix("duckdb://")


def takes_turns(url: str) -> bool:
    """Whether the store tells which of many processes does a piece of background work (`Turns`), so that there may be
    workers."""
    return served(url)


def served_name(url: str) -> str:
    """A name for this host's files of a store on a server. Raises what `open_store` raises of a URL."""
    _need(url)
    if url.startswith("clickhouse://"):
        from gnomon.store.clickhouse.address import address_of as clickhouse

        return f"{clickhouse(url).database}.clickhouse"
    from gnomon.store.postgres.address import address_of

    address = address_of(url)
    return re.sub(r"[^A-Za-z0-9_.-]", "_", f"{address.database}.{address.schema}")


def unknown_store() -> InvalidValue:
    """What a URL is told that names no store of this version."""
    return InvalidValue(
        "this version opens DuckDB files, PostgreSQL and ClickHouse databases only",
        remedy="Give a path, duckdb://path, :memory:, postgresql://user:password@host/database, chdb://path or "
        "clickhouse://user:password@host/database.",
        code="bad-store",
    )


_CLICKHOUSE = ("chdb", "clickhouse")
#: The packages that stores need beside the core, and the extras that bring them.
_NEEDED = {
    "postgresql": ("postgres", ("psycopg", "alembic")),
    "postgres": ("postgres", ("psycopg", "alembic")),
    "clickhouse": ("clickhouse", ("clickhouse_connect",)),
    "chdb": ("chdb", ("chdb", "clickhouse_connect")),
}


def _need(url: str) -> None:
    extra, packages = _NEEDED[url.partition("://")[0]]
    for package in packages:
        if find_spec(package) is None:
            raise MissingExtra(package, extra)


def embedded_folder(url: str) -> Path | None:
    """The name beside which the files of an embedded ClickHouse lie; None for any other store. Raises `InvalidValue`
    for a URL that cannot be read."""
    if not url.startswith("chdb://"):
        return None
    from gnomon.store.clickhouse.address import address_of

    return address_of(url).file


def store_there(url: str) -> str | None:
    """What tells the store at `url` from every other one, None where there is none; empty where it is embedded, or
    where its server does not tell. Makes nothing. Raises `InvalidValue` for a URL that cannot be read, or content of
    others."""
    path = store_path(url)
    if path is None or not served(path):
        return "" if path is None or _embedded_there(path) else None
    _need(url)
    try:
        if url.startswith("clickhouse://"):
            from gnomon.store.clickhouse.opening import identity as of_clickhouse

            return of_clickhouse(url)
        from gnomon.store.postgres.opening import identity

        return identity(url)
    except StoreUnavailable:  # so says whatever comes next, and why
        return ""


def _embedded_there(path: str) -> bool:
    if not path.startswith("chdb://"):
        return "://" in path or Path(path).exists()
    from gnomon.store.clickhouse.address import address_of

    address = address_of(path)
    return Path(str(address.path), "metadata", f"{address.database}.sql").exists()


def store_path(url: str) -> str | None:
    """The file of an embedded store, or None when it is in memory; the URL of any other."""
    path = url.removeprefix("duckdb://")
    return None if path == ":memory:" else path


def salvage_store(url: str, damaged: str, settings: Settings) -> dict[str, str]:
    """Make a new store at `url` from whatever can be read of the damaged file; says what was carried over."""
    from gnomon.store.duckdb.salvage import salvage

    return salvage(url, damaged, settings)


def examine_copy(file: Path, settings: Settings) -> Contents:
    """What a store file that nobody uses holds, read from every block. Raises `StoreDamaged`, `StoreUnavailable`."""
    from gnomon.store.duckdb.copying import examine

    return examine(file, settings)


def settle_copy(file: Path, settings: Settings, entering: Entering) -> None:
    """Bring a copy to this version's schema and make it ready for `Copying.exchange`. Raises `InvalidValue` with
    code `newer-schema`, `StoreDamaged`, `StoreUnavailable`."""
    from gnomon.store.duckdb.copying import settled_in

    settled_in(file, settings, entering)


def restored_note(store: Store) -> str | None:
    """The note of the restore that this content came by, see `Entering`; None when it came by none."""
    rows = store.ask(["SELECT value FROM state WHERE key = 'restored'"], 60.0)[0].rows
    return str(rows[0][0]) if rows else None


def held_now(store: Store) -> tuple[list[Entry], list[tuple[str, str | None, int]]]:
    """The books of earlier restores, and how many events `(project, source, n)` the store holds."""
    kept, events = store.ask(
        [
            "SELECT project, source, outcome, reason, sum(n)::BIGINT FROM books WHERE kind = 'restore' "
            "GROUP BY 1, 2, 3, 4",
            "SELECT project, source, count(*) FROM events GROUP BY 1, 2",
        ],
        600.0,
    )
    return [(*entry,) for entry in kept.rows], [(*entry,) for entry in events.rows]
