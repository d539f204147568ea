"""Resident memory while a process records for a long time at a steady pace: it must not grow with the events."""

from __future__ import annotations

import json

from bench.figures import Figure, Size
from bench.timing import median, python

TITLE = "Resident memory of a process that records at a steady pace"
PACE = 40_000  #: events a second
_CODE = """
import json, os, sys, tempfile, time
import gnomon
from gnomon.config import Settings

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

events, pace = int(sys.argv[1]), int(sys.argv[2])
settings = Settings(memory_limit="200MB")
with tempfile.TemporaryDirectory() as folder, gnomon.open(folder + "/store.duckdb", settings=settings) as engine:
    track, step = engine.track, pace // 100
    seen, begun = [], time.monotonic()
    for done in range(0, events, step):
        for n in range(done, done + step):
            track("page_view", user_id=f"u{n % 50_000}", source="web_app", duration_ms=n * 0.001,
                  properties={"page": f"/page/{n % 200}"})
        if (done // step) % 20 == 0:
            seen.append(resident())
        time.sleep(max(0.0, begun + (done + step) / pace - time.monotonic()))
    took = time.monotonic() - begun
    engine.flush()
    seen.append(resident())
    books = engine.books()
print(json.dumps([seen, took, books.stored, books.shed.total()]))
"""


def run(size: Size) -> list[Figure]:
    """A process of its own. The store may keep pages up to its `memory_limit`, so that is set low."""
    events = size.pick(2_000_000, 400_000)
    seen, took, stored, shed = json.loads(python(_CODE, str(events), str(PACE)))
    third = len(seen) // 3
    growth = median(seen[2 * third :]) - median(seen[third : 2 * third])
    kept = f"{stored:,} stored, {events / took:,.0f} events/s"
    return [
        Figure("largest resident memory", max(seen) / 2**20, "MiB", 400, note=f"{kept}; memory_limit 200 MB"),
        Figure("median, middle third to last third", growth / 2**20, "MiB", note=f"{growth * 3 / events:.0f} B/event"),
        Figure("events shed", shed, "", 0),
    ]
