"""Growth: what rolling up and a dashboard of 30 days cost over a million, thirty million and a hundred million events.

The same 30 days at three densities, from rollups. The largest store takes 4 GB, and some minutes to be made.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench.dataset import CACHE, DAYS, stores
from bench.figures import Figure, Size
from bench.rollups import DASHBOARD, after, asked, bench_settings, rolled_up

TITLE = "Scale: rolling up, and a dashboard of 30 days from rollups, as the store grows"


def run(size: Size) -> list[Figure]:
    """For each store: events a second rolled up, bytes, the dashboard's questions together and the slowest one."""
    import gnomon

    figures: list[Figure] = []
    for per_day in (33_334, size.pick(1_000_000, 66_667), size.pick(3_333_334, 100_000)):
        store = stores(per_day)[DAYS]
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            path = store.copied(Path(folder))
            made = rolled_up(path)
            with gnomon.open(path, settings=bench_settings(), clock=after) as engine:
                times = {name: asked(engine, question) for name, question in DASHBOARD.items()}
        slowest = max(times, key=lambda name: times[name])
        held = f"{store.events / 1e6:.0f}M events"
        figures += [Figure(f"{held}: {each.name}", each.value, each.unit, note=each.note) for each in made]
        figures.append(Figure(f"{held}: the dashboard's {len(times)} questions", sum(times.values()), "ms"))
        figures.append(Figure(f"{held}: the slowest, {slowest}", times[slowest], "ms", 50.0))
    return figures
