"""What every store can do (`Store`), and `open_store(url)`, which picks one. A store keeps; it decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from gnomon.errors import InvalidValue
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


class Store(Protocol):
    """One open store. All methods may be called from any thread; `write`, `change` and `checkpoint` under
    the writer's lock only."""

    dialect: Dialect

    def position(self, journal_id: str) -> int:
        """The position in that journal up to which this store has everything; 0 for a journal it has not seen."""

    def write(self, work: Sequence[tuple[int, Batch]], journal_id: str) -> dict[int, int]:
        """Store batches `(position, Batch)` in one transaction: rows without repeats, books, quarantine, position.

        Returns how many repeats each batch held, by position, where there were any.
        """

    def ask(self, statements: Sequence[str], timeout: float) -> list[Table]:
        """Answer read-only statements from one snapshot, at most `timeout` seconds each."""

    def change(self, statements: Sequence[str], timeout: float = 3_600.0) -> list[Table]:
        """Run statements in one transaction, all or none, and raise the data version; for upkeep.

        Call it within `Writer.paused()`. It is not durable by itself: a crash takes the store back to its last
        checkpoint, so the caller checkpoints, or is able to do it again.
        """

    def data_version(self) -> int:
        """A number that rises with every change of the data."""

    def checkpoint(self, *, compact: bool = False) -> None:
        """Make the store's files complete without any log beside them; with `compact` also free of deleted bytes."""

    def describe(self) -> dict[str, Any]:
        """Versions, sizes and row counts, for the doctor."""

    def close(self) -> None:
        """Let go of the files."""


def open_store(url: str, settings: Settings) -> Store:
    """Open the store that `url` names: a DuckDB path, `duckdb://path` or `:memory:`.

    Raises `InvalidValue` for a scheme that this version does not know, `StoreBusy` when another process owns the
    file, `StoreDamaged` when it cannot be read.
    """
    scheme, separator, rest = url.partition("://")
    if separator and scheme != "duckdb":
        raise InvalidValue(
            "this version opens DuckDB files only", remedy="Give a path, duckdb://path or :memory:.", code="bad-store"
        )
    from gnomon.store.duckdb import DuckDBStore

    return DuckDBStore(rest if separator else url, settings)


def store_path(url: str) -> str | None:
    """The file of an embedded store, or None when it is in memory."""
    path = url.removeprefix("duckdb://")
    return None if path == ":memory:" else path


def salvage_store(url: str, damaged: str, settings: Settings) -> dict[str, str]:
    """Make a new store at `url` from whatever can be read of the damaged file; says what was carried over."""
    from gnomon.store.duckdb.salvage import salvage

    return salvage(url, damaged, settings)
