"""A child that records, as `killing.py`, while a thread of it rolls up, forgets, deletes and compacts, until it is
killed.

Events are of a day that is over, so that all of them are rolled up. Those whose number leaves 6 when divided by 7 may
be deleted, all others stay.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta

START = datetime(2026, 1, 15, tzinfo=UTC)
APART = timedelta(microseconds=100)  #: the moment of an event tells its number, also when its person was forgotten


def tend(engine, rng: random.Random) -> None:
    from gnomon.errors import GnomonError

    steps = (
        engine.trigger_aggregation,
        engine.trigger_aggregation,
        lambda: engine.forget("u0"),
        lambda: engine.forget("u6", delete_events=True),
        lambda: engine._own_or_refuse().checkpoint(compact=True),
    )
    while True:
        with suppress(GnomonError):  # another process may do the same
            rng.choice(steps)()
        time.sleep(0.01)


def run(store: str, ledger: str, cycle: int, broken: str | None) -> None:
    import gnomon

    rng = random.Random(cycle)
    settings = gnomon.Settings(
        flush_seconds=0.005, checkpoint_seconds=0.05, threads=1, rollup_lag_seconds=0, scheduler=False
    )
    engine = gnomon.open(store, settings=settings, project="kill")
    out = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    number = cycle * 1_000_000
    os.write(1, b"up\n")
    threading.Thread(target=tend, args=(engine, random.Random(cycle)), daemon=True).start()
    while True:
        count = rng.choice((1, 3, 40, 400))
        for n in range(number, number + count):
            engine.track("tick", user_id=f"u{n % 7}", source=f"s{n % 3}", properties={"n": n},
                         ts=START + n * APART)  # fmt: skip
        engine.flush()
        os.write(out, f"{number} {number + count}\n".encode())
        number += count


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2], int(sys.argv[3]), None)
