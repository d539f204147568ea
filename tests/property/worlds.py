"""The engines that the differential test asks, each beside its oracle over the same rows."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from oracle import Oracle
from rows import CLUSTERS, FAR_CLUSTERS, NOW, Event, access_events, commit_events, made_events, us_of

import embedded
import gnomon
from gnomon.engine import AnalyticsEngine
from gnomon.event import Batch
from gnomon.ingest.collector import batch_from


class Clock:
    """Stands at NOW until a test moves it."""

    now = NOW

    def __call__(self) -> datetime:
        return self.now


@dataclass
class World:
    """One engine and the same rows in the oracle."""

    engine: AnalyticsEngine
    oracle: Oracle
    clock: Clock
    sources: Counter[str] = field(default_factory=Counter)  #: what its answers were read from


def feed(engine: AnalyticsEngine, events: Iterable[Event], project: str | None = None) -> None:
    """Put rows through the gate as an import does, and wait until they can be asked for."""
    rest = iter(events)
    while chunk := list(itertools.islice(rest, 2_000)):
        admitted = engine._gate.admit_fields(chunk, imported=True)
        assert not admitted.refused, admitted.refused[:3]
        batch = Batch(project or engine.settings.project)
        batch_from(batch, admitted, us_of(NOW))
        positions = engine._journal.append([batch])
        engine._last_position = positions[-1]
        engine._on_durable(positions, [batch])
    engine.flush()


#: What the copy of a store takes over; its books and its journal are its own.
_TABLES = ("events", "samples", "weighted", "rolled", "people", "activity", "active_days", "sightings", "rolled_up",
           "pruned")  # fmt: skip


@contextmanager
def copied(worlds: dict[str, World], postgres: Any, folder: Path) -> Iterator[dict[str, World]]:
    """The same rows in PostgreSQL, each world with an engine of its own."""
    with ExitStack() as stack:
        found = {}
        for name, world in worlds.items():
            settings = world.engine.settings.but(database_url=postgres.url(), data_dir=str(folder / name))
            engine = stack.enter_context(gnomon.open(settings=settings, clock=world.clock))
            copy_rows(world.engine, postgres, settings.database_url.partition("schema=")[2])
            found[name] = World(engine, world.oracle, world.clock)
        yield found


@contextmanager
def copied_to_clickhouse(worlds: dict[str, World], folder: Path,
                         url: Callable[[], str] = embedded.url) -> Iterator[dict[str, World]]:  # fmt: skip
    """The same rows in ClickHouse, each world with a database and an engine of its own."""
    with ExitStack() as stack:
        found = {}
        for name, world in worlds.items():
            settings = world.engine.settings.but(database_url=url(), data_dir=str(folder / name))
            engine = stack.enter_context(gnomon.open(settings=settings, clock=world.clock))
            copy_to_clickhouse(world.engine, engine)
            found[name] = World(engine, world.oracle, world.clock)
        yield found


def copy_to_clickhouse(engine: AnalyticsEngine, other: AnalyticsEngine) -> None:
    """Bring every row of an embedded store into an empty one of ClickHouse, with its data version."""
    held, store = engine._own_or_refuse()._connection.cursor(), other._own_or_refuse()
    with store._writing_connection() as con:
        for table in _TABLES:
            kinds = {name: kind for name, kind in store._found.kinds[table].items() if name != "batch"}
            texts = [f"{name}::VARCHAR AS {name}" if kind == "UUID" else name for name, kind in kinds.items()]
            rows = held.execute(f"SELECT {', '.join(texts)} FROM store.{table}").fetchall()
            for start in range(0, len(rows), 4_000):  # as the store writes: in pieces with tokens
                columns = zip(kinds, zip(*rows[start : start + 4_000], strict=True), strict=True)
                con.put(table, [(name, kinds[name], values) for name, values in columns],
                        {**store._session, "insert_deduplication_token": f"{table}:{start}"})  # fmt: skip
        for table in _TABLES:
            (count,) = held.execute(f"SELECT count(*) FROM store.{table}").fetchone()
            assert con.run(f"SELECT count() FROM {table}", store._session).rows == [(count,)], table
    while store.data_version() < engine._own_or_refuse().data_version():
        store.change([])


def copy_rows(engine: AnalyticsEngine, postgres: Any, schema: str) -> None:
    """Bring every row of an embedded store into an empty schema, with its data version."""
    held = engine._own_or_refuse()._connection.cursor()
    with postgres.connect() as con:
        con.execute(f"SET search_path = {schema}")
        for table in _TABLES:
            columns = [column[0] for column in held.execute(f"SELECT * FROM store.{table} LIMIT 0").description]
            with con.cursor().copy(f"COPY {table} ({', '.join(columns)}) FROM STDIN") as copy:
                for row in held.execute(f"SELECT * FROM store.{table}").fetchall():
                    copy.write_row(row)
        version = engine._own_or_refuse().data_version()
        con.execute("UPDATE state SET value = %s WHERE key = 'version'", [str(version)])
        con.execute("ANALYZE")


@contextmanager
def opened(folder: Path) -> Iterator[dict[str, World]]:
    """Three engines: `plain` with both files and made-up rows of weight 1, `weighted` with the log and made-up rows
    that stand for several, `far` with rows from before 1990."""
    access, commits = list(access_events()), list(commit_events())
    made = list(made_events(1, weighted=False))
    heavy = list(made_events(2, weighted=True))
    old = list(made_events(3, weighted=True, clusters=FAR_CLUSTERS))
    clock = Clock()
    with (
        gnomon.open(folder / "plain.duckdb", clock=clock) as plain,
        gnomon.open(folder / "weighted.duckdb", clock=clock, project="weighted") as weighted,
        gnomon.open(folder / "far.duckdb", clock=clock) as far,
    ):
        feed(plain, [*access, *commits])
        feed(plain, itertools.chain(*heavy[:4]), project="a stranger")
        feed(weighted, access)
        # A flush each, so that the store notes the weights of each stretch of time by itself.
        for engine, lists in ((plain, made), (weighted, heavy), (far, old)):
            for rows in lists:
                feed(engine, rows)
        yield {
            "plain": World(plain, Oracle(itertools.chain(access, commits, *made), NOW), clock),
            "weighted": World(weighted, Oracle(itertools.chain(access, *heavy), NOW), clock),
            "far": World(far, Oracle(itertools.chain(*old), NOW), clock),
        }


@contextmanager
def opened_rolled_up(folder: Path, url: Callable[[], str]) -> Iterator[dict[str, World]]:
    """Engines of made-up rows that are rolled up, but for those that came late: a tenth of them."""
    clock = Clock()
    with ExitStack() as stack:
        found = {}
        made = {"plain": CLUSTERS[::2], "weighted": CLUSTERS[1::2], "far": FAR_CLUSTERS}
        for seed, (name, clusters) in enumerate(made.items()):
            engine = stack.enter_context(gnomon.open(
                url(), data_dir=str(folder / name), clock=clock, project=name, rollup_lag_seconds=0,
                timezones=("UTC", "Asia/Kathmandu", "America/New_York"),
            ))  # fmt: skip
            lists = list(made_events(seed, weighted=name != "plain", clusters=clusters))
            early = [row for rows in lists for row in rows[len(rows) // 10 :]]
            late = [row for rows in lists for row in rows[: len(rows) // 10]]
            feed(engine, early)
            engine.trigger_aggregation()
            feed(engine, late)
            found[name] = World(engine, Oracle([*early, *late], NOW), clock)
        yield found
