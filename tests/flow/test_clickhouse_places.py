"""Where a ClickHouse store makes its changes: databases named after it and a number. What is called so and is not its
own stays, whatever it does; what a change left, also one of a version before, goes."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import Any

import chdb
import pytest
from test_clickhouse import AFTER, CHANGE, batch, changed

import clickhouse_http
import embedded
from gnomon.config import Settings
from gnomon.errors import GnomonError, InvalidValue
from gnomon.store import open_store
from gnomon.store.clickhouse import address, changing
from gnomon.store.clickhouse.connecting import Remote
from gnomon.store.texts import quoted

_NAMES = itertools.count()


@dataclass
class Kind:
    """Stores of one kind: the URL of a name, and what asks the engine below."""

    url: Any
    run: Any


@pytest.fixture(params=["chdb", "clickhouse", pytest.param("cluster", marks=pytest.mark.slow)])
def kind(request):
    if request.param == "cluster":
        cluster = request.getfixturevalue("cluster")
        con = Remote(address.address_of(cluster.url("x")), None)
        yield Kind(cluster.url, lambda text: [row[0] for row in con.run(text, {"database": "default"}).rows])
        con.close()
        return
    server, con = clickhouse_http.Server(), chdb.connect(embedded.folder())
    url = embedded.url if request.param == "chdb" else server.url
    yield Kind(url, lambda text: con.query(text, "TSV").bytes().decode().split())
    con.close()
    server.close()


@pytest.fixture
def name():
    return f"places{next(_NAMES)}"


def wrote(url, *positions):
    """How many events a store has, into which one was written at each of these positions."""
    store = open_store(url, Settings())
    try:
        for n in positions:
            store.write([(n, batch(f"e{n}"))], "j")
        return store.ask(["SELECT count(*) FROM events"], 20.0)[0].rows[0][0]
    finally:
        store.close()


def wrote_before(url, monkeypatch, *positions):
    """The same of a store that a version before made, which took any name."""
    with monkeypatch.context() as patched:
        patched.setattr(address, "_OF_A_CHANGE", re.compile("(?!)"))
        return wrote(url, *positions)


def left(kind, name):
    """The databases that are there of a beginning of their names."""
    return {*kind.run(f"SELECT name FROM system.databases WHERE startsWith(name, {quoted(f'{name}_next_')})")}


def test_what_is_not_its_own_stays(kind, name, monkeypatch):
    beside = kind.url(f"{name}_next_2")
    assert wrote_before(beside, monkeypatch, 1, 2) == 2
    store = open_store(kind.url(name), Settings())
    try:
        store.write([(1, batch("a", "b"))], "j")
        number = store._head.committed + 1  # of the change
        theirs = {f"{name}_next_{ending}" for ending in (number, f"{number}0", number + 3, "gen", "2_next_1", "1x")}
        for each in theirs:
            kind.run(f"CREATE DATABASE {each}")
            kind.run(f"CREATE TABLE {each}.events (n Int64) ENGINE = MergeTree ORDER BY n")
            kind.run(f"INSERT INTO {each}.events SELECT number FROM numbers(7)")
        comment = "SELECT comment FROM system.databases WHERE name = currentDatabase()"
        assert store.change([*CHANGE, comment])[-1].rows == [(changing.MADE,)]
        assert changed(store) == AFTER
        with pytest.raises(GnomonError):
            store.change(["DELETE FROM events WHERE nothing = 1"])
        store.checkpoint(compact=True)
    finally:
        store.close()
    assert wrote(kind.url(name)) == 1
    assert [int(*kind.run(f"SELECT count() FROM {each}.events")) for each in theirs] == [7] * len(theirs)
    assert wrote_before(beside, monkeypatch) == 2


def test_what_a_change_left_goes(kind, name):
    assert wrote(kind.url(name), 1) == 1
    for number, words in ((41, f"COMMENT {quoted(changing.MADE)}"), (42, ""), (43, ""), (44, "")):
        kind.run(f"CREATE DATABASE {name}_next_{number} {words}")
    kind.run(f"CREATE TABLE {name}_next_41.met (n Int64) ENGINE = MergeTree ORDER BY n")
    kind.run(f"CREATE TABLE {name}_next_42.met (n Int64) ENGINE = MergeTree ORDER BY n")
    kind.run(f"CREATE TABLE {name}_next_42.books (n Int64, batch Int64 MATERIALIZED 0) ENGINE = MergeTree ORDER BY n")
    kind.run(f"CREATE VIEW {name}_next_43.events AS SELECT * FROM {name}.events")
    assert wrote(kind.url(name), 2) == 2
    assert left(kind, name) == set()


def by_prefix(con, settings, database, only=None):
    """As it was once."""
    asked = f"SELECT name FROM system.databases WHERE startsWith(name, {quoted(f'{database}_next_')})"
    for (name,) in con.run(asked, {**settings, "additional_table_filters": "{}"}).rows:
        con.run(f"DROP DATABASE IF EXISTS {name} SYNC", settings)


@pytest.mark.parametrize("kind", ["chdb"], indirect=True)
@pytest.mark.parametrize("broken, found", [
    ({"deciding.drop_leftovers": by_prefix}, test_what_is_not_its_own_stays),
    ({"changing.drop_leftovers": by_prefix}, test_what_is_not_its_own_stays),
    ({"changing._was_made": lambda *_: True}, test_what_is_not_its_own_stays),
    ({"changing._was_made": lambda *_: False}, test_what_a_change_left_goes),
])  # fmt: skip
def test_what_looks_less_closely_would_be_found(kind, name, monkeypatch, broken, found):
    for place, instead in broken.items():
        monkeypatch.setattr(f"gnomon.store.clickhouse.{place}", instead)
    more = (monkeypatch,) if found is test_what_is_not_its_own_stays else ()
    with pytest.raises(Exception, match=r"assert|does not exist|holds tables|state_log|gone"):
        found(kind, name, *more)


@pytest.mark.parametrize("url", ["chdb://p?database=shop_next_2", "clickhouse://h/shop_next_20?cluster=c"])
def test_a_new_store_cannot_be_called_like_a_change(url):
    with pytest.raises(InvalidValue) as raised:
        open_store(url, Settings())
    assert raised.value.code == "bad-store" and "_next_" in raised.value.remedy
