"""Recording inside a host: it never raises, blocks or grows without bound, whatever it is given; flush and close."""

from __future__ import annotations

import gc
import logging
import math
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gnomon
from gnomon.errors import DiskFull, EngineClosed, InvalidValue, StoreUnavailable
from gnomon.ingest.collector import Collector
from gnomon.testing import ManualClock, strict_engine


class Spiteful:
    """Raises from everything that can be asked of it, as a context-bound proxy outside its context does."""

    def __getattribute__(self, name):
        raise RuntimeError(name)

    def _raise(self, *_):
        raise RuntimeError

    __eq__ = __hash__ = __bool__ = __len__ = __str__ = __repr__ = __iter__ = __lt__ = __int__ = __float__ = (
        __index__
    ) = __format__ = _raise


class SpitefulMapping(Mapping):
    def __getitem__(self, key):
        raise RuntimeError

    def __iter__(self):
        raise RuntimeError

    def __len__(self):
        raise RuntimeError


class SpitefulText(str):
    def encode(self, *_):
        raise RuntimeError

    def __len__(self):
        raise RuntimeError

    def __eq__(self, other):
        raise RuntimeError

    __hash__ = str.__hash__


RING = {}
RING["ring"] = RING
ODD = [
    Spiteful(),
    SpitefulMapping(),
    SpitefulText("x"),
    RING,
    object(),
    b"x",
    10**5_000,
    math.nan,
    [RING],
    {1: 2},
    {"a": Spiteful()},
    {Spiteful: 1},
    lambda: 1,
    datetime(2026, 1, 1),
    float("-inf"),
    "\ud800",
    "\0",
    (),
    set(),
    iter([]),
    type,
    Exception("x"),
]
FIELDS = [
    "type",
    "user_id",
    "device_id",
    "session_id",
    "source",
    "application",
    "domain",
    "endpoint",
    "method",
    "status_code",
    "duration_ms",
    "bytes_sent",
    "bytes_received",
    "success",
    "error_code",
    "weight",
    "properties",
    "id",
    "ts",
]


@pytest.fixture
def engine():
    with gnomon.open(":memory:", clock=ManualClock(), flush_seconds=60.0) as opened:
        yield opened


@pytest.mark.parametrize("field", [*FIELDS, "url"])
def test_no_value_in_any_field_raises_into_the_host_or_takes_its_neighbours_along(engine, field):
    for value in ODD:
        engine.track("before")
        engine.record_request(**{field: value})
        if field != "url":
            engine.track(**{"type": "t", field: value})
    engine.track("after")
    engine.flush()
    books = engine.books()
    assert books.closes()
    assert books.received == len(ODD) * (2 if field == "url" else 3) + 1
    assert engine.query(["events"], filters=[["is", "type", ["before"]]]).rows[0]["events"] == len(ODD)
    assert engine.query(["events"], filters=[["is", "type", ["after"]]]).rows[0]["events"] == 1
    assert all(isinstance(entry["event"], str) and len(entry["event"]) <= 2_000 for entry in engine.quarantine())


@pytest.mark.parametrize("field", ["name", "value", "kind", "labels", "ts"])
def test_nor_in_any_field_of_a_sample(engine, field):
    for value in ODD:
        engine.record_metric("before", 1)
        engine.record_metric(**{"name": "m", "value": 1, field: value})
        engine.track("event")
    engine.flush()
    samples = engine.books("sample")
    assert samples.closes() and samples.received == 2 * len(ODD)
    assert engine.query(["events"]).rows[0]["events"] == len(ODD)
    found = engine.query(["samples"], ["name"], dataset="samples")
    assert {row["name"]: row["samples"] for row in found}["before"] >= len(ODD)


def test_a_full_buffer_and_an_odd_source_do_not_raise_either(engine):
    engine._busy_at = 0
    with engine._flush_lock:
        engine._crowded = lambda *_: (_ for _ in ()).throw(RuntimeError)
        for value in ODD:
            engine.track("t", source=value)
            engine.record_request(source=value)
            engine.record_metric("m", 1)
        del engine._crowded
    engine.flush()
    assert engine.books().closes()
    assert engine.books().shed["recorder-fault"] == 2 * len(ODD)
    assert engine.books("sample").shed["recorder-fault"] == len(ODD)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.sampled_from(FIELDS),
        st.one_of(st.none(), st.text(), st.integers(), st.floats(), st.booleans(), st.binary(), st.lists(st.text())),
    )
)
def test_any_call_is_booked(engine, fields):
    before = engine.books().received
    engine.track(**{"type": "t", **fields})
    engine.flush()
    books = engine.books()
    assert books.closes() and books.received == before + 1


