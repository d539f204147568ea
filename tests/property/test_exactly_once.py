"""Exactly once: however often, in whatever batches, after whatever reopening an event is sent, it counts once.

The model keeps what the design says (decision 6): an event is a repeat when the project has stored its id with the
same ts at any time, or with another ts and received at most 24 hours ago.
"""

from __future__ import annotations

import itertools
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import embedded
import gnomon
from gnomon.config import Settings
from gnomon.event import ROW, Batch
from gnomon.store.clickhouse import writing as clickhouse_writing
from gnomon.store.duckdb import DuckDBStore, writing
from gnomon.store.postgres import writing as postgres_writing
from gnomon.testing import ManualClock

START = datetime(2026, 1, 15, 12, tzinfo=UTC)
DAY_US = 86_400_000_000
IDS = ["a", "A", "0198c0de-0000-7000-8000-0123456789ab", "0198C0DE-0000-7000-8000-0123456789AB"]
PROJECTS = ["one", "two"]
SOURCES = [None, "s"]


def us(moment):
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


class Model:
    """What must have become of every event."""

    def __init__(self):
        self.stored = {project: [] for project in PROJECTS}
        self.books = {project: Counter() for project in PROJECTS}

    def send(self, project, id_, ts, source, received):
        book = self.books[project]
        book[source, "received"] += 1
        if source == "bad":
            book[source, "rejected"] += 1
            return
        for known, known_ts, known_received in self.stored[project]:
            if known == id_ and (known_ts == ts or received - known_received <= timedelta(days=1)):
                book[source, "duplicate"] += 1
                return
        self.stored[project].append((id_, ts, received))
        book[source, "stored"] += 1


EVENT = st.tuples(
    st.just("send"),
    st.sampled_from(PROJECTS),
    st.sampled_from(IDS),
    st.integers(0, 2),
    st.sampled_from([*SOURCES, "bad"]),
)
STEP = st.one_of(
    EVENT,
    EVENT,
    EVENT,
    EVENT,
    st.tuples(st.just("flush")),
    st.tuples(st.just("wait"), st.sampled_from([1, 23 * 3_600, 86_400, 86_401, 90_000])),
    st.tuples(st.just("reopen")),
)


def run(path, steps, **more):
    """Do the steps on real engines and on the model; compare rows and books after each flush."""
    clock, model = ManualClock(START), Model()
    engines = {}

    def opened():
        for project in PROJECTS:
            # Nothing is carried by itself: the clock must not move between recording and the gate.
            engines[project] = gnomon.open(path, project=project, clock=clock, flush_seconds=600.0, **more)

    def settle():
        for project, engine in engines.items():
            engine.flush()
            compare(engine, model, project)

    opened()
    try:
        for step in steps:
            if step[0] == "send":
                _, project, id_, place, source = step
                ts = START + timedelta(hours=place)
                # A refused event differs in its type only, so that its id stays unused.
                engines[project].track(
                    "" if source == "bad" else "t", id=id_, ts=ts - timedelta(hours=5), source=source
                )
                model.send(project, id_, place, source, clock.now)
            elif step[0] == "wait":
                settle()
                clock.advance(seconds=step[1])
            elif step[0] == "flush":
                settle()
            else:
                for engine in engines.values():
                    engine.close()
                opened()
        settle()
    finally:
        for engine in engines.values():
            engine.close()


def compare(engine, model, project):
    found = engine.query(["events"]).rows[0]["events"]
    assert found == len(model.stored[project])
    books = engine.books()
    assert books.closes()
    counted = Counter()
    for source, account in books.by_source.items():
        counted[source, "received"] = account.received
        counted[source, "stored"] = account.stored
        counted[source, "duplicate"] = account.duplicate
        counted[source, "rejected"] = account.rejected.total()
        assert account.pending == 0
    assert +counted == +model.books[project]


FOLDERS = itertools.count()


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.lists(STEP, min_size=3, max_size=25))
def test_every_event_counts_once_and_the_books_close(tmp_path, steps):
    run(tmp_path / f"{next(FOLDERS)}.duckdb", steps)


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.lists(STEP, min_size=3, max_size=25))
def test_every_event_counts_once_in_postgres(postgres, tmp_path, steps):
    run(postgres.url(), steps, data_dir=str(tmp_path))


