"""A child whose clock stands still: it opens the store, perhaps records, says `up` and lives until it is killed.

Run as a program: `python beating.py STORE NOW PERIOD [record]`; NOW is an ISO time, or `now` for the machine's clock.
"""

from __future__ import annotations

import os
import sys
import time
from datetime import datetime

import gnomon
from gnomon.testing import ManualClock
from gnomon.timerange import system_clock


def run(store: str, now: str, period: str, *what: str) -> None:
    clock = system_clock if now == "now" else ManualClock(datetime.fromisoformat(now))
    engine = gnomon.open(store, clock=clock, project="beat", heartbeat_seconds=float(period), flush_seconds=0.01)
    if "record" in what:
        engine.track("tick", user_id="u1")
    engine.flush()
    os.write(1, b"up\n")
    time.sleep(60)


if __name__ == "__main__":
    run(*sys.argv[1:])