def test_properties_are_those_of_the_moment(engine):
    given_ = {"a": 1}
    engine.track("t", properties=given_)
    given_["a"] = 2
    engine.flush()
    assert engine.query(["events"], ["properties.a"]).to_dicts() == [{"properties.a": 1, "events": 1}]


@pytest.mark.parametrize(
    ("url", "domain", "endpoint"),
    [
        ("https://example.com/a?b=c#d", "example.com", "/a"),
        ("https://user:secret@example.com:8443/x", "example.com:8443", "/x"),
        ("https://EXAMPLE.com", "example.com", "/"),
        ("/only/path?token=secret", None, "/only/path"),
        ("http://[::1]:80/", "::1:80", "/"),
        ("", None, None),
    ],
)
def test_a_url_leaves_its_host_and_path_only(engine, url, domain, endpoint):
    engine.record_request(url=url)
    engine.flush()
    row = engine.query(["events"], ["domain", "endpoint"]).rows[0]
    assert (row["domain"], row["endpoint"]) == (domain, endpoint)


@pytest.mark.parametrize("url", ["http://[bad", "http://x:port/", 5, b"http://x/", [], "http://x:99999/"])
def test_a_url_that_cannot_be_taken_apart_is_refused(engine, url):
    engine.record_request(url=url)
    engine.flush()
    assert engine.books().rejected.total() == 1


def test_given_domain_and_endpoint_win_over_the_url(engine):
    engine.record_request(url="http://x/a/17", domain="d", endpoint="/a/{id}")
    engine.flush()
    assert engine.query(["events"], ["domain", "endpoint"]).to_dicts() == [
        {"domain": "d", "endpoint": "/a/{id}", "events": 1}
    ]


@pytest.mark.parametrize(
    ("fields", "success"),
    [
        ({"status_code": 200}, True),
        ({"status_code": 399}, True),
        ({"status_code": 400}, False),
        ({"status_code": 599}, False),
        ({}, None),
        ({"error_code": "timeout"}, False),
        ({"status_code": 200, "error_code": "x"}, True),
        ({"status_code": 500, "success": True}, True),
        ({"error_code": "x", "success": True}, True),
        ({"success": False}, False),
    ],
)
def test_the_outcome(engine, fields, success):
    engine.record_request(**fields)
    engine.flush()
    assert engine.query(["events"], ["success"]).to_dicts() == [{"success": success, "events": 1}]


def test_events_are_written_by_themselves_after_a_moment():
    with gnomon.open(":memory:", flush_seconds=0.02) as engine:
        engine.track("t")
        until = time.monotonic() + 10
        while not engine.query(["events"]).rows[0]["events"]:
            assert time.monotonic() < until
            time.sleep(0.01)


def test_a_long_buffer_is_written_at_once():
    with gnomon.open(":memory:", flush_seconds=600.0, flush_events=50) as engine:
        for _ in range(60):
            engine.track("t")
        until = time.monotonic() + 10
        while not engine.query(["events"]).rows[0]["events"]:
            assert time.monotonic() < until
            time.sleep(0.01)


def test_many_threads_lose_nothing(engine):
    def work(n):
        for i in range(500):
            engine.track("t", source=f"s{n}", duration_ms=float(i))
            if i % 100 == 0:
                engine.flush()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    engine.flush()
    found = engine.query(["events", "sum_duration_ms"], ["source"])
    assert {(row["events"], row["sum_duration_ms"]) for row in found} == {(500, sum(range(500)))} and len(found) == 6
    assert engine.books().closes()


# -- when the journal fails -------------------------------------------------------------------------------------------


def test_what_could_not_be_made_durable_is_kept_and_tried_again(engine, monkeypatch):
    append = engine._journal.append
    monkeypatch.setattr(engine._journal, "append", lambda batches: (_ for _ in ()).throw(DiskFull("full")))
    engine.track("t")
    with pytest.raises(DiskFull):
        engine.flush()
    engine.track("u")
    assert engine.waiting().total() == 2
    assert engine.books().pending == 2 and engine.books().closes()
    with pytest.raises(DiskFull):
        engine.flush()
    monkeypatch.setattr(engine._journal, "append", append)
    engine.flush()
    assert engine.books().stored == 2 and engine.waiting().total() == 0


def test_memory_stays_bounded_while_the_journal_fails(monkeypatch):
    with gnomon.open(":memory:", clock=ManualClock(), flush_seconds=0.01, flush_events=10, buffer_events=100) as engine:
        append = engine._journal.append
        monkeypatch.setattr(engine._journal, "append", lambda batches: (_ for _ in ()).throw(DiskFull("full")))
        for n in range(2_000):
            engine.track("t")
            if n % 100 == 0:
                time.sleep(0.005)
        assert engine.waiting().total() <= 2 * 100 + 10
        monkeypatch.setattr(engine._journal, "append", append)
        engine.flush()
        books = engine.books()
        assert books.closes() and books.received == 2_000
        assert books.shed["buffer-full"] >= 1_700


