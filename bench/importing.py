"""How fast files come in, one of each format: read, checked, journalled and stored, lines a second."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from bench.figures import Figure, Size
from bench.timing import seconds

TITLE = "Imports, end to end until queryable"


def run(size: Size) -> list[Figure]:
    """Each file into a new store, and once more, which adds nothing."""
    import gnomon
    from gnomon.config import Settings

    lines = size.pick(300_000, 60_000)
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for name, write in (
            ("access.log", _log), ("orders.csv", _csv), ("events.ndjson", _ndjson), ("events.parquet", _parquet),
        ):  # fmt: skip
            write(place / name, lines)
            with gnomon.open(place / f"{name}.duckdb", settings=Settings()) as engine:
                first = seconds(lambda name=name, engine=engine: engine.import_file(place / name))
                stored = engine.books().stored
                again = seconds(lambda name=name, engine=engine: engine.import_file(place / name))
            if stored != lines:
                raise RuntimeError(f"{name}: {stored:,} of {lines:,} lines were stored")
            note = f"{lines:,} lines, {(place / name).stat().st_size / lines:.0f} bytes a line"
            figures.append(Figure(name, lines / first, "lines/s", note=note))
            figures.append(Figure(f"{name}, again", lines / again, "lines/s", note="nothing new, nothing stored"))
    return figures


def _log(path: Path, lines: int) -> None:
    draw, moment = random.Random(7), datetime(2025, 3, 15, tzinfo=UTC)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(lines):
            moment += timedelta(seconds=draw.random())
            file.write(
                f"10.0.{draw.randrange(256)}.{draw.randrange(256)} - - [{moment:%d/%b/%Y:%H:%M:%S} +0000] "
                f'"GET /items/{int(200 ** draw.random())} HTTP/1.1" {draw.choice((200, 200, 200, 304, 404, 500))} '
                f'{draw.randrange(200, 50_000)} "https://example.com/" "Mozilla/5.0 (X11; Linux x86_64) Firefox/128"\n'
            )


def _csv(path: Path, lines: int) -> None:
    draw, moment = random.Random(7), datetime(2025, 3, 15, tzinfo=UTC)
    with path.open("w", encoding="utf-8") as file:
        file.write("timestamp,event,user_id,source,status,duration_ms,plan,amount\n")
        for _ in range(lines):
            moment += timedelta(seconds=draw.random())
            file.write(
                f"{moment.isoformat()},order,u{int(50_000 ** draw.random())},shop-{draw.randrange(20)},200,"
                f"{draw.lognormvariate(4, 0.8):.3f},{draw.choice(('free', 'pro'))},{draw.randrange(100, 9_999) / 100}\n"
            )


def _requests(lines: int) -> Iterator[dict[str, Any]]:
    """Requests with ids and properties, as another system hands them over."""
    draw, moment = random.Random(7), datetime(2025, 3, 15, tzinfo=UTC)
    for _ in range(lines):
        moment += timedelta(seconds=draw.random())
        yield {
            "id": str(UUID(int=draw.getrandbits(128), version=4)), "ts": moment, "type": "request",
            "user_id": f"u{int(50_000 ** draw.random())}", "source": f"web-{draw.randrange(20)}",
            "endpoint": f"/items/{int(200 ** draw.random())}", "method": draw.choice(("GET", "GET", "POST")),
            "status_code": draw.choice((200, 200, 200, 304, 404, 500)), "duration_ms": draw.lognormvariate(4, 0.8),
            "bytes_sent": draw.randrange(200, 50_000),
            "properties": {"plan": draw.choice(("free", "pro")), "items": draw.randrange(10)},
        }  # fmt: skip


def _ndjson(path: Path, lines: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        for event in _requests(lines):
            file.write(json.dumps(event, default=datetime.isoformat) + "\n")


def _parquet(path: Path, lines: int) -> None:
    import pyarrow
    from pyarrow import parquet

    events = [{**event, "properties": json.dumps(event["properties"])} for event in _requests(lines)]
    parquet.write_table(pyarrow.Table.from_pylist(events), path)
