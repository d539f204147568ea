"""One write with everything in it comes to the same on every store: projects, repeats, sealed time, weights, nulls.

Rows come one by one and by columns. The first store is the measure of the others; the books must close on each.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest

import embedded
from gnomon.config import Settings
from gnomon.event import AT, ROW, Batch, Rows
from gnomon.store import open_store
from gnomon.store.incoming import RECENT_US
from gnomon.store.weights import JOINED
from gnomon.store.work import Work

NOW = 1_768_478_400_000_000
HOUR = 3_600_000_000
PROJECTS = ["one", "two\\'", "three"]
SEALED = NOW - 48 * HOUR  #: of the second project
OWN = ["0198c0de-0000-7000-8000-0123456789ab", "00000000-0000-0000-0000-000000000000",
       "ffffffff-ffff-ffff-ffff-ffffffffffff"]  # fmt: skip
IDS = ["a", "A", "0198C0DE-0000-7000-8000-0123456789AB", "é'\\", *OWN]  #: from outside
MOMENTS = [NOW, NOW + 1, NOW - HOUR, NOW - 40 * HOUR, SEALED, SEALED - 1, 0]
RECEIVED = [NOW, NOW + RECENT_US, NOW + RECENT_US + 1, NOW + 3 * RECENT_US]


def drawn(draw, received, ids):
    values = {"id": draw.choice(ids), "ts": draw.choice(MOMENTS), "received_at": received, "type": draw.choice("tu"),
              "weight": draw.choice([1.0, 1.0, 2.5]), "source": draw.choice([None, "r", "s"]),
              "user_id": draw.choice([None, "u"]), "status_code": draw.choice([None, 200, 503]),
              "duration_ms": draw.choice([None, 0.0, 1e-300, 7.25]), "success": draw.choice([None, True, False]),
              "properties": draw.choice([None, "{}", '{"a":null}'])}  # fmt: skip
    return tuple(values.get(name) for name in ROW)


def batch(draw, project, received):
    checked, replayed = draw.choice([(True, False), (True, True), (False, True)])
    rows = [drawn(draw, received, IDS if checked else OWN) for _ in range(draw.randrange(1, 12))]
    counts = Counter(row[AT["source"]] for row in rows)
    if draw.random() < 0.5:  # by columns, as the gate hands them over
        columns = list(zip(*rows, strict=True))
        rows = Rows([None if set(column) == {None} else list(column) for column in columns], len(rows))
    told = [["event", source, "received", "", n] for source, n in counts.items()]
    return Batch(project, rows=rows, counts=told, checked_ids=checked, replayed=replayed)


def writes(seed):
    draw, position = random.Random(seed), 0
    for received in sorted(draw.choices(RECEIVED, k=6)):
        work = []
        for _ in range(draw.randrange(1, 5)):
            position += 1
            work.append((position, batch(draw, draw.choice(PROJECTS), received)))
        yield work


def outcome(url, seed):
    """What each write said, and what is in the store then."""
    store = open_store(url, Settings())
    try:
        told = [{place: dict(reasons) for place, reasons in store.write(work, "j").items()}
                for work in sealing(store, writes(seed))]  # fmt: skip
        rest = ", ".join(name for name in ROW if name not in ("id", "ts", "received_at"))
        asked = [
            f"SELECT project, {store.dialect.id_text}, epoch_us(ts), epoch_us(received_at), {rest} FROM events",
            "SELECT project, kind, source, outcome, reason, sum(n) FROM books GROUP BY 1, 2, 3, 4, 5",
            JOINED,
        ]
        tables = [sorted(map(tuple, table.rows), key=repr) for table in store.ask(asked, 60.0)]
        return told, tables[0], {tuple(row[:-1]): int(row[-1]) for row in tables[1]}, tables[2]
    finally:
        store.close()


def sealing(store, found):
    """The writes; behind the first of them, time of the second project is sealed."""
    for n, work in enumerate(found):
        if n == 1:
            project = PROJECTS[1].replace("\\", "\\\\") if store.dialect.sqlglot == "clickhouse" else PROJECTS[1]
            project = project.replace("'", "''")
            store.change([f"INSERT INTO pruned (project, kind, type, before) VALUES ('{project}', 'raw', NULL, "
                          f"make_timestamp({SEALED}))"])  # fmt: skip
        yield work


@pytest.fixture
def places(postgres, tmp_path):
    return [":memory:", postgres.url(), embedded.url()]


SEEDS = range(6)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_store_makes_the_same_of_a_mixed_write(places, seed):
    first, *others = (outcome(place, seed) for place in places)
    assert others == [first, first]
    told, rows, books, _ = first
    received = sum(n for entry, n in books.items() if entry[3] == "received")
    assert received == sum(n for entry, n in books.items() if entry[3] != "received")
    assert len(rows) == sum(n for entry, n in books.items() if entry[3] == "stored")
    assert sum(sum(reasons.values()) for each in told for reasons in each.values()) == received - len(rows)


@pytest.mark.parametrize("broken", ["weighted", "booked", "stored"])
def test_a_store_that_makes_something_else_of_it_is_found(places, monkeypatch, broken):
    """What PostgreSQL and ClickHouse have in common, and the first store has not."""
    honest = outcome(places[0], 0)
    wrong = {"weighted": lambda work: [], "booked": lambda work: Counter(), "stored": lambda work, values: values}
    monkeypatch.setattr(Work, broken, wrong[broken])
    assert honest not in [outcome(place, 0) for place in places[1:]]
