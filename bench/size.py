"""Bytes of an event in a closed store file: of the generated one, and of events pushed through the engine."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench.dataset import DAYS, Store, clock, stores
from bench.figures import Figure, Size

TITLE = "Bytes an event in the closed file (16 of them a random id)"
_COLUMNS = (
    "id", "ts", "type", "user_id", "source", "application", "domain", "endpoint", "method", "status_code",
    "duration_ms", "bytes_sent", "bytes_received", "error_code",
)  # fmt: skip


def run(size: Size) -> list[Figure]:
    """The generated file, and its first day once more through `track()`."""
    made = stores(size.pick(1_000_000, 66_667))
    part, whole = made[size.pick(1, 3)], made[DAYS]
    pushed, stored = _pushed(part)
    generated = whole.path.stat().st_size / whole.events
    goal = None if size.quick else 45  # a small file has much of its size in blocks that are not full
    return [
        Figure(f"generated, {whole.events:,} events", generated, "B", goal),
        Figure(f"through track(), {stored:,} events", pushed, "B", goal, note=f"{pushed / generated:.2f} of the above"),
    ]


def _pushed(source: Store) -> tuple[float, int]:
    import duckdb
    import msgspec

    import gnomon
    from gnomon.config import Settings

    with tempfile.TemporaryDirectory() as folder, duckdb.connect(str(source.path), read_only=True) as con:
        path = Path(folder) / "store.duckdb"
        rows = con.execute(f"SELECT {', '.join(_COLUMNS)}, properties FROM events ORDER BY rowid")
        with gnomon.open(path, settings=Settings(sampling=False), clock=clock) as engine:
            while part := rows.fetchmany(20_000):
                for *values, properties in part:
                    given = dict(zip(_COLUMNS, values, strict=True))
                    given["id"], given["ts"] = str(given["id"]), given["ts"].isoformat() + "Z"
                    engine.track(**given, properties=msgspec.json.decode(properties) if properties else None)
                engine.flush()
            stored = engine.books().stored
        if stored != source.events:
            raise RuntimeError(f"{stored:,} of {source.events:,} events were stored")
        return path.stat().st_size / stored, stored
