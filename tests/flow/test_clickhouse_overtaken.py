"""A writer on a ClickHouse server that stands still right behind its look at the lock, and goes on when another one has
written: what it recorded is there once, and so is what the other one did."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest
from test_clickhouse import batch, held

import gnomon
from gnomon.config import Settings
from gnomon.errors import GnomonError
from gnomon.store import open_store
from gnomon.store.clickhouse import leases, ledger

#: Records twenty events, then twenty of which the write stops where it is told, before the insert; then five more.
CHILD = """
import os, signal, sys, time
from contextlib import suppress
import gnomon
from gnomon.errors import GnomonError
from gnomon.store.clickhouse import connecting

url, folder, place = sys.argv[1:]
honest, armed = connecting.Remote.put, []

def put(self, table, columns, settings):
    burning = table == "state_log" and any(key.startswith("burnt:") for key in columns[0][2])
    if armed and place == ("burn" if burning else table):
        armed.clear()
        print("stops", flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)
    return honest(self, table, columns, settings)

connecting.Remote.put = put
engine = gnomon.open(url, data_dir=folder, sampling=False, heartbeat_seconds=0)

def record(first, last):
    for n in range(first, last):
        engine.track("t", id=f"child{n}", user_id=f"u{n}")
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with suppress(GnomonError):
            engine.flush()
            return

record(0, 20)
print("first", flush=True)
sys.stdin.readline()
armed.append(1)
record(20, 40)
record(40, 45)
print("done", flush=True)
engine.close()
"""


def recorded(engine, name, first, last):
    for n in range(first, last):
        engine.track("t", id=f"{name}{n}", user_id=f"u{n}")
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with suppress(GnomonError):
            engine.flush()
            return


def overtake(url, folder, place):
    """What the store holds in the end: each id with how often it is there, the books, and whether they close."""
    with gnomon.open(url, data_dir=str(folder / "parent"), sampling=False, heartbeat_seconds=0) as engine:
        (folder / "child").mkdir()
        child = subprocess.Popen([sys.executable, "-c", CHILD, url, str(folder / "child"), place],
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # fmt: skip
        try:
            assert child.stdout.readline() == "first\n"
            recorded(engine, "parent", 0, 10)  # so that the child is not the last one who wrote
            child.stdin.write("\n")
            child.stdin.flush()
            assert child.stdout.readline() == "stops\n"
            os.waitpid(child.pid, os.WUNTRACED)
            stopped = time.monotonic()
            recorded(engine, "parent", 10, 20)
            assert time.monotonic() - stopped > leases.BROKEN_SECONDS - leases.RENEWED_SECONDS
            recorded(engine, "parent", 20, 30)
            child.send_signal(signal.SIGCONT)
            recorded(engine, "parent", 30, 35)
            assert child.stdout.readline() == "done\n"
            assert child.wait(60) == 0
        finally:
            child.kill()
            child.wait()
            child.stdin.close()
            child.stdout.close()
        rows = engine._hold.store.ask(["SELECT id_text, count(*) FROM events GROUP BY 1"], 20.0)[0].rows
        books = engine.books()
        return dict(rows), books.stored, books.closes()


ALL = (dict.fromkeys([*(f"parent{n}" for n in range(35)), *(f"child{n}" for n in range(45))], 1), 80, True)


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("place", ["burn", "events", "books", "state_log"])
def test_a_writer_that_is_overtaken_loses_and_doubles_nothing(clickhouse, tmp_path, place):
    assert overtake(clickhouse.url(), tmp_path, place) == ALL


@pytest.mark.parametrize("token", ["number", pytest.param("author", id="broken")])
def test_a_number_is_decided_once(clickhouse, token):
    store = open_store(clickhouse.url(), Settings())
    try:
        store.write([(1, batch("a"))], "j")
        number, con = store._newest(None).committed, store._connect()
        entries = {f"{ledger.BURNT}{number}": "another"}
        columns = [
            ("key", "String", [*entries]),
            ("value", "String", [*entries.values()]),
            ("batch", "Int64", [number]),
        ]
        if token == "number":
            ledger.put_state(con, entries, number, store._session)  # of one who looked before the write
        else:
            con.put("state_log", columns, {**store._session, "insert_deduplication_token": "another"})
        assert (held(store)[0] == (1, 1)) is (token == "number")
        assert (store.position("j") == 1) is (token == "number")
        con.close()
    finally:
        store.close()
