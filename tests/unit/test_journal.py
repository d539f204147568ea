"""The journal: it gives back what it acknowledged, never uses a position twice, and one failure sinks one call only."""

from __future__ import annotations

import sqlite3
import threading
import time
import zlib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnomon.errors import DiskFull, GnomonError, StoreDamaged, StoreUnavailable
from gnomon.event import ROW, SAMPLE_ROW, Batch, Rows, column, in_a_row
from gnomon.ingest import journal as journals
from gnomon.ingest.journal import Journal, _sealed, _translated, check, holds, open_sealed, salvage, summary_of

MB = 1024 * 1024


@pytest.fixture
def journal(tmp_path):
    opened = Journal(tmp_path / "x.journal", max_bytes=64 * MB)
    yield opened
    opened.close()


def row(n=0, source=None):
    values = {"id": f"id{n}", "ts": n, "received_at": n, "type": "t", "source": source, "weight": 1.0}
    return tuple(values.get(name) for name in ROW)


def batch(*rows, **more):
    return Batch("p", rows=list(rows), **more)


def stored(journal, after=0):
    return [(position, open_sealed(crc, body)) for position, crc, body in journal.read(after, 10_000)]


VALUE = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
)
ANY_ROW = st.tuples(*[VALUE] * len(ROW))
ANY_BATCH = st.builds(
    Batch,
    st.text(min_size=1),
    st.lists(ANY_ROW, max_size=3),
    st.lists(st.tuples(*[VALUE] * len(SAMPLE_ROW)), max_size=2),
    st.lists(st.lists(VALUE, min_size=6, max_size=6), max_size=2),
    st.lists(st.lists(VALUE, min_size=5, max_size=5), max_size=2),
    st.booleans(),
    sightings=st.lists(st.tuples(*[VALUE] * 5), max_size=2),
)


@settings(max_examples=80, deadline=None)
@given(ANY_BATCH)
def test_a_sealed_batch_opens_as_it_was(one):
    crc, summary, body = _sealed(one)
    back = open_sealed(crc, body)
    kept = ("project", "rows", "samples", "refused", "counts", "checked_ids", "sightings")
    assert repr([getattr(back, name) for name in kept]) == repr([getattr(one, name) for name in kept])
    assert journals._decode_counts(summary) == [list(entry) for entry in summary_of(one)]


def test_a_batch_that_was_sealed_before_there_were_sightings_opens():
    body = msgspec.json.encode(("p", [row(1)], [], [], [["event", None, "received", "", 1]], True))
    assert open_sealed(zlib.crc32(body), body) == batch(
        row(1), counts=[["event", None, "received", "", 1]], checked_ids=True
    )


def by_columns(rows):
    """Rows as the gate hands on those that it proved together."""
    columns = [*map(list, zip(*rows, strict=True))]
    return Rows([None if set(map(type, one)) == {type(None)} else one for one in columns], len(rows))


@settings(max_examples=80, deadline=None)
@given(st.lists(st.lists(ANY_ROW, min_size=1, max_size=3), min_size=1, max_size=3), st.integers(0, 2**60))
def test_rows_by_columns_are_sealed_and_open_as_rows_one_by_one(parts, received):
    at = ROW.index("received_at")
    parts = [[(*row[:at], received, *row[at + 1 :]) for row in part] for part in parts]
    rows = [row for part in parts for row in part]
    one = Batch("p", rows=in_a_row(list(map(by_columns, parts))))
    assert [len(one.rows), [*one.rows], one.rows[-1]] == [len(rows), rows, rows[-1]]
    crc, summary, body = _sealed(one)
    assert repr([*open_sealed(crc, body).rows]) == repr(rows) == repr([*one.rows])
    assert msgspec.json.decode(summary) == summary_of(Batch("p", rows=rows)) == summary_of(open_sealed(crc, body))
    nested = in_a_row([one.rows, in_a_row([one.rows, by_columns(rows)])])
    assert [*nested] == rows * 3 and (len(parts) == 1 or nested[0] is one.rows[0])
    assert all(column(one.rows, name) == [row[n] for row in rows] for n, name in enumerate(ROW)
               if one.rows.columns[n] is not None)  # fmt: skip


