"""Two set the retention policy at the same moment: neither loses what the other one sets, a legal hold least of all."""

from __future__ import annotations

import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import pytest

import gnomon
from gnomon.errors import InvalidValue
from gnomon.ingest.hold import Hold
from gnomon.store import Served
from gnomon.upkeep import retention

HELD = datetime.now(UTC) + timedelta(days=30)

#: A process that has read the policy waits until it is told to go on, and then sets days.
SETS_DAYS = """
import sys, gnomon
from gnomon.upkeep import retention
merged, first = retention.changed, []
def slowly(*given):
    if not first:
        first.append(print("read", flush=True))
        sys.stdin.readline()
    return merged(*given)
retention.changed = slowly
with gnomon.open(sys.argv[1], data_dir=sys.argv[2]) as engine:
    engine.set_retention_policy(raw_data_days=30)
"""


@pytest.fixture(params=["file", "postgres, two data_dirs", "postgres, one data_dir", "clickhouse, two data_dirs"])
def places(request, tmp_path):
    """The store with its data_dir for each of two processes."""
    server, _, dirs = request.param.partition(", ")
    url = str(tmp_path / "s.duckdb") if server == "file" else request.getfixturevalue(server).url()
    return [(url, str(tmp_path / "one")), (url, str(tmp_path / ("two" if dirs == "two data_dirs" else "one")))]


def opened(place):
    return gnomon.open(place[0], data_dir=place[1], sampling=False)


def with_two_processes(places):
    """What is kept where one process sets a hold while another one is about to set days."""
    with opened(places[0]) as engine:
        with subprocess.Popen([sys.executable, "-c", SETS_DAYS, *places[1]], text=True,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:  # fmt: skip
            assert other.stdout.readline() == "read\n"
            engine.set_legal_hold(HELD)
            other.communicate("go on\n", timeout=60)
        assert other.returncode == 0
        engine.track("a", ts=datetime.now(UTC) - timedelta(days=6))
        engine.flush()
        with pytest.raises(InvalidValue) as refused:
            engine.prune()
        assert refused.value.code == "legal-hold"
        engine._hold.look_at_kept()
        return engine.get_retention_policy()


def test_processes(places):
    found = with_two_processes(places)
    assert (found.raw_data_days, found.legal_hold_until) == (30, HELD)


def with_threads(place, monkeypatch):
    """What is kept where one thread sets a hold while another one has read the policy."""
    merged, has_read, go_on = retention.changed, threading.Event(), threading.Event()

    def slowly(*given):
        if threading.current_thread().name == "slow" and not has_read.is_set():
            has_read.set()
            assert go_on.wait(30)
        return merged(*given)

    monkeypatch.setattr(retention, "changed", slowly)
    with opened(place) as engine:
        slow = threading.Thread(target=lambda: engine.set_retention_policy(raw_data_days=30), name="slow")
        slow.start()
        assert has_read.wait(30)
        engine.set_legal_hold(HELD)
        go_on.set()
        slow.join()
        told = [entry.detail for entry in engine.get_access_log("all") if entry.operation == "set_retention_policy"]
        return engine.get_retention_policy(), told


def test_threads(places, monkeypatch):
    found, told = with_threads(places[0], monkeypatch)
    assert (found.raw_data_days, found.legal_hold_until) == (30, HELD)
    assert found.plain() in told  # the audit says what was kept


def blindly(hold, key, change):
    """The deliberately broken one: nobody looks whether what was read is still kept."""
    hold.journal.keep(key, change(hold.kept_now(key)))


def test_a_policy_that_is_kept_blindly_is_found(places, monkeypatch):
    monkeypatch.setattr(Hold, "change_kept", blindly)
    assert with_threads(places[0], monkeypatch)[0].legal_hold_until is None


def test_a_hold_is_seen_by_who_deletes_before_it_is_seen_here(postgres, tmp_path, monkeypatch):
    url = postgres.url()
    first, second = (opened((url, str(tmp_path / name))) for name in ("one", "two"))
    with first, second:
        monkeypatch.setattr(Hold, "look_at_kept", lambda _: None)  # as where an older look is written after it
        first.set_legal_hold(HELD)
        for refused in (second.prune, lambda: second.forget("u1")):
            with pytest.raises(InvalidValue, match="legal-hold"):
                refused()


def test_a_store_on_a_server_keeps_a_value_only_instead_of_what_was_read(places):
    with opened(places[0]) as engine:
        store = engine._hold.store
        if not isinstance(store, Served):
            return
        assert not store.keep_instead("k", "a", "b") and "k" not in store.all_kept()
        assert store.keep_instead("k", None, "a") and not store.keep_instead("k", None, "b")
        assert store.keep_instead("k", "a", "c") and not store.keep_instead("k", "a", "d")
        assert store.all_kept()["k"] == "c"
