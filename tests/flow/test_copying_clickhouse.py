"""Copies into ClickHouse and out of it: the same promises as in `test_copying`, with the engine in this process."""

from __future__ import annotations

import pytest
from copied_life import PROJECTS, all_told, clock_now, live, opened, told

import embedded
from gnomon.config import Settings
from gnomon.errors import StoreDamaged
from gnomon.store import carrying, open_store
from gnomon.store.clickhouse import ClickHouseStore
from gnomon.store.clickhouse import carrying as clickhouse_carrying
from gnomon.store.clickhouse.carrying import Moment
from gnomon.store.clickhouse.writing import Writing


@pytest.fixture(scope="module")
def lived(tmp_path_factory):
    file, clock = tmp_path_factory.mktemp("lived") / "lived.duckdb", clock_now()
    live(str(file), clock, n=30)
    return file, clock


def copy(source, place, clock, **arguments):
    with opened(source, clock, enabled=False, **arguments) as engine:
        return engine.copy_to(place)


def test_from_a_file_to_clickhouse_and_back_again(lived, tmp_path):
    file, clock = lived
    place, back = embedded.url("copied"), tmp_path / "back.duckdb"
    assert copy(file, place, clock).same
    expected, _ = said = all_told(file, clock)
    for project, wanted in zip(PROJECTS, expected, strict=True):
        with opened(place, clock, project, heartbeat_seconds=0) as engine:
            assert told(engine) == wanted
    assert copy(place, back, clock).same
    assert all_told(back, clock) == said


@pytest.mark.slow
def test_cut_short_it_goes_on(lived, monkeypatch):
    """Also between rows that were put and the commit that makes them seen: those are never seen."""
    file, clock = lived
    place, honest, cuts = embedded.url("cut"), Writing.put, 0
    monkeypatch.setattr(carrying, "SLICE_ROWS", 40)

    def put(self, *told):
        nonlocal cuts
        honest(self, *told)
        cuts += 1
        if cuts % 4 == 0:
            raise OSError("cut")

    monkeypatch.setattr(Writing, "put", put)
    for _ in range(30):
        try:
            done = copy(file, place, clock)
            break
        except Exception as error:
            assert "cut" in repr(error.__cause__ or error)
    assert cuts > 12 and done.same and done.resumed
    with opened(file, clock, enabled=False) as one, opened(place, clock, enabled=False) as two:
        assert told(one) == told(two)


def test_a_damaged_copy_is_found(lived, monkeypatch):
    file, clock = lived
    honest = ClickHouseStore.fill

    def fill(self, table, rows, first, state):
        found = [row for part in rows() for row in part]
        honest(self, table, lambda: [found[1:] if table == "people" else found], first, state)

    monkeypatch.setattr(ClickHouseStore, "fill", fill)
    with pytest.raises(StoreDamaged, match="people"):
        copy(file, embedded.url("damaged"), clock)


KEY = 1_768_478_400_000_000
#: Of one key, so that they are one slice; among them equal ones, and some with nulls.
ROWS = [("p", KEY, "bad", None if n % 2 else "x", f"s{n}" if n % 3 else None, None, "e") for n in range(150)] * 4


@pytest.fixture(params=["chdb", pytest.param("cluster", marks=pytest.mark.slow)])
def place(request):
    return embedded.url() if request.param == "chdb" else request.getfixturevalue("cluster").url()


def test_rows_of_one_key_go_in_and_out_in_parts(place, monkeypatch):
    """So memory stays flat where millions have the same."""
    monkeypatch.setattr(clickhouse_carrying, "PUT_ROWS", 150)
    monkeypatch.setattr(clickhouse_carrying, "WHOLE_ROWS", 200)
    held, put, run = [], Writing.put, Moment._run

    def putting(self, table, columns, *told):
        held.append(len(columns["project"]))
        put(self, table, columns, *told)

    def running(self, text):
        held.append(len(found := run(self, text)))
        return found

    monkeypatch.setattr(Writing, "put", putting)
    monkeypatch.setattr(Moment, "_run", running)
    store = open_store(place, Settings())
    try:
        number = store._newest(store._writer).committed
        store.fill("quarantine", lambda: (ROWS[n : n + 50] for n in range(0, 600, 50)), [], {"x": "y"})
        assert held == [150] * 4 and store._head.committed <= number + 2  # of which one says who writes
        with store.reading() as reading:
            found = [row for part in reading.rows(carrying.TABLES["quarantine"].read()) for row in part]
        assert sorted(found, key=repr) == sorted(ROWS, key=repr)
        assert len(held) > 8 and max(held) <= 300
    finally:
        store.close()


@pytest.mark.parametrize("broken", ["token", "hash", "whole"])
def test_parts_that_are_taken_for_each_other_would_be_found(monkeypatch, broken):
    put, run = Writing.put, Moment._run
    if broken == "token":
        monkeypatch.setattr(Writing, "put", lambda self, table, columns, part: put(self, table, columns))
    else:
        monkeypatch.setattr(Moment, "_run", lambda self, text: run(self, text.replace(
            *(("tuple(*)", "*") if broken == "hash" else (" LIMIT 201", "")))))  # fmt: skip
    with pytest.raises(AssertionError):
        test_rows_of_one_key_go_in_and_out_in_parts(embedded.url(), monkeypatch)
