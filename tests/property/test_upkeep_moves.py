"""Numbers stay when a store moves in the middle of its life: from its file to a server, and from there into a new file.

The machine of `test_upkeep` with one more step. Everything before it and behind it is checked against the same model:
repeats, late events, pruned time, forgotten people, restored backups, sampling.
"""

import os
import random
import shutil
from uuid import uuid4

import psycopg
import pytest
from hypothesis.stateful import rule
from upkeep_machine import TURNS, Upkeep, dear, live

from gnomon.store.carrying import TABLES, Carried
from gnomon.upkeep import comparing, copying

RUNS = int(os.environ.get("UPKEEP_RUNS", "60"))
MOVED = TURNS | {"move": 6}


class Moving(Upkeep):
    """An engine that now and then goes on in a copy of a copy."""

    by = ""  #: the URL of a database

    @dear("move")
    @rule()
    def move(self):
        self.flush()
        schema = f"m{uuid4().hex}"
        there, back = self.home / "there", self.home / "back"
        back.mkdir()
        assert self.engine.copy_to(f"{self.by}&schema={schema}", data_dir=str(there)).same
        self.engine.close()
        self.open(f"{self.by}&schema={schema}", there)
        self.look()
        assert self.engine.copy_to(back / "x.duckdb").same
        self.engine.close()
        shutil.rmtree(self.folder)
        shutil.rmtree(there)
        back.rename(self.folder)
        with psycopg.connect(self.by, autocommit=True) as con:
            con.execute(f"SET client_min_messages = warning; DROP SCHEMA {schema} CASCADE")
        self.open()
        self.done("move")


def moved(postgres, runs, chance):
    return live(chance, runs, 50, MOVED, type("MovingBy", (Moving,), {"by": postgres.database}))


@pytest.mark.slow
@pytest.mark.timeout(20_000)
def test_numbers_stay_wherever_a_store_lives(postgres):
    happened, story = moved(postgres, RUNS, int(os.environ.get("UPKEEP_SEED", random.randrange(2**32))))
    assert story is None, story
    for what in ("move", "roll up", "prune", "forget", "restore", "crash", "left out", "weighted"):
        assert happened[what], f"{what} did not happen once"


@pytest.mark.slow
@pytest.mark.parametrize("table", ["rolled", "pruned", "sightings", "activity", "weighted"])
def test_a_table_that_is_left_behind_is_noticed(postgres, monkeypatch, table):
    """By the model, where neither copying nor comparing looks at it."""
    for module in (copying, comparing):
        monkeypatch.setattr(module, "TABLES", {name: each for name, each in TABLES.items() if name != table})
    stories = (moved(postgres, 60, chance)[1] for chance in (11, 12))  # some lives never need the table
    story = next((story for story in stories if story is not None), None)
    assert story is not None and "copy-differs" not in story


@pytest.mark.slow
def test_rows_that_are_not_read_are_noticed_by_the_databases_own_count(postgres, monkeypatch):
    honest = Carried.read

    def read(self, only=""):
        return honest(self, f"({only or 'true'}) AND source IS NOT NULL" if self.name == "events" else only)

    monkeypatch.setattr(Carried, "read", read)
    _, story = moved(postgres, 60, 11)
    assert story is not None and "copy-differs" in story
