"""What waits for the gate: a keyword call as the collector buffers it, and an event of wire JSON on its way there.

Nothing here checks a value. `columns_of` turns calls into columns, as a batch is proven column by column (proof.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, TypeAlias

import msgspec

from gnomon.event import Row

#: The order of a keyword call as the collector buffers it; `at_ns` is the caller's clock, `url` is taken apart here.
CALL: tuple[str, ...] = (
    "type", "user_id", "device_id", "session_id", "source", "application", "domain", "endpoint", "method",
    "status_code", "duration_ms", "bytes_sent", "bytes_received", "success", "error_code", "weight", "properties",
    "id", "ts", "at_ns", "url",
)  # fmt: skip
CALL_PROPERTIES = CALL.index("properties")
CALL_TYPE, CALL_USER, CALL_WEIGHT = CALL.index("type"), CALL.index("user_id"), CALL.index("weight")
#: What others send of it: all but its last two.
FROM_FIELDS = tuple(name for name in CALL if name not in ("at_ns", "url"))
#: A keyword call in the buffer. Unlike a tuple it is nothing to the garbage collector, which would otherwise stop a
#: caller for 90 us after every 700 calls, and look at every waiting call again in each full collection.
Call = msgspec.defstruct("Call", [(name, Any) for name in CALL], gc=False)
#: The weight of an event that names none; told by identity from one that names 1.
ONE = 1.0

Column: TypeAlias = Sequence[Any]
#: One value for each call; None where no call has any.
Columns: TypeAlias = list[Column | None]


def plain(calls: Sequence[Any]) -> Iterable[Row]:
    """Calls as tuples in `CALL` order, one after the other."""
    return map(msgspec.structs.astuple, calls) if calls and isinstance(calls[0], msgspec.Struct) else calls


def columns_of(calls: Sequence[Any]) -> Columns:
    """Calls as columns in `CALL` order, as many as they have. There must be one at least.

    One long list is cut into columns, as `zip` keeps a tuple and an iterator of each call alive until it is through:
    the garbage collector looks at them all, which takes another 0.3 us a call.
    """
    every = list(chain.from_iterable(plain(calls)))
    width = len(every) // len(calls)
    return without_empty([every[place::width] for place in range(width)])


def without_empty(columns: Columns) -> Columns:
    """The same with None for columns that hold nothing else."""
    return [None if column is None or _empty(column) else column for column in columns]


def _empty(column: Column) -> bool:
    """Whether there are only None; no value is asked whether it equals None, as it may be anybody's."""
    if column[0] is not None:
        return False
    try:
        msgspec.convert(column, _NONES)
    except ValueError:  # ValidationError is one, as is a text that no message can show
        return False
    return True


_NONES: Any = list[None]


class WireCalls:
    """A batch of wire JSON of which nothing is unusual, as columns in the order of `FROM_FIELDS`.

    Types, lengths in characters, bounds of numbers and the flatness of properties hold. `ascii` says that every text is
    ASCII without NUL.
    """

    __slots__ = ("ascii", "columns", "count")

    def __init__(self, columns: Columns, count: int, *, ascii: bool = False) -> None:
        self.columns = columns
        self.count = count
        self.ascii = ascii

    def __len__(self) -> int:
        return self.count

    def given(self, place: int) -> Column:
        """The values of a column, without those that are missing."""
        column = self.columns[place]
        return () if column is None else column if None not in column else [one for one in column if one is not None]

    def rows(self) -> list[Row]:
        """The calls one by one."""
        nothing = (None,) * self.count
        return list(zip(*(nothing if column is None else column for column in self.columns), strict=True))

    def with_user(self, user: str) -> WireCalls:
        """The same, all of one user."""
        columns = [*self.columns]
        columns[CALL_USER] = [user] * self.count
        return WireCalls(columns, self.count, ascii=self.ascii and user.isascii() and "\x00" not in user)


def joined(parts: Sequence[WireCalls]) -> WireCalls:
    """Several batches as one."""
    if len(parts) == 1:
        return parts[0]
    columns = columns_of(list(chain.from_iterable(part.rows() for part in parts)))
    return WireCalls(columns, sum(map(len, parts)), ascii=all(part.ascii for part in parts))
