"""The engines that the differential test asks, each beside its oracle over the same rows."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from oracle import Oracle
from rows import FAR_CLUSTERS, NOW, Event, access_events, commit_events, made_events, us_of

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


def in_files(folder: Path) -> Callable[[str], dict[str, Any]]:
    """What `gnomon.open` is told for the embedded store of a name."""
    return lambda name: {"url": folder / f"{name}.duckdb"}


@contextmanager
def opened(place: Callable[[str], dict[str, Any]]) -> Iterator[dict[str, World]]:
    """Three engines: `plain` with both files and made-up rows of weight 1, `weighted` with the log and made-up rows
    that stand for several, `far` with rows from before 1990."""
    access, commits = list(access_events()), list(commit_events())
    made = list(made_events(1, weighted=False))
    heavy = list(made_events(2, weighted=True))
    old = list(made_events(3, weighted=True, clusters=FAR_CLUSTERS))
    clock = Clock()
    with (
        gnomon.open(**place("plain"), clock=clock) as plain,
        gnomon.open(**place("weighted"), clock=clock, project="weighted") as weighted,
        gnomon.open(**place("far"), clock=clock) as far,
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
