"""A store on a PostgreSQL server that records, by an engine or by programs, and what the database has of it then."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import gnomon
from gnomon.errors import StoreUnavailable

HERE = Path(__file__).parent
QUICK = gnomon.Settings(flush_seconds=0.01, checkpoint_seconds=0.2)


def opened(url, folder, **more):
    return gnomon.open(url, settings=QUICK, data_dir=str(folder), project="kill", **more)


class Recorder(threading.Thread):
    """Records numbered events until told to stop."""

    def __init__(self, engine, pause=0.002):
        super().__init__(daemon=True)
        self.engine, self.pause, self.done, self.over = engine, pause, 0, threading.Event()
        self.start()

    def run(self):
        while not self.over.is_set():
            for _ in range(20):
                self.engine.track("tick", source=f"s{self.done % 3}", weight=1 + self.done % 2)
                self.done += 1
            self.engine.record_metric("depth", self.done, kind="gauge")
            time.sleep(self.pause)

    def end(self):
        self.over.set()
        self.join()
        return self.done


def tolerant_flush(engine, seconds=60):
    until = time.monotonic() + seconds
    while True:
        try:
            return engine.flush(timeout=5)
        except StoreUnavailable:
            if time.monotonic() > until:
                raise


def counted(server, url):
    """Events, distinct ids, samples, and the books, as the database itself has them."""
    schema = url.rpartition("schema=")[2]
    with server.connect() as con:
        con.execute(f"SET search_path = {schema}")
        events = con.execute("SELECT count(*), count(DISTINCT (id, id_text)) FROM events").fetchone()
        samples = con.execute("SELECT count(*), count(DISTINCT value) FROM samples").fetchone()
        books = con.execute("SELECT kind, outcome, sum(n)::bigint FROM books GROUP BY kind, outcome").fetchall()
    return events, samples, {(kind, outcome): n for kind, outcome, n in books}


def check(server, url, events, samples):
    found, measured, books = counted(server, url)
    assert found == (events, events)
    assert measured == (samples, samples)
    assert books["event", "received"] == books["event", "stored"] + books.get(("event", "duplicate"), 0)
    assert books["event", "stored"] == events and books["event", "received"] == events


def start(url, folder, ledger, first, count, *more):
    words = [sys.executable, str(HERE / "pg_recording.py"), url, str(folder), str(ledger), str(first), str(count)]
    child = subprocess.Popen([*words, *more], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"up\n"
    return child


def promised(ledger):
    lines = [line.split() for line in ledger.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return {n for first, after in lines for n in range(int(first), int(after))}


def numbers(server, url):
    with server.connect() as con:
        rows = con.execute(f"SELECT (properties::json ->> 'n')::int FROM {url.rpartition('=')[2]}.events").fetchall()
    return sorted(n for (n,) in rows if n is not None)
