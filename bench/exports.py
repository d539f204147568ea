"""How fast events become files, beside pandas writing the same events from a frame in memory, and in what memory."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

from bench.dataset import END, clock, stores
from bench.figures import Figure, Size
from bench.timing import python

TITLE = "Exports of raw events, from the store to a file"
_FORMATS = ("parquet", "arrow", "csv", "ndjson", "json", "xlsx")
_MEMORY = """
import json, os, sys, threading
from pathlib import Path
import gnomon
from bench.dataset import clock
from gnomon.config import Settings

path, format = sys.argv[1:]

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

seen, done = [], threading.Event()

def watch():
    while not done.wait(0.02):
        seen.append(resident())

with gnomon.open(path, settings=Settings(memory_limit="64MB"), clock=clock) as engine:
    before = resident()
    threading.Thread(target=watch, daemon=True).start()
    with open(os.devnull, "wb") as file:
        stream = engine.stream_export("all", format, read_ahead=2)
        for data in stream:
            file.write(data)
    done.set()
print(json.dumps([before, max(seen), stream.rows]))
"""


def run(size: Size) -> list[Figure]:
    """Each format once; pandas in the same run. Memory in a process of its own, with a small store cache."""
    import pandas

    import gnomon
    from gnomon.config import Settings

    made = stores(size.pick(1_000_000, 66_667))
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        store = made[1] if not size.quick else made[3]
        with gnomon.open(store.copied(place), settings=Settings(), clock=clock) as engine:
            ours = {name: _exported(engine, name, place) for name in _FORMATS}
        frame = pandas.read_parquet(place / "events.parquet")
        for name in ("ts", "received_at"):
            frame[name] = frame[name].dt.tz_localize(None)  # its Excel writer refuses zones
        few = frame[: size.pick(20_000, 4_000)]
        peer = {
            "csv": _rate(len(frame), lambda: frame.to_csv(place / "peer.csv", index=False)),
            "xlsx": _rate(len(few), lambda: few.to_excel(place / "peer.xlsx", index=False)),
        }
        for name, rate in ours.items():
            bytes_each = (place / f"events.{name}").stat().st_size / store.events
            figures.append(Figure(name, rate, "rows/s", note=f"{store.events:,} rows, {bytes_each:.0f} bytes each"))
        for name, call in (("csv", "to_csv"), ("xlsx", "to_excel")):
            figures.append(Figure(f"pandas {call}", peer[name], "rows/s", note="from a frame in memory"))
            figures.append(Figure(f"{name}: times pandas", ours[name] / peer[name], "x", 5, ">="))
        many = made[10].copied(place)
        for name in _FORMATS if not size.quick else ("csv", "xlsx"):
            before, most, rows = json.loads(python(_MEMORY, str(many), name))
            note = f"{rows:,} rows; {before / 2**20:.0f} MiB before; memory_limit 64 MB"
            figures.append(Figure(f"{name}: largest resident memory", most / 2**20, "MiB", 300, note=note))
    return figures


def _exported(engine: object, name: str, place: Path) -> float:
    def write() -> None:
        with (place / f"events.{name}").open("wb") as file:
            for data in stream:
                file.write(data)

    stream = engine.stream_export(["2025-01-01", END], name, read_ahead=2)  # type: ignore[attr-defined]
    started = time.perf_counter()
    write()
    return stream.rows / (time.perf_counter() - started)


def _rate(rows: int, call: object) -> float:
    started = time.perf_counter()
    call()  # type: ignore[operator]
    return rows / (time.perf_counter() - started)
