"""Copies into ClickHouse and out of it: the same promises as in `test_copying`, with the engine in this process."""

from __future__ import annotations

import pytest
from copied_life import PROJECTS, all_told, clock_now, live, opened, told

import embedded
from gnomon.errors import StoreDamaged
from gnomon.store import carrying
from gnomon.store.clickhouse import ClickHouseStore
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

    def put(self, table, columns):
        nonlocal cuts
        honest(self, table, columns)
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