def test_a_batch_of_an_earlier_version_opens_whole(journal):
    """As 0.1.0 wrote it in November 2026, before there were columns."""
    body = (b'["default",[["e1",1763856000000000,1763856000500000,"click","u1",null,null,"web",null,null,"/p",null,200,'
            b'12.5,null,null,true,null,1.0,"{\\"n\\":1}"]],[],[],[["event","web","received","",1]],true,false,null,[],'
            b"[[1763856000000000,1763856001000000,true]]]")  # fmt: skip
    journal.adopt((zlib.crc32(body), b'[["default","event","web","pending","",1]]', body))
    ((_, found),) = stored(journal)
    values = {"id": "e1", "ts": 1763856000000000, "received_at": 1763856000500000, "type": "click", "user_id": "u1",
              "source": "web", "endpoint": "/p", "status_code": 200, "duration_ms": 12.5, "success": True,
              "weight": 1.0, "properties": '{"n":1}'}  # fmt: skip
    assert found.rows == [tuple(values.get(name) for name in ROW)] and found.checked_ids
    assert found.beats == [(1763856000000000, 1763856001000000, True)]


def test_a_batch_of_a_later_version_is_refused_and_stays(journal):
    _, summary, body = _sealed(Batch("p", rows=by_columns([row(1)])))
    assert b'"form":1' in body
    later = body.replace(b'"form":1', b'"form":2')
    journal.adopt((zlib.crc32(later), summary, later))
    with pytest.raises(StoreUnavailable) as caught:
        stored(journal)
    assert caught.value.code == "journal-newer" and journal.positions(0, 9) == [1]


def test_what_knows_only_rows_one_by_one_stops_at_columns():
    _, _, body = _sealed(Batch("p", rows=by_columns([row(1)])))
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(body, type=Batch)


@settings(max_examples=50, deadline=None)
@given(ANY_BATCH, st.data())
def test_a_changed_byte_is_noticed(one, data):
    crc, _, body = _sealed(one)
    place = data.draw(st.integers(0, len(body) - 1))
    changed = body[:place] + bytes([body[place] ^ data.draw(st.integers(1, 255))]) + body[place + 1 :]
    with pytest.raises(StoreDamaged):
        open_sealed(crc, changed)


def test_what_is_acknowledged_is_read_back_in_order_and_after_reopening(journal):
    assert journal.append([batch(row(1)), batch(row(2))]) == [1, 2]
    assert journal.append([batch(row(3))]) == [3]
    assert [(position, found.rows) for position, found in stored(journal)] == [
        (1, [row(1)]),
        (2, [row(2)]),
        (3, [row(3)]),
    ]
    assert journal.positions(1, 10) == [2, 3] and journal.positions(0, 1) == [1]
    again = Journal(journal.path, max_bytes=MB)
    assert again.id == journal.id
    assert [position for position, _ in stored(again, 2)] == [3]
    again.close()


def test_the_summary_says_what_a_batch_will_add(journal):
    journal.append(
        [
            batch(
                row(1, "s"),
                row(2),
                row(3),
                samples=[(1, 1, "m", "gauge", 1.0, None)],
                counts=[["event", None, "received", "", 3]],
            )
        ]
    )
    expected = [
        ["p", "event", "s", "pending", "", 1],
        ["p", "event", None, "pending", "", 2],
        ["p", "sample", None, "pending", "", 1],
        ["p", "event", None, "received", "", 3],
    ]
    assert sorted(journal.summary(1), key=str) == sorted(expected, key=str) == sorted(journal.pending(0), key=str)
    assert journal.pending(1) == []


