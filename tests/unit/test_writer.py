"""The writer: everything in order and once, a batch that breaks the store does not hold up the others, faults pass."""

from __future__ import annotations

import json
import threading
import time
from contextlib import ExitStack

import pytest

from gnomon.config import Settings
from gnomon.errors import GnomonError, StoreUnavailable
from gnomon.event import ROW, Batch, row_text
from gnomon.ingest import writer as writers
from gnomon.ingest.journal import Journal
from gnomon.ingest.writer import Writer
from gnomon.store.duckdb import DuckDBStore

DEFAULTS = Settings()


def row(id_, source=None, ts=1_000):
    values = {"id": id_, "ts": ts, "received_at": ts, "type": "t", "source": source, "weight": 1.0}
    return tuple(values.get(name) for name in ROW)


def batch(*ids, source=None):
    rows = [row(id_, source) for id_ in ids]
    return Batch("p", rows=rows, counts=[["event", source, "received", "", len(rows)]], checked_ids=True)


@pytest.fixture
def parts(tmp_path):
    store, journal = DuckDBStore(":memory:", DEFAULTS), Journal(tmp_path / "x.journal", max_bytes=64 * 1024 * 1024)
    yield store, journal
    journal.close()
    store.close()


def ids(store):
    return [
        text for (text,) in store.ask(["SELECT coalesce(id_text, id::VARCHAR) FROM events ORDER BY 1"], 10.0)[0].rows
    ]


def books(store):
    sql = "SELECT outcome, reason, sum(n)::BIGINT FROM books GROUP BY 1, 2 ORDER BY 1, 2"
    return {(outcome, reason): n for outcome, reason, n in store.ask([sql], 10.0)[0].rows}


def refuse(store, monkeypatch, word, error=RuntimeError):
    """Let the store fail on every write that holds an event of that id."""
    write = store.write

    def failing(work, journal_id):
        if any(found[0] == word for _, one in work for found in one.rows):
            raise error("no")
        return write(work, journal_id)

    monkeypatch.setattr(store, "write", failing)


def test_what_the_journal_holds_is_written_in_order_and_once(parts):
    store, journal = parts
    writer = Writer(store, journal, DEFAULTS)
    journal.append([batch("a", "b"), batch("b", "c")])
    writer.catch_up()
    assert ids(store) == ["a", "b", "c"]
    assert (writer.position, store.position(journal.id)) == (2, 2)
    assert not writer.drain()
    assert books(store) == {("received", ""): 4, ("stored", ""): 3, ("duplicate", ""): 1}


def test_a_batch_in_hand_is_not_read_back(parts, monkeypatch):
    store, journal = parts
    writer = Writer(store, journal, DEFAULTS)
    one = batch("a")
    writer.offer(journal.append([one]), [one])
    monkeypatch.setattr(journal, "read", None)
    assert writer.drain() and ids(store) == ["a"]


def test_more_than_fits_in_hand_comes_from_the_journal(parts, monkeypatch):
    store, journal = parts
    monkeypatch.setattr(writers, "ROWS_IN_HAND", 3)
    writer = Writer(store, journal, DEFAULTS)
    for n in range(5):
        one = batch(f"{n}a", f"{n}b")
        writer.offer(journal.append([one]), [one])
    assert len(writer._in_hand) == 2
    writer.catch_up()
    assert len(ids(store)) == 10 and not writer._in_hand and writer._rows_in_hand == 0


def test_repeats_of_a_watched_batch_are_told_once(parts):
    store, journal = parts
    writer = Writer(store, journal, DEFAULTS)
    first, second = batch("a", "b"), batch("a", "b", "c")
    positions = [*journal.append([first]), *journal.append([second])]
    writer.offer(positions, [first, second], watch=True)
    writer.catch_up()
    assert (writer.left_out(positions), writer.left_out(positions)) == ({"duplicate": 2}, {})


