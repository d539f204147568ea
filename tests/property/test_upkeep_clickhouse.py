"""Numbers stay whatever upkeep does to them, on ClickHouse: the machine of `test_upkeep`, without what needs a file."""

import os
import random

import pytest
from upkeep_machine import SERVED, live

import embedded
from gnomon.store.clickhouse import ClickHouseStore

RUNS = int(os.environ.get("UPKEEP_RUNS", "30"))
pytestmark = [pytest.mark.slow, pytest.mark.timeout(20_000)]


def lived(monkeypatch, runs, chance):
    monkeypatch.setenv("UPKEEP_STORE", embedded.url("{}"))
    return live(chance, runs, 50, SERVED)


def test_numbers_stay_whatever_happens(monkeypatch):
    happened, story = lived(monkeypatch, RUNS, int(os.environ.get("UPKEEP_SEED", random.randrange(2**32))))
    assert story is None, story
    assert happened["questions"]


def test_states_that_are_not_added_are_noticed(monkeypatch):
    honest = ClickHouseStore.change

    def change(self, statements, timeout=3_600.0):
        return honest(self, [text.replace("sum(n) AS n", "max(n) AS n") for text in statements], timeout)

    monkeypatch.setattr(ClickHouseStore, "change", change)
    _, story = lived(monkeypatch, 20, 7)
    assert story is not None and "AssertionError" in story
