"""Whose turn it is to do a piece of background work, and when it was done last, for all processes of a database.

The turn is a `Claim`, which lasts as long as it is renewed: that of a process which died is over after
`leases.BROKEN_SECONDS`. What is due is told by the server's clock: those of the hosts may differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from hashlib import blake2b

from gnomon.errors import StoreUnavailable
from gnomon.store import Turn
from gnomon.store.clickhouse.connecting import Connection, Settings
from gnomon.store.clickhouse.leases import TURN, Claim

PREFIX = "job:"  #: of the keys of the state that say when work was begun that ended well, UTC microseconds
CLOCK = "SELECT toUnixTimestamp64Micro(now64(6))"


def due(con: Connection, settings: Settings, known: str | None, period_us: int, now_us: int | None) -> int | None:
    """The time, where the work is due; a time to come is that of a clock that was wrong."""
    now = int(con.run(CLOCK, settings).rows[0][0]) if now_us is None else now_us
    return now if known is None or not 0 <= now - int(known) < period_us else None


@contextmanager
def taken(con: Connection, name: str, claim: Claim, look: Callable[[Connection], int | None],
          note: Callable[[str, str, Callable[[Connection], None]], None]) -> Iterator[Turn | None]:  # fmt: skip
    """The turn, None where it is another process's, or `look` says that the work is not due any more. `note` keeps a
    value after a last check. Raises what the connection raises."""
    with claim.taken(con) as mine:
        found = None if mine is None else look(con)
        if found is None or mine is None:
            yield None
        else:
            yield Turn(found, partial(note, PREFIX + name, str(found), partial(_check, mine)))


def _check(claim: Claim, con: Connection) -> None:
    if not claim.is_held(con):
        raise StoreUnavailable(
            "this process was away for so long that another one may have done its work",
            remedy="It is looked at again by itself.", code="store-moved",
        )  # fmt: skip


def claim_of(name: str, make: Callable[[], Connection], settings: Settings) -> Claim:
    """The claim to the work of a name, which nobody can read in it."""
    return Claim(f"{TURN}_{blake2b(name.encode(), digest_size=12).hexdigest()}", make, settings)
