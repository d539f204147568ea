"""A child that exports slowly: it says the ids of a finished, a running and a waiting job, and lives until killed.

Run as a program: `python exporting.py STORE`.
"""

from __future__ import annotations

import os
import sys
import threading
import time

import gnomon
from gnomon.export import reading, text

EVENTS = 200


def run(store: str) -> None:
    engine = gnomon.open(store, flush_seconds=0.01)
    for place in range(EVENTS):
        engine.track("t", id=f"{place:03}")
    engine.flush()
    done = engine.export_analytics("all", "csv", ["id"])
    while engine.get_export_status(done.id).state != "completed":
        time.sleep(0.01)
    reading.MOST_ROWS = 1
    texts, written = text.Csv.texts, threading.Event()

    def slow(self: text.Csv, rows: int, data: str, longest: int) -> bytes:
        time.sleep(0.1)
        written.set()
        return texts(self, rows, data, longest)

    text.Csv.texts = slow  # type: ignore[method-assign]
    jobs = [engine.export_analytics("all", "csv", ["id"]) for _ in range(2)]
    written.wait()
    time.sleep(0.3)
    os.write(1, f"{done.id} {jobs[0].id} {jobs[1].id}\n".encode())
    time.sleep(60)


if __name__ == "__main__":
    run(*sys.argv[1:])