def test_positions_are_never_used_twice(journal):
    journal.append([batch(row(n)) for n in range(5)])
    journal.forget_up_to(5)
    assert journal.sizes()["batches"] == 0
    assert journal.append([batch(row(9))]) == [6]
    journal.continue_after(100)
    journal.continue_after(50)
    assert journal.append([batch(row(10))]) == [101]
    again = Journal(journal.path, max_bytes=MB)
    assert again.append([batch(row(11))]) == [102]
    again.close()


def test_forgotten_batches_give_their_space_back(journal):
    journal.append([batch(*(row(n) for n in range(2_000))) for _ in range(10)])
    full = journal.sizes()["bytes"]
    journal.forget_up_to(10)
    journal._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert journal.sizes()["bytes"] < full / 10
    assert journal.file_bytes() > 0


def test_calls_that_meet_are_committed_together_each_with_its_own_positions(journal):
    got, started = {}, threading.Barrier(8)

    def work(n):
        started.wait()
        for i in range(20):
            got[n, i] = journal.append([batch(row(n * 100 + i)), batch(row(n * 100 + i + 50))])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(position for positions in got.values() for position in positions) == list(range(1, 321))
    kept = {position: found.rows for position, found in stored(journal)}
    for (n, i), positions in got.items():
        assert [kept[position] for position in positions] == [[row(n * 100 + i)], [row(n * 100 + i + 50)]]


def together(journal, calls):
    """Let all calls wait for the same commit; their results or errors in order."""
    results = [None] * len(calls)

    def work(n):
        try:
            results[n] = journal.append(calls[n])
        except BaseException as error:
            results[n] = error

    journal._lock.acquire()
    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(calls))]
    for thread in threads:
        thread.start()
    while len(journal._queue) < len(calls):
        time.sleep(0.001)
    journal._lock.release()
    for thread in threads:
        thread.join(10.0)
        assert not thread.is_alive(), "a call waits for ever"
    return results


def test_a_batch_that_does_not_fit_fails_alone(tmp_path):
    journal = Journal(tmp_path / "x.journal", max_bytes=MB)
    big = batch(*(row(n) for n in range(20_000)))
    results = together(journal, [[batch(row(1))], [big], [batch(row(2))]])
    assert isinstance(results[1], DiskFull)
    assert sorted(results[0] + results[2]) == [position for position, _ in stored(journal)]
    assert {found.rows[0] for _, found in stored(journal)} == {row(1), row(2)}
    assert journal.append([batch(row(3))])
    journal.close()


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, MemoryError, StoreUnavailable("x"), sqlite3.OperationalError("x")]
)
def test_whatever_breaks_a_commit_nobody_waits_for_ever(journal, monkeypatch, error):
    write, calls = journal._write, []

    def failing(group):
        calls.append(len(group))
        raise error

    monkeypatch.setattr(journal, "_write", failing)
    results = together(journal, [[batch(row(1))], [batch(row(2))], [batch(row(3))]])
    assert all(isinstance(result, BaseException) for result in results)
    assert calls[0] == 3
    assert sum(isinstance(result, GnomonError) for result in results) >= 2
    monkeypatch.setattr(journal, "_write", write)
    assert journal.append([batch(row(4))]) and len(stored(journal)) == 1


def test_all_or_none_of_one_call(journal, monkeypatch):
    insert, places = journal._insert, iter([1, 0])

    def failing(entry):
        if not next(places):
            raise sqlite3.OperationalError("disk I/O error")
        return insert(entry)

    monkeypatch.setattr(journal, "_insert", failing)
    with pytest.raises(StoreUnavailable):
        journal.append([batch(row(1)), batch(row(2))])
    assert stored(journal) == []


