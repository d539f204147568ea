"""The gate: what it lets pass comes back from the store as it was, and the ids that it makes."""

from __future__ import annotations

import hashlib
import json
import threading
import uuid

import pytest
from gate_allowed import LIMITS, NOW_US, call, plain, text_ok
from gate_calls import ANY_CALL, GOOD_CALL
from hypothesis import given, settings
from hypothesis import strategies as st

from gnomon.config import Settings
from gnomon.event import FIELDS, ROW, Batch
from gnomon.ingest import gate as gates
from gnomon.ingest import proof
from gnomon.ingest.collector import batch_from
from gnomon.ingest.gate import CALL, Gate
from gnomon.ingest.journal import _sealed, open_sealed
from gnomon.store.duckdb import DuckDBStore

# -- the way back -----------------------------------------------------------------------------------------------------

_STORED = [name if name != "id" else "coalesce(id_text, id::VARCHAR)" for name in ROW]
_STORED = [f"epoch_us({name})" if name in ("ts", "received_at") else name for name in _STORED]


@pytest.fixture(scope="module")
def store():
    opened = DuckDBStore(":memory:", LIMITS)
    yield opened
    opened.close()


def through_the_store(store, calls):
    """The rows of the calls as the store gives them back, by id; and what the gate made of them."""
    admitted = Gate(LIMITS, lambda: NOW_US).admit_calls(calls)
    project = uuid.uuid4().hex
    batch = Batch(project)
    batch_from(batch, admitted, NOW_US)
    crc, _, body = _sealed(batch)
    read = open_sealed(crc, body)  # what another process would read from the journal
    store.write([(1, read)], project)
    sql = f"SELECT {', '.join(_STORED)} FROM events WHERE project = '{project}'"
    return {row[0]: row for row in store.ask([sql], 10.0)[0].rows}, admitted.rows


def kept_as(row):
    """A row as the store must give it back: the same values, reals as doubles."""
    reals = {field.name for field in FIELDS if field.kind == "real"}
    return tuple(float(v) if v is not None and n in reals else v for n, v in zip(ROW, row, strict=True))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(GOOD_CALL, ANY_CALL), min_size=1, max_size=12))
def test_what_passes_is_kept_as_it_was(store, calls):
    place = CALL.index("id")
    calls = [(*one[:place], f"{n}", *one[place + 1 :]) for n, one in enumerate(calls)]
    found, rows = through_the_store(store, calls)
    assert len(found) == len(rows)
    for row in rows:
        assert repr(found[row[0]]) == repr(
            tuple(map(gates.exact, kept_as(row)))
        )  # repr: -0.0 is not 0.0, 1 is not True
        given_ = calls[int(row[0])][CALL.index("properties")]
        if given_:
            assert repr(json.loads(found[row[0]][-1])) == repr(plain(given_))


TWIN = "a text whose MD5 is another event's id"
ODD_IDS = [
    "0198c0de-0000-7000-8000-0123456789ab",
    "0198C0DE-0000-7000-8000-0123456789AB",
    "0198c0de00007000800000123456789a",
    "{0198c0de-0000-7000-8000-0123456789ab}",
    "urn:uuid:0198c0de-0000-7000-8000-0123456789ab",
    " 0198c0de-0000-7000-8000-0123456789ab",
    "0198c0de-0000-7000-8000-0123456789ab ",
    "0198c0de-00007000-8000-0123456789ab",
    str(uuid.UUID(int=0)),
    str(uuid.UUID(int=2**128 - 1)),
    "a",
    "A",
    "ä",
    "a\u0308",
    "Ä",
    "ß",
    "ss",
    "İ",
    "i",
    "null",
    "NULL",
    "0",
    "00",
    "1e3",
    "1000",
    "true",
    " ",
    "'",
    "''",
    "\\",
    "%",
    "_",
    "\n",
    "\r\n",
    "\t",
    "\U0001f600",
    "\u200b",
    "x" * 200,
    TWIN,
    str(uuid.UUID(hashlib.md5(TWIN.encode()).hexdigest())),
]


def test_every_id_is_kept_and_told_apart(store):
    found, rows = through_the_store(store, [call(id=text) for text in ODD_IDS])
    assert sorted(found) == sorted(ODD_IDS) == sorted(row[0] for row in rows)


@settings(max_examples=30, deadline=None)
@given(
    st.sets(
        st.text(min_size=1, max_size=40) | st.uuids().map(str) | st.uuids().map(lambda u: u.hex.upper()), max_size=30
    )
)
def test_any_id_is_kept(store, ids):
    ids = {text for text in ids if text_ok(text, 200)}
    found, _ = through_the_store(store, [call(id=text) for text in ids])
    assert set(found) == ids


# -- our own ids ------------------------------------------------------------------------------------------------------


def make_ids(batches, threads):
    """All ids of `batches` batches of 5,000 events, made on `threads` threads at once."""
    one_gate = Gate(LIMITS, lambda: NOW_US)
    calls = [call() for _ in range(5_000)]
    made = [[] for _ in range(threads)]

    def work(place):
        for _ in range(batches // threads):
            made[place].append([row[0] for row in one_gate.admit_calls(calls).rows])

    running = [threading.Thread(target=work, args=(place,)) for place in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return [ids for part in made for ids in part]


def test_a_million_own_ids_are_unique_and_ordered_within_a_batch():
    batches = make_ids(200, 4)
    assert len({text for ids in batches for text in ids}) == 1_000_000
    assert all(ids == sorted(ids) for ids in batches)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**48 * 1_000_000 - 1))
def test_an_own_id_is_a_uuid_of_version_7_with_the_time_in_front(at_ns):
    clocked = gates.Gate(Settings(), lambda: at_ns // 1_000)
    ((text, *_),) = clocked.admit_calls([("t", *[None] * 14, 1.0, None, None, None, at_ns, None)]).rows
    found = uuid.UUID(text)
    assert str(found) == text
    assert (found.version, found.variant) == (7, uuid.RFC_4122)
    assert found.int >> 80 == at_ns // 1_000_000


def test_ids_without_randomness_would_be_found(monkeypatch):
    monkeypatch.setattr(proof.os, "urandom", lambda n: b"\5" * n)
    batches = make_ids(4, 2)
    assert len({text for ids in batches for text in ids}) < 20_000
