"""ClickHouse's errors in our words. Its messages may quote data, so they stay in the chained exception.

What a batch is to blame for is told from what the database is: only the first may cost the batch its place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from gnomon.errors import GnomonError, InvalidValue, QueryTimeout, StoreBusy, StoreDamaged, StoreUnavailable

REFUSED = "store-refused"
TIMED_OUT, EXISTS, DATABASE_EXISTS, UNKNOWN_TABLE, UNKNOWN_DATABASE = 159, 57, 82, 60, 81
_CODE = re.compile(r"Code: (\d+)")
_DISK = (243, 290, 252)  #: not enough space; too many parts, which more disk does not heal, is told apart below
_TOO_MANY_PARTS = 252
_MEMORY = (241, 173)
_LOGIN = (192, 193, 194, 516)
_RIGHTS = (497,)
_READ_ONLY = (164, 242, 225)  #: a user of profile readonly, a replica that lost its Keeper
_PATTERN = (427,)
#: Of a shard or replica: sockets, no connection, no quorum or one before it that is not decided, a replica that lacks
#: what a quorum took, all stale or lost, Keeper.
_CLUSTER = (209, 210, 254, 279, 285, 286, 289, 319, 341, 369, 415, 999)
_DAMAGED = (40, 228, 246, 271, 432, 740)  #: checksums, sizes, a part or a block that does not unpack
#: Of urllib3, beneath an error of the driver: no connection came about.
_NOT_REACHED = ("NewConnectionError", "NameResolutionError", "ConnectTimeoutError")
_ENGINE_HELD = "Error initializing EmbeddedServer"
_OTHER_PATH = "EmbeddedServer already initialized with path"
#: What a value or a statement is to blame for.
_OF_A_VALUE = frozenset((6, 26, 27, 33, 36, 41, 42, 43, 44, 46, 47, 53, 62, 69, 70, 72, 80, 117, 131, 153, 321, 349,
                         386, 395, 407, 457))  # fmt: skip


def code_of(error: BaseException) -> int | None:
    """ClickHouse's own number of an error, None where it is not its."""
    given = getattr(error, "code", None)
    if isinstance(given, int):
        return given
    found = _CODE.search(str(error))
    return int(found[1]) if found else None


def translated(error: Exception, *, writing: bool = False, seconds: float | None = None) -> GnomonError:
    """An error of the engine or the driver in our words. While `writing`, what is not the fault of a value is
    `StoreUnavailable`; `seconds` is what a statement may take."""
    code, text = code_of(error), str(error)
    if _ENGINE_HELD in text or "Cannot lock file" in text:
        return StoreBusy(
            "another process has the ClickHouse folder open", remedy="End it, or ask there: one process may open it."
        )
    if code == TIMED_OUT and writing:
        limit = "it may" if seconds is None else f"{seconds:g} s"
        return StoreUnavailable(
            f"a statement took longer than {limit}", remedy="It is tried again by itself.", code="store-slow"
        )
    if code == TIMED_OUT:
        return QueryTimeout(
            "the statement took longer than it may",
            remedy="Ask a shorter range or fewer dimensions, or raise query_timeout_seconds.",
        )
    if code == _TOO_MANY_PARTS:
        return StoreUnavailable(
            "ClickHouse has not merged its parts yet and takes no more rows", code="store-crowded",
            remedy="It goes on by itself; if it lasts, look at system.merges and free disk space.",
        )  # fmt: skip
    if code in _DISK or "No space left" in text or "errno: 28" in text:
        return StoreUnavailable("the disk of the database is full", remedy="Free space there; it goes on by itself.")
    if code in _MEMORY:
        if not writing:
            return StoreUnavailable(
                "the question needs more memory than ClickHouse gives it", code="store-memory",
                remedy="Ask a shorter range or fewer dimensions, or raise max_memory_usage there.",
            )  # fmt: skip
        return StoreUnavailable("ClickHouse is out of memory", remedy="It is tried again by itself.")
    if code in _LOGIN:
        return StoreUnavailable(
            "the database refuses the user or the password", code="store-login",
            remedy="Check the user and password in the store's URL.",
        )  # fmt: skip
    if code is None and any(type(cause).__name__ in _NOT_REACHED for cause in _causes(error)):
        return StoreUnavailable(
            "the database cannot be reached",
            remedy="Check that it runs and can be reached; it is tried again by itself.",
        )
    return _rarer(code, writing=writing, name=type(error).__name__)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _rarer(code: int | None, *, writing: bool, name: str) -> GnomonError:
    if code in _RIGHTS:
        return StoreUnavailable(
            "the database user lacks a right", code="store-rights",
            remedy="Give it the rights that docs/clickhouse.md lists.",
        )  # fmt: skip
    if code in _READ_ONLY:
        return StoreUnavailable(
            "the database takes no changes", code="store-read-only", remedy="See docs/clickhouse.md."
        )
    if code in _CLUSTER:
        return StoreUnavailable(
            "a shard, a replica or a Keeper of the cluster does not answer, or is behind", code="cluster-degraded",
            remedy="Bring it back (system.clusters, system.replicas); it is tried again by itself.",
        )  # fmt: skip
    if code in _PATTERN:
        return InvalidValue(
            "the pattern is not a valid regular expression", remedy="Use RE2 syntax.", code="bad-pattern"
        )
    if code in _DAMAGED:
        return StoreDamaged(
            "a part of the ClickHouse store cannot be read",
            remedy="Close the engine and open it again: an embedded store mends itself. See docs/clickhouse.md.",
        )
    if name == "DataError" or code in _OF_A_VALUE or (code is not None and not writing):
        return GnomonError(f"the store refused a statement (code {code})", code=REFUSED)
    return StoreUnavailable(
        f"the database failed or cannot be reached ({name if code is None else f'code {code}'})",
        remedy="Check that it runs and can be reached; it is tried again by itself.",
    )


def of_opening(error: Exception) -> GnomonError:
    """Why an embedded engine did not start."""
    if _OTHER_PATH in str(error):
        return InvalidValue(
            "this process has another ClickHouse folder open already, and the embedded engine takes one only",
            remedy="Use one folder with several databases: chdb://path?database=name.", code="one-folder",
        )  # fmt: skip
    return translated(error, writing=True)
