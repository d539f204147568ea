"""Numbers stay whatever upkeep does to them, on PostgreSQL: the machine of `test_upkeep`, without what needs a file."""

import os
import random

import pytest
from upkeep_machine import SERVED, live

from gnomon.store.postgres import PostgresStore

RUNS = int(os.environ.get("UPKEEP_RUNS", "100"))


def lived(postgres, monkeypatch, runs, chance):
    monkeypatch.setenv("UPKEEP_STORE", f"{postgres.database}&schema={{}}")
    return live(chance, runs, 50, SERVED)


def test_numbers_stay_whatever_happens_on_a_server(postgres, monkeypatch):
    happened, story = lived(postgres, monkeypatch, 3, int(os.environ.get("UPKEEP_SEED", "5")))
    assert story is None, story
    assert happened["questions"]


@pytest.mark.slow
@pytest.mark.timeout(20_000)
def test_numbers_stay_whatever_happens_on_a_server_for_long(postgres, monkeypatch):
    happened, story = lived(postgres, monkeypatch, RUNS, int(os.environ.get("UPKEEP_SEED", random.randrange(2**32))))
    assert story is None, story
    for what in ("roll up", "prune", "forget", "erase", "restart", "left out", "weighted", "refused"):
        assert happened[what], f"{what} did not happen once"


@pytest.mark.slow
def test_states_that_are_not_added_are_noticed(postgres, monkeypatch):
    honest = PostgresStore.change

    def change(self, statements, timeout=3_600.0):
        return honest(self, [text.replace("sum(n) AS n", "max(n) AS n") for text in statements], timeout)

    monkeypatch.setattr(PostgresStore, "change", change)
    _, story = lived(postgres, monkeypatch, 20, 7)
    assert story is not None and "AssertionError" in story
