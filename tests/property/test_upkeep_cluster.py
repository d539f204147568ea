"""Numbers stay whatever upkeep does to them, on a ClickHouse cluster of two shards: the machine of `test_upkeep`,
without what needs a file. Where it looks for bytes of who was forgotten, it looks at those of the shards as well."""

import os
import random
from pathlib import Path

import pytest
from upkeep_machine import SERVED, Upkeep, live

from gnomon.store.clickhouse import clustered
from gnomon.store.clickhouse.address import address_of
from gnomon.store.clickhouse.clustered import ClusteredClickHouse
from gnomon.store.clickhouse.connecting import Remote, pool_of

RUNS = int(os.environ.get("UPKEEP_RUNS", "6"))
pytestmark = [pytest.mark.slow, pytest.mark.timeout(20_000)]


class OnShards(Upkeep):
    """See `Upkeep`. The databases of a life go with it."""

    place: Path  #: where everything lies that the servers of the cluster have

    def files(self):
        return [*super().files(), *(path for path in self.place.rglob("*") if path.is_file())]

    def teardown(self):
        try:
            super().teardown()
        finally:
            address = address_of(os.environ["UPKEEP_STORE"].format(self.name))
            con = Remote(address, pool_of(address))
            for database in (self.name, f"{self.name}__1", f"{self.name}__2"):
                con.run(f"DROP DATABASE IF EXISTS {database} SYNC", {"database": "default"})
            con.close()


def lived(cluster, monkeypatch, runs, chance):
    monkeypatch.setenv("UPKEEP_STORE", cluster.url("{}"))
    monkeypatch.setattr(OnShards, "place", Path(cluster.folder), raising=False)
    return live(chance, runs, 50, SERVED, OnShards)


def test_numbers_stay_whatever_happens_on_two_shards(cluster, monkeypatch):
    happened, story = lived(cluster, monkeypatch, RUNS, int(os.environ.get("UPKEEP_SEED", random.randrange(2**32))))
    assert story is None, story
    assert happened["questions"] and happened["roll up"]


def test_states_that_are_not_added_are_noticed(cluster, monkeypatch):
    honest = ClusteredClickHouse.change

    def change(self, statements, timeout=3_600.0):
        return honest(self, [text.replace("sum(n) AS n", "max(n) AS n") for text in statements], timeout)

    monkeypatch.setattr(ClusteredClickHouse, "change", change)
    _, story = lived(cluster, monkeypatch, 20, 7)
    assert story is not None and "AssertionError" in story


def test_names_that_stand_for_the_tables_of_before_are_noticed(cluster, monkeypatch):
    monkeypatch.setattr(ClusteredClickHouse, "_carry_out", lambda *_: None)
    monkeypatch.setattr(clustered, "drop_tables", lambda *_, **__: None)
    _, story = lived(cluster, monkeypatch, 20, 7)
    assert story is not None