@pytest.mark.slow
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.lists(STEP, min_size=3, max_size=25))
def test_every_event_counts_once_in_clickhouse(tmp_path, steps):
    run(embedded.url(), steps, data_dir=str(tmp_path))


SEND = ("send", "one", "a", 0, "s")
STORIES = {
    "in one batch": [SEND] * 5,
    "in batches of their own": [SEND, ("flush",), SEND, ("flush",), SEND],
    "after a reopening": [SEND, ("reopen",), SEND, ("reopen",), SEND],
    "another ts within 24 hours": [SEND, ("wait", 86_400), ("send", "one", "a", 1, "s")],
    "another ts after 24 hours": [SEND, ("wait", 86_401), ("send", "one", "a", 1, "s"), ("send", "one", "a", 1, None)],
    "the same ts after a week": [SEND, *[("wait", 86_401)] * 7, SEND],
    "another project": [SEND, ("send", "two", "a", 0, "s"), ("flush",), ("send", "two", "a", 0, "s")],
    "refused first": [("send", "one", "a", 0, "bad"), ("flush",), SEND, SEND],
    "beside one that widens the span of the batch": [
        SEND,
        ("wait", 86_401),
        ("send", "one", "a", 2, "s"),
        ("send", "one", "A", 0, None),
        ("send", "one", "A", 1, None),
    ],
}


@pytest.mark.parametrize("story", STORIES)
def test_known_stories(tmp_path, story):
    run(tmp_path / "x.duckdb", STORIES[story])


@pytest.mark.parametrize("story", STORIES)
def test_known_stories_in_postgres(postgres, tmp_path, story):
    run(postgres.url(), STORIES[story], data_dir=str(tmp_path))


@pytest.mark.parametrize("story", STORIES)
def test_known_stories_in_clickhouse(tmp_path, story):
    run(embedded.url(), STORIES[story], data_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("broken", "none", "story"),
    [("_OLDER", "SELECT 0", "the same ts after a week"), ("_RECENT", "false", "another ts within 24 hours")],
)
def test_a_clickhouse_store_that_forgets_to_look_is_found(tmp_path, monkeypatch, broken, none, story):
    monkeypatch.setattr(clickhouse_writing, broken, none)
    with pytest.raises((AssertionError, gnomon.GnomonError)):
        run(embedded.url(), STORIES[story], data_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("words", "none", "story"),
    [("e.ts = s.ts", "false", "the same ts after a week"), ("s.doubt > 1", "false", "another ts within 24 hours")],
    ids=["moment", "lately"],
)
def test_a_postgres_store_that_forgets_to_look_is_found(postgres, tmp_path, monkeypatch, words, none, story):
    monkeypatch.setattr(postgres_writing, "_HELD", postgres_writing._HELD.replace(words, none))
    with pytest.raises((AssertionError, gnomon.GnomonError)):
        run(postgres.url(), STORIES[story], data_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("broken", "story"),
    [("_IN_SPAN", "the same ts after a week"), ("_RECENT", "another ts within 24 hours")],
)
def test_a_store_that_forgets_to_look_is_found(tmp_path, monkeypatch, broken, story):
    monkeypatch.setattr(writing, broken, f"s.id IS NULL AND {getattr(writing, broken)}")
    with pytest.raises(AssertionError):
        run(tmp_path / "x.duckdb", STORIES[story])


def test_a_store_that_does_not_look_within_a_batch_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "without_own_repeats", lambda rows: (rows, []))
    with pytest.raises(AssertionError):
        run(tmp_path / "x.duckdb", STORIES["in one batch"])


# -- a group of batches in one transaction, as after an outage --------------------------------------------------------


def row(id_, ts, received):
    values = {"id": id_, "ts": ts, "received_at": received, "type": "t", "weight": 1.0}
    return tuple(values.get(name) for name in ROW)


SENDING = st.tuples(st.sampled_from("ab"), st.integers(0, 2))


