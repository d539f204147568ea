"""Gaps with real processes: a recorder that is killed leaves null behind it, one that idles leaves 0."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import gnomon
from gnomon.ingest.heartbeat import Heartbeat
from gnomon.query.gaps import read_alive
from gnomon.testing import ManualClock

PROGRAM = Path(__file__).with_name("beating.py")
START = datetime(2026, 3, 27, 12, tzinfo=UTC)  # Berlin's clocks change two days later


@contextmanager
def child(store, now, period, *what):
    """A recorder that has said it is up; killed at the end, in the middle of whatever it does."""
    words = [sys.executable, str(PROGRAM), str(store), now, str(period), *what]
    began = time.monotonic()
    with subprocess.Popen(words, stdout=subprocess.PIPE) as running:
        assert running.stdout.readline() == b"up\n"
        yield running
        os.kill(running.pid, signal.SIGKILL)
        running.wait()
        running.lived = time.monotonic() - began


def alive_seconds(store):
    with gnomon.open(store, project="beat", enabled=False) as engine:
        return [(last - first) / 1e6 for first, last in read_alive(engine._own_or_refuse(), "beat", 10.0)]


def days(engine, zone="UTC"):
    found = engine.query(["events"], ["time:day"], ["2026-03-26", "2026-04-03"], timezone=zone)
    return [row["events"] for row in found]


def killed_then_asked(store):
    with child(store, START.isoformat(), 60, "record"):
        pass
    clock = ManualClock(START + timedelta(days=3))
    with gnomon.open(store, project="beat", clock=clock) as engine:
        for zone in ("UTC", "Europe/Berlin", "Asia/Kathmandu"):
            # nothing known, the event, two days without anybody, today, and days that have not begun
            assert days(engine, zone) == [0, 1, None, None, 0, None, None, None], zone
        clock.advance(days=2)  # idle, and there
        assert days(engine) == [0, 1, None, None, 0, 0, 0, None]
        hours = engine.query(["events"], ["time:hour"], ["2026-03-27", "2026-03-31"], timezone="Europe/Berlin")
        assert [row["events"] for row in hours].count(None) == len(hours) - 14 - 10 and len(hours) == 95
        engine.track("late", ts=START + timedelta(days=1))
        engine.flush()
        assert days(engine) == [0, 1, 1, None, 0, 0, 0, None]


def test_a_killed_recorder_leaves_null_and_an_idle_one_zero(tmp_path):
    killed_then_asked(tmp_path / "x.duckdb")


def test_without_beats_the_time_after_a_kill_would_be_zero(tmp_path, monkeypatch):
    monkeypatch.setattr("gnomon.query.inquiry.with_own", lambda alive, own, slack: ())
    with pytest.raises(AssertionError):
        killed_then_asked(tmp_path / "x.duckdb")


def test_without_its_own_span_an_idle_engine_would_show_gaps(tmp_path, monkeypatch):
    monkeypatch.setattr(Heartbeat, "span", lambda self: None)
    monkeypatch.setattr(Heartbeat, "due", lambda self, recorded: False)
    with pytest.raises(AssertionError):
        killed_then_asked(tmp_path / "x.duckdb")


@pytest.mark.parametrize("what", [(), ("record",)])
def test_an_owner_beats_while_it_idles_and_the_last_beat_survives_a_kill(tmp_path, what):
    with child(tmp_path / "x.duckdb", "now", 0.1, *what) as running:
        time.sleep(1.5)
    (seconds,) = alive_seconds(tmp_path / "x.duckdb")
    assert 1.0 < seconds <= running.lived


def test_a_recorder_that_does_not_own_the_store_beats_through_the_writer_of_the_one_that_does(tmp_path):
    store = tmp_path / "x.duckdb"
    with gnomon.open(store, project="beat", enabled=False) as engine:  # owns, and is not there itself
        with child(store, "now", 0.1, "record") as running:
            up = datetime.now(UTC).replace(second=0, microsecond=0)
            time.sleep(1.5)
            now = engine.query(["events"], ["time:minute"], "1h").to_dicts()
            (there,) = [row["events"] for row in now if datetime.fromisoformat(str(row["time:minute"])) == up]
            assert there is not None
            assert engine.health().facts["last_heartbeat"] != "-"
        began = time.monotonic()
        while not engine.query(["events"], date_range="24h").basis.uncollected_seconds > 0.5:
            assert time.monotonic() - began < 20  # it died: the time since then is not collected
            time.sleep(0.05)
    (seconds,) = alive_seconds(store)
    assert 1.0 < seconds <= running.lived


def test_two_recorders_and_one_killed_are_one_span(tmp_path):
    store = tmp_path / "x.duckdb"
    with child(store, "now", 0.1, "record"):
        with child(store, "now", 0.1, "record"):
            time.sleep(0.6)
        time.sleep(0.9)
    (seconds,) = alive_seconds(store)
    assert seconds > 1.0
