"""Whether a job is due, and who does it: the database tells where many processes use one, else the journal.

Of an embedded store one process does all jobs, so what it keeps is only when each last ended well: a restart neither
repeats nor forgets one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from gnomon.errors import GnomonError
from gnomon.ingest.journal import Journal
from gnomon.store import Turn, Turns
from gnomon.timerange import US_SECOND, system_clock, to_us

if TYPE_CHECKING:
    from gnomon.upkeep.jobs import Job
    from gnomon.upkeep.keeping import Keeping

SKEW_SECONDS = 300  #: by which the clock of this host may differ from that of the database where something is deleted


@contextmanager
def turn_of(engine: Keeping, job: Job, *, now: bool = False) -> Iterator[Turn | None]:
    """The turn to do a job, None where it is not due or another process is at it; with `now` also if it is not due.

    Raises `StoreBusy`, `StoreUnavailable`, and `GnomonError` with code `clock-skewed`.
    """
    period = 0 if now else job.period * US_SECOND
    store: object = None if job.here else engine._own_or_refuse()
    if not isinstance(store, Turns):
        yield _kept_here(engine, job, period)
        return
    name = _name(engine, job)
    ours = engine.clock is system_clock
    with store.turn(name, period, None if ours else to_us(engine.clock())) as turn:
        if turn is not None and job.deletes and ours:
            _check_clock(turn.now_us)
        yield turn


def last_done(engine: Keeping, job: Job) -> int | None:
    """When a job that ended well was last begun, by whichever process. Raises what the store raises."""
    store: object = None if job.here else engine._own_or_refuse()
    if isinstance(store, Turns):
        return store.last_turn(_name(engine, job))
    own, any_project = f"job:{engine.settings.project}:{job.name}", f":{job.name}"
    made = [
        int(at)
        for key, at in engine._hold.journal.all_kept().items()
        if key == own or (job.whole_store and key.startswith("job:") and key.endswith(any_project))
    ]
    return max(made, default=None)


def _name(engine: Keeping, job: Job) -> str:
    return f"{'' if job.whole_store else engine.settings.project}:{job.name}"


def _kept_here(engine: Keeping, job: Job, period_us: int) -> Turn | None:
    key, now = f"job:{engine.settings.project}:{job.name}", to_us(engine.clock())
    last = engine._hold.journal.kept(key)
    if last is not None and 0 <= now - int(last) < period_us:  # a time to come is that of a clock that was wrong
        return None
    return Turn(now, partial(_keep, engine._hold.journal, key, now) if job.period else _forget)


def _keep(journal: Journal, key: str, now_us: int) -> None:
    journal.keep(key, str(now_us))


def _forget() -> None:
    """What runs at every look is not kept."""


def _check_clock(theirs_us: int) -> None:
    if abs(theirs_us - time.time_ns() // 1_000) > SKEW_SECONDS * US_SECOND:
        raise GnomonError(
            "the clock of this host differs by minutes from that of the database, so nothing old is deleted from here",
            remedy="Set the clocks by NTP; a host whose clock is right does it meanwhile.", code="clock-skewed",
        )  # fmt: skip
