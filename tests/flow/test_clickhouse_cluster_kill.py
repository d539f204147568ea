"""Promises 1, 2 and 4 on a ClickHouse cluster of two shards: processes that record, and tend what is recorded, are
killed again and again. Nothing kills a shard: both are in one process, which takes no clean end."""

from __future__ import annotations

import os
import time

import pytest
from tending import START
from test_clickhouse_cluster import direct, leftovers
from test_clickhouse_kill import Served, soon_broken, tortured, verdict

import gnomon
from gnomon.config import Settings
from gnomon.store.clickhouse.clustered import ClusteredClickHouse
from gnomon.timerange import to_us

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1_800),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]
KILLS = int(os.environ.get("CLUSTER_KILLS", "12"))
DAYS = ["2026-01-15", "2026-01-16"]
NUMBERS = f"SELECT intDiv(toUnixTimestamp64Micro(ts) - {to_us(START)}, 100), count() FROM events GROUP BY 1"


def test_nothing_acknowledged_is_lost_or_doubled_on_two_shards(cluster, tmp_path, monkeypatch):
    soon_broken(monkeypatch)
    url = cluster.url()
    tortured([Served(tmp_path, seed, url) for seed in (0, 1)], KILLS, verdict)


class Tended(Served):
    """See `Served`; a child is killed a while after some flushes, as changes take as long as the machine lets them."""

    RUNS = 2.0
    LONGEST = 30.0  #: seconds in which flushes are waited for

    def __init__(self, folder, seed, url):
        super().__init__(folder, seed, url, "tending")

    def start(self):
        super().start()
        self.begun, self.before = time.monotonic(), len(self.promised())

    def kill(self):
        wanted = self.before + self.rng.choice((0, 1, 1, 300))
        while len(self.promised()) < wanted and time.monotonic() < self.begun + self.LONGEST:
            time.sleep(0.05)
        super().kill()


def settled(engine):
    """Drain the journal, roll up all there is, remove what was replaced: the rows that are there, and what is wrong."""
    assert engine._hold.writer.wait_for(engine._hold.journal.last_position(), 60.0)
    engine.trigger_aggregation()
    engine.forget("u0")
    engine.forget("u6", delete_events=True)
    store, books = engine._hold.store, engine.books()
    assert isinstance(store, ClusteredClickHouse) and books.pending == 0 and books.erased
    store.checkpoint(compact=True)
    rows, users = store.ask([NUMBERS, "SELECT DISTINCT user_id FROM events"], 60.0)
    rolled, raw = (engine.query(["events", "people"], ["source", "time:hour"], DAYS, basis=basis).to_dicts()
                   for basis in ("auto", "raw"))  # fmt: skip
    numbers = leftovers(store)
    (place,) = numbers["events"]
    lying = [f"SELECT count() FROM {store._address.database}__{k}.events_{place}" for k in (1, 2)]
    counts, known = dict(rows.rows), {user for (user,) in users.rows}
    return counts, {
        "doubled": sum(n > 1 for n in counts.values()), "rolled": rolled != raw, "known": known & {"u0", "u6"},
        "unbooked": int(not books.closes()) + abs(books.stored - books.erased - len(counts)),
        "hidden": sum(direct(store, each)[0][0] for each in lying) - len(counts),
        "left": any(len(each) > 1 for each in numbers.values()),
    }  # fmt: skip


def tended(racks, url):
    """What is wrong once every journal is drained. Those whose number leaves 6 may have been deleted."""
    for rack in racks:
        settings = Settings(data_dir=str(rack.folder / "gnomon-data"), rollup_lag_seconds=0)
        with gnomon.open(url, project="kill", settings=settings) as engine:
            counts, wrong = settled(engine)
    promised = {n for rack in racks for n in rack.promised()}
    return wrong | {"lost": sum(n % 7 != 6 for n in promised - counts.keys())}, len(promised)


def test_nothing_is_lost_doubled_or_half_way_where_upkeep_is_killed_on_two_shards(cluster, tmp_path, monkeypatch):
    soon_broken(monkeypatch)
    url = cluster.url()
    tortured([Tended(tmp_path, seed, url) for seed in (0, 1)], KILLS, tended)
