"""Celery workers as the other processes of a store see them: whether there are any, and so who does the jobs.

Each round of a worker leaves its time in the database. While such a time is fresh the schedulers of other processes
leave the jobs of the database to the workers; when it is not they do them, so a broker that is away costs nothing.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gnomon.store import Served, takes_turns

if TYPE_CHECKING:
    from gnomon.upkeep.keeping import Keeping

SEEN = "workers-seen"  #: kept value of a store: when a worker last made a round, in seconds of its own clock
ROUND_SECONDS = 30.0  #: how often beat asks for every job; whether one is due says the database
AWAY_SECONDS = 300.0  #: workers that made no round for so long are taken to be away


def sent_out(engine: Keeping) -> bool:
    """Whether the jobs of this store are meant for workers."""
    return bool(engine.settings.celery_broker_url) and takes_turns(engine.settings.database_url)


def silent_seconds(engine: Keeping) -> float | None:
    """How long no worker has made a round; None: there never was one. Raises what the journal raises."""
    seen = engine._hold.journal.kept(SEEN)
    return None if seen is None else max(0.0, time.time() - float(seen))


def left_to_workers(engine: Keeping) -> bool:
    """Whether this process leaves the jobs of the database to workers, which are at it."""
    if not sent_out(engine):
        return False
    silent = silent_seconds(engine)
    return silent is not None and silent < AWAY_SECONDS


def note_round(engine: Keeping) -> None:
    """A worker has made a round. Raises what the store raises."""
    store = engine._own_or_refuse()
    assert isinstance(store, Served)
    store.keep(SEEN, f"{time.time():.0f}")