def test_a_journal_that_is_replaced_under_its_users_is_followed(journal, tmp_path):
    journal.append([batch(row(1))])
    assert len(stored(journal)) == 1
    old = journal.id
    for ending in ("", "-wal", "-shm"):
        Path(f"{journal.path}{ending}").rename(f"{tmp_path}/aside{ending}")
    fresh = Journal(journal.path, max_bytes=MB)
    one = batch(row(2))
    journal.append([one])
    assert one.replayed
    assert [found.rows for _, found in stored(fresh)] == [[row(2)]]
    assert [found.rows for _, found in stored(journal)] == [[row(2)]]
    assert journal.id == fresh.id != old
    fresh.close()


def test_damage_is_found_and_the_rest_is_saved(tmp_path):
    path = tmp_path / "a b?c%20d#.journal"
    check(path)  # what is not there is not damaged
    journal = Journal(path, max_bytes=64 * MB)
    journal.append([batch(row(n)) for n in range(5)])
    journal._db.execute("UPDATE batch SET body = substr(body, 2) WHERE position = 3")
    journal.close()
    check(path)
    found = dict(salvage(path))
    assert [position for position, sealed in found.items() if not holds(sealed)] == [3]
    rows = [open_sealed(sealed[0], sealed[2]).rows[0] for sealed in found.values() if holds(sealed)]
    assert rows == [row(n) for n in (0, 1, 3, 4)]
    path.write_bytes(b"no database at all, and longer than a header" * 100)
    with pytest.raises(StoreDamaged):
        check(path)
    assert list(salvage(path)) == []


def test_a_path_that_cannot_be_opened(tmp_path):
    with pytest.raises(StoreUnavailable):
        Journal(tmp_path / "no" / "x.journal", max_bytes=MB)
    with pytest.raises(StoreDamaged):
        (tmp_path / "bad").write_bytes(b"x" * 10_000)
        Journal(tmp_path / "bad", max_bytes=MB)


def test_errors_in_our_words():
    assert isinstance(_translated(OSError(28, "No space left")), DiskFull)
    assert isinstance(_translated(OSError(122, "quota")), DiskFull)
    assert isinstance(_translated(OSError(5, "I/O")), StoreUnavailable)
    assert isinstance(_translated(sqlite3.OperationalError("locked")), StoreUnavailable)
    plain = RuntimeError()
    assert _translated(plain) is plain


def test_holding_keeps_everybody_out(journal):
    journal.hold()
    done = threading.Event()
    thread = threading.Thread(target=lambda: (journal.append([batch(row(1))]), done.set()))
    thread.start()
    assert not done.wait(0.1)
    journal.let_go()
    assert done.wait(10.0)
    thread.join()


def test_an_append_that_is_not_durable_would_be_found(journal, monkeypatch):
    monkeypatch.setattr(Journal, "_insert", lambda self, entry: 1)
    assert journal.append([batch(row(1))]) == [1]
    assert stored(journal) == []  # what the tests above would not accept


def test_the_last_position_outlives_what_it_was_given_to(journal):
    assert journal.last_position() == 0
    (position,) = journal.append([batch(row())])
    journal.forget_up_to(position)
    assert journal.last_position() == position == 1
    journal.continue_after(40)
    assert journal.last_position() == 40 and journal.append([batch(row())]) == [41]


def test_pending_up_to_a_position(journal):
    for number in range(4):
        journal.append([batch(row(number, source=f"s{number}"))])
    assert [entry[2] for entry in journal.pending(1, 3)] == ["s1", "s2"]
    assert [entry[2] for entry in journal.pending(1)] == ["s1", "s2", "s3"]


def test_kept_values_are_replaced_all_or_none(journal, monkeypatch):
    journal.keep("a", "1")
    journal.keep("b", "2")
    identity = journal.id
    journal.keep_only({"b": "3", "c": "4"})
    assert journal.all_kept() == {"b": "3", "c": "4"} and journal.id == identity
    with pytest.raises(StoreUnavailable):
        journal.keep_only({"d": "5", "e": None})  # refused by the table, after others were taken
    assert journal.all_kept() == {"b": "3", "c": "4"}