def test_the_thread_goes_on_after_a_failure(monkeypatch):
    with gnomon.open(":memory:", flush_seconds=0.01) as engine:
        append, failures = engine._journal.append, iter([DiskFull("x"), StoreUnavailable("x"), RuntimeError("x")])

        def failing(batches):
            for error in failures:
                raise error
            return append(batches)

        monkeypatch.setattr(engine._journal, "append", failing)
        engine.track("t")
        until = time.monotonic() + 20
        while not engine.query(["events"]).rows[0]["events"]:
            assert time.monotonic() < until
            time.sleep(0.01)


# -- closing ----------------------------------------------------------------------------------------------------------


def test_closing_writes_what_waits_and_may_be_done_twice(tmp_path):
    engine = gnomon.open(tmp_path / "x.duckdb", flush_seconds=600.0)
    engine.track("t")
    engine.close()
    engine.close()
    with gnomon.open(tmp_path / "x.duckdb") as again:
        assert again.query(["events"]).rows[0]["events"] == 1


def test_after_closing_recording_is_silent_and_asking_refused(tmp_path):
    engine = gnomon.open(tmp_path / "x.duckdb")
    engine.close()
    engine.track("t")
    engine.record_request()
    engine.record_metric("m", 1)
    for ask in (
        lambda: engine.query(["events"]),
        engine.flush,
        engine.books,
        engine.health,
        engine.quarantine,
        lambda: engine.import_file("x.csv"),
    ):
        with pytest.raises(EngineClosed):
            ask()


def test_closing_with_a_full_disk_says_so_and_ends(tmp_path, monkeypatch, caplog):
    engine = gnomon.open(tmp_path / "x.duckdb", flush_seconds=600.0)
    engine.track("t")
    monkeypatch.setattr(engine._journal, "append", lambda batches: (_ for _ in ()).throw(DiskFull("full")))
    with caplog.at_level(logging.ERROR, "gnomon.engine"):
        engine.close()
    assert "could not be made durable" in caplog.text


def test_no_thread_is_left_behind():
    gc.collect()
    before = set(threading.enumerate())
    for _ in range(3):
        with gnomon.open(":memory:") as engine:
            engine.track("t")
            engine.flush()
            engine.query(["events"])
    until = time.monotonic() + 20
    while (left := set(threading.enumerate()) - before) and time.monotonic() < until:
        time.sleep(0.01)
    assert not left


# -- the strict engine of the testing kit -----------------------------------------------------------------------------


def test_a_strict_engine_raises_what_would_have_been_quarantined():
    with strict_engine(ManualClock(datetime(2026, 1, 1, tzinfo=UTC)), project="shop") as engine:
        engine.track("t", properties={"a": 1})
        with pytest.raises(InvalidValue, match="type"):
            engine.track("")
        with pytest.raises(InvalidValue):
            engine.record_metric("m", math.nan)
        engine.record_metric("m", 1)
        engine.flush()
        assert engine.query(["events"]).rows[0]["events"] == 1
        assert engine.books().received == 1


def test_a_clock_that_a_test_moves():
    clock = ManualClock()
    with strict_engine(clock) as engine:
        engine.track("t")
        engine.flush()
        assert engine.query(["events"], date_range="1h").rows[0]["events"] == 1
        clock.advance(hours=2)
        assert engine.query(["events"], date_range="1h").rows[0]["events"] == 0


def test_a_recorder_that_raises_is_found(monkeypatch, engine):
    monkeypatch.setattr(Collector, "_lost", lambda *_, **__: (_ for _ in ()).throw(RuntimeError))
    with pytest.raises(RuntimeError):
        engine.track("t", properties=SpitefulMapping())


def test_events_that_a_fault_of_ours_takes_along_are_in_the_books(engine, monkeypatch):
    engine.track("t")
    engine.track("u")
    with monkeypatch.context() as patched, pytest.raises(RuntimeError):
        patched.setattr(engine, "_admit", lambda calls: (_ for _ in ()).throw(RuntimeError))
        engine.flush()
    engine.flush()
    assert engine.books().closes() and dict(engine.books().shed) == {"recorder-fault": 2}


def test_the_first_call_does_not_wait_for_a_flush_that_waits_for_the_disk():
    with gnomon.open(":memory:", clock=ManualClock()) as engine, engine._flush_lock:
        thread = threading.Thread(target=engine.track, args=("t",))
        thread.start()
        thread.join(5.0)
        assert not thread.is_alive()