def test_repeats_are_told_of_a_batch_that_was_written_before_it_was_offered(parts):
    """The thread may find a batch in the journal before its import hands it over."""
    store, journal = parts
    writer = Writer(store, journal, DEFAULTS)
    first, second = batch("a"), batch("a", "b")
    positions = journal.append([first, second])
    writer.catch_up()
    writer.offer(positions, [first, second], watch=True)
    assert writer.left_out(positions) == {"duplicate": 1}
    assert not writer._in_hand and writer._rows_in_hand == 0


def test_a_row_in_the_quarantine_is_the_json_of_its_event():
    shown = row_text(tuple({**dict(zip(ROW, row("a"), strict=True)), "properties": '{"k":[1]}'}.values()))
    moment = "1970-01-01T00:00:00.001000Z"
    assert json.loads(shown) == {"id": "a", "ts": moment, "received_at": moment, "type": "t", "weight": 1.0,
                                 "properties": {"k": [1]}}  # fmt: skip
    assert len(row_text(row("a" * 5_000))) == 2_000


def test_a_batch_that_breaks_the_store_is_set_aside_and_the_others_go_on(parts, monkeypatch, caplog):
    store, journal = parts
    writer = Writer(store, journal, DEFAULTS)
    journal.append([batch("a"), batch("bad", "b", source="s"), batch("c")])
    refuse(store, monkeypatch, "bad")
    writer.catch_up()
    assert ids(store) == ["a", "c"]
    assert writer.position == 3
    assert books(store) == {("received", ""): 4, ("stored", ""): 2, ("rejected", "store-refused"): 2}
    kept = store.ask(["SELECT code, source, id FROM quarantine ORDER BY id"], 10.0)[0].rows
    assert kept == [("store-refused", "s", "b"), ("store-refused", "s", "bad")]
    shown = store.ask(["SELECT event FROM quarantine ORDER BY id"], 10.0)[0].rows
    assert [json.loads(text)["id"] for (text,) in shown] == ["b", "bad"]
    assert "set aside" in caplog.text


def test_a_store_that_is_down_holds_everything_up_and_nothing_is_lost(parts, monkeypatch):
    store, journal = parts
    writer = Writer(store, journal, DEFAULTS)
    journal.append([batch("a")])
    with monkeypatch.context() as down:
        refuse(store, down, "a", StoreUnavailable)
        with pytest.raises(StoreUnavailable):
            writer.drain()
    assert writer.position == 0 and ids(store) == []
    writer.catch_up()
    assert ids(store) == ["a"]


def test_the_thread_outlives_a_store_that_is_down(parts, monkeypatch):
    store, journal = parts
    writer = Writer(store, journal, DEFAULTS)
    with monkeypatch.context() as down:
        refuse(store, down, "a", StoreUnavailable)
        writer.start()
        writer.offer(journal.append([one := batch("a")]), [one])
        until = time.monotonic() + 20
        while writer.fault is None and time.monotonic() < until:
            assert not writer.wait_for(1, 0.1)
        assert isinstance(writer.fault, GnomonError) and writer.position == 0
    assert writer.wait_for(1, 20.0)
    writer.stop()
    assert ids(store) == ["a"]
    assert journal.sizes()["batches"] == 0  # the checkpoint at the end let the journal forget


def test_a_damaged_batch_is_booked_as_lost(parts, caplog):
    store, journal = parts
    writer = Writer(store, journal, DEFAULTS)
    journal.append([batch("a"), batch("b", "c", source="s"), batch("d")])
    journal._db.execute("UPDATE batch SET body = zeroblob(length(body)) WHERE position = 2")
    writer.catch_up()
    assert ids(store) == ["a", "d"]
    assert books(store) == {("received", ""): 4, ("stored", ""): 2, ("rejected", "journal-damaged"): 2}
    assert "fails its checksum" in caplog.text