@settings(max_examples=12, deadline=None)
@given(st.lists(st.lists(SENDING, max_size=4), min_size=1, max_size=8), st.data())
def test_it_does_not_matter_which_batches_share_a_transaction(batches, data):
    """Batches received within 24 hours give the same rows and repeats one by one, all at once or in any groups."""
    start = us(START)
    given_ = [[row(id_, start + ts, start + n * 3_600_000_000) for id_, ts in rows] for n, rows in enumerate(batches)]
    work = [(n + 1, Batch("p", rows=rows, checked_ids=True)) for n, rows in enumerate(given_)]
    cuts = sorted(data.draw(st.sets(st.integers(1, len(work)))) | {0, len(work)})
    groups = [work[a:b] for a, b in itertools.pairwise(cuts)]
    assert kept(groups) == kept([[entry] for entry in work])


def kept(groups):
    store = DuckDBStore(":memory:", Settings())
    try:
        repeats = {}
        for group in groups:
            repeats |= {position: n for position, n in store.write(group, "j").items() if n}
        rows = store.ask(["SELECT coalesce(id_text, id::VARCHAR), epoch_us(ts) FROM events ORDER BY 1, 2"], 10.0)[
            0
        ].rows
        books = store.ask(["SELECT outcome, sum(n) FROM books GROUP BY 1 ORDER BY 1"], 10.0)[0].rows
        return rows, repeats, [(outcome, int(n)) for outcome, n in books]
    finally:
        store.close()


def test_what_came_back_after_a_day_is_again_stored_once_even_in_one_transaction():
    start = us(START)
    first = row("a", start, start)
    again = row("a", start + 5, start + DAY_US + 1)
    work = [
        (1, Batch("p", rows=[first], checked_ids=True)),
        (2, Batch("p", rows=[again, row("a", start + 5, start + DAY_US + 1)], checked_ids=True)),
    ]
    rows, repeats, books = kept([work])
    assert [ts for _, ts in rows] == [start, start + 5]
    assert repeats == {2: {"duplicate": 1}}
    assert books == [("duplicate", 1), ("stored", 2)]


# -- pending, shed, and samples ---------------------------------------------------------------------------------------


def test_what_waits_is_pending_wherever_it_waits(tmp_path):
    with gnomon.open(tmp_path / "x.duckdb", clock=ManualClock(START), flush_seconds=600.0) as engine:
        engine.track("a", source="s")
        books = engine.books()
        assert (books.received, books.pending, books.closes()) == (1, 1, True)
        with engine._hold.writer._work:  # the store takes nothing now
            engine._make_durable()
            engine.track("b")
            engine.track("", source="s")
            books = engine.books()
            assert books.closes()
            assert books.by_source["s"].pending == 2  # one in the journal, one in the buffer, not yet refused
            assert books.by_source[None].pending == 1
        engine.flush()
        books = engine.books()
        assert books.closes()
        assert (books.pending, books.stored, dict(books.rejected)) == (0, 2, {"empty-name": 1})


def test_a_full_buffer_sheds_and_the_books_say_so(tmp_path):
    with gnomon.open(tmp_path / "x.duckdb", clock=ManualClock(START), flush_seconds=600.0, buffer_events=5) as engine:
        with engine._flush_lock:  # nothing is carried meanwhile
            for n in range(12):
                engine.track("t", source="s" if n % 2 else None)
        engine.flush()
        books = engine.books()
        assert books.closes()
        assert books.received == 12
        assert (books.stored, books.shed.total()) == (5, 7)
        assert set(books.shed) == {"buffer-full"}
        assert not engine.health().sound


def test_books_that_do_not_close_are_found(tmp_path):
    with gnomon.open(tmp_path / "x.duckdb", clock=ManualClock(START)) as engine:
        engine.track("t")
        engine.flush()
        assert engine.health().sound
        engine._hold.store.write(
            [(2, Batch("default", counts=[["event", "s", "received", "", 1]]))], engine._journal.id
        )
        assert not engine.books().closes()
        assert "the books do not close" in [finding.what for finding in engine.health().findings]


def test_equal_samples_all_count_and_their_books_close(tmp_path):
    with gnomon.open(tmp_path / "x.duckdb", clock=ManualClock(START)) as engine:
        for _ in range(3):
            engine.record_metric("m", 1)
            engine.record_metric("m", 1)
            engine.record_metric("m", float("nan"))
            engine.flush()
        assert engine.query(["samples"], dataset="samples").rows[0]["samples"] == 6
        books = engine.books("sample")
        assert books.closes()
        assert (books.received, books.stored, dict(books.rejected)) == (9, 6, {"not-finite": 3})
