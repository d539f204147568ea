"""What ClickHouse looks at to tell a sample that was sent again: all that may be its first, and none of what is old."""

from __future__ import annotations

import pytest

import embedded
from gnomon.config import Settings
from gnomon.event import Batch
from gnomon.store import open_store
from gnomon.store.clickhouse import writing
from gnomon.store.clickhouse.writing import Writing
from gnomon.timerange import US_DAY

NOW = 1_768_478_400_000_000
OLD = 200_000
#: A sample every 38 s for three months, received when it was taken, a month ago and longer.
FILL = f"""INSERT INTO samples (project, version, ts, received_at, name, kind, value, labels, id)
SELECT 'p', 2, fromUnixTimestamp64Micro({NOW - 120 * US_DAY} + number * 38000000) AS ts, ts, 'm', 'gauge', 1, NULL,
toString(number) FROM numbers({OLD})"""
READ = 3 * 8_192  #: of one look: granules of 8,192 rows, where the span lies and where parts meet


@pytest.fixture
def store():
    opened = open_store(embedded.url(), Settings())
    yield opened
    opened.close()


def send(store, position, *samples):
    """Samples of `(id, moment, receipt)`; how many of them were stored."""
    rows = [(ts, received, "m", "gauge", 1.0, None, id_) for id_, ts, received in samples]
    asked = ["SELECT count(*) FROM samples"]
    before = store.ask(asked, 20.0)[0].rows[0][0]
    store.write([(position, Batch("p", samples=rows))], "j")
    return store.ask(asked, 20.0)[0].rows[0][0] - before


def test_of_what_is_old_next_to_nothing_is_read(store, monkeypatch):
    store.change([FILL])
    asked, honest = [], Writing._run
    monkeypatch.setattr(Writing, "_run", lambda self, text: asked.append(text) or honest(self, text))
    assert send(store, 1, ("a", NOW, NOW), ("b", NOW + 1, NOW + 5)) == 2
    assert send(store, 2, ("7", NOW - 120 * US_DAY + 7 * 38_000_000, NOW)) == 0
    looks = [text for text in asked if "FROM samples" in text]
    rows = [row[3] for text in looks for row in store.ask([f"EXPLAIN ESTIMATE {text}"], 20.0)[0].rows]
    assert looks and sum(rows) <= 5 * READ


def test_who_looks_at_all_of_it_is_found(store, monkeypatch):
    monkeypatch.setattr(Writing, "_where", lambda *_: ["true"])
    with pytest.raises(AssertionError):
        test_of_what_is_old_next_to_nothing_is_read(store, monkeypatch)


def test_each_way_in_which_a_sample_comes_again_is_told(store):
    assert send(store, 1, ("a", NOW, NOW)) == 1
    assert send(store, 2, ("a", NOW, NOW + 30 * US_DAY)) == 0  # the same moment, whenever
    assert send(store, 3, ("a", NOW + 9, NOW + US_DAY)) == 0  # another one within a day
    assert send(store, 4, ("a", NOW + 9, NOW + US_DAY + 1), ("b", NOW - 90 * US_DAY, NOW)) == 2
    assert send(store, 5, ("b", NOW - 90 * US_DAY, NOW + 2 * US_DAY), ("a", NOW + 2, NOW + 2 * US_DAY)) == 0


@pytest.mark.parametrize(("broken", "none"), [("_OLDER", "SELECT 0"), ("_RECENT", "false")])
def test_who_does_not_look_is_found(store, monkeypatch, broken, none):
    monkeypatch.setattr(writing, broken, none)
    with pytest.raises(AssertionError):
        test_each_way_in_which_a_sample_comes_again_is_told(store)