def test_big_groups_are_cut(parts, monkeypatch):
    store, journal = parts
    monkeypatch.setattr(writers, "MOST_ROWS", 4)
    writer = Writer(store, journal, DEFAULTS)
    journal.append([batch(f"{n}a", f"{n}b") for n in range(5)])
    positions = []
    while writer.drain():
        positions.append(writer.position)
    assert positions == [2, 4, 5]


def test_a_checkpoint_is_made_when_it_is_due(parts):
    store, journal = parts
    eager = Writer(store, journal, DEFAULTS.but(checkpoint_seconds=0.0))
    journal.append([batch("a")])
    eager.catch_up()
    assert journal.sizes()["batches"] == 1
    eager._checkpoint_if_due()
    assert journal.sizes()["batches"] == 0
    lazy = Writer(store, journal, DEFAULTS)
    journal.append([batch("b")])
    lazy.catch_up()
    lazy._checkpoint_if_due()
    assert journal.sizes()["batches"] == 1


def test_waiting_ends_when_the_writer_stops(parts):
    store, journal = parts
    writer = Writer(store, journal, DEFAULTS)
    writer.start()
    writer.stop()
    started = time.monotonic()
    assert not writer.wait_for(99, 10.0)
    assert time.monotonic() - started < 5


def test_an_idle_writer_rests(parts, monkeypatch):
    store, journal = parts
    turns = []
    drain = Writer.drain
    monkeypatch.setattr(Writer, "drain", lambda self: (turns.append(self), drain(self))[1])
    writer = Writer(store, journal, DEFAULTS)
    positions = journal.append([one := batch("a")])
    writer.catch_up()
    writer.offer(positions, [one])
    started = time.monotonic()
    writer.start()
    time.sleep(0.5)
    writer.stop()
    own = sum(one is writer for one in turns)  # engines that other tests left open drain as well
    assert own < 5 + 2 * (time.monotonic() - started) / writers.POLL_SECONDS


def test_a_writer_that_loses_a_batch_would_be_found(parts, monkeypatch):
    store, journal = parts
    monkeypatch.setattr(Writer, "_one_by_one", lambda self, work: {})
    writer = Writer(store, journal, DEFAULTS)
    journal.append([batch("a"), batch("bad")])
    refuse(store, monkeypatch, "bad")
    writer.catch_up()
    assert ids(store) != ["a"]


def test_while_the_file_rests_everything_goes_on_but_checkpoints(parts):
    store, journal = parts
    writer = Writer(store, journal, Settings(checkpoint_seconds=0))
    done = threading.Event()
    checkpoints = []
    honest, store.checkpoint = store.checkpoint, lambda **how: (checkpoints.append(1), honest(**how))
    with ExitStack() as still:
        with writer.paused():
            still.enter_context(writer.resting())
        journal.append([batch("a")])
        writer.catch_up()
        writer._checkpoint_if_due()
        assert ids(store) == ["a"] and checkpoints == []
        thread = threading.Thread(target=lambda: (writer.checkpoint(), done.set()))
        thread.start()
        assert not done.wait(0.05) and checkpoints == []
    assert done.wait(5) and checkpoints == [1]
    thread.join()


def test_after_other_content_the_writer_goes_on_from_its_position(parts):
    store, journal = parts
    writer = Writer(store, journal, DEFAULTS)
    journal.append([batch("a"), batch("b"), batch("c")])
    with writer.paused():
        store.change([f"INSERT INTO state VALUES ('journal:{journal.id}', '2')"])
        writer.content_replaced()
    writer.catch_up()
    assert ids(store) == ["c"] and writer.position == 3 and not writer.catching_up
    with writer.paused():
        store.change(["DELETE FROM events", f"UPDATE state SET value = '1' WHERE key = 'journal:{journal.id}'"])
        writer.look_again()  # the store fell back: less than there was must not be answered
    assert writer.drain() and ids(store) == ["b", "c"]
