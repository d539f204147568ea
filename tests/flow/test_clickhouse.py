"""The embedded ClickHouse as the store of an engine: killed, forgotten people, forks, other processes.

Its stores are databases in one folder, as a process opens one only (`test_store.embedded_folder`), but where files are
looked at or another process comes.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from test_forgotten_files import ID, ROLLUPS, TEXTS, holding
from test_kill import Torture

import gnomon
from gnomon.config import Settings
from gnomon.errors import GnomonError, InvalidValue, StoreDamaged, StoreUnavailable
from gnomon.event import ROW, Batch
from gnomon.store import clickhouse, open_store
from gnomon.store.clickhouse import changing, connecting, ledger
from gnomon.store.clickhouse.connecting import Embedded

NOW = 1_768_478_400_000_000
KILLS = 200


class Racked(Torture):
    """See `Torture`; each store is a folder of its own, of which a process has one open at a time."""

    RUNS, STARTS = 0.8, 3.0

    def __init__(self, folder: Path, seed: int, broken: str | None = None) -> None:
        super().__init__(folder, seed, broken)
        self.store = f"chdb://{folder}/k{seed}"

    def verdict(self) -> dict[str, int]:
        with gnomon.open(self.store, project="kill", settings=gnomon.Settings()) as engine:
            asked = "SELECT JSONExtractInt(properties, 'n'), count(*) FROM events GROUP BY 1"
            counts = dict(engine._hold.store.ask([asked], 60)[0].rows)
            promised, books = self.promised(), engine.books()
            return {
                "lost": sum(n not in counts for n in promised),
                "doubled": sum(count > 1 for count in counts.values()),
                "unbooked": int(not books.closes()) + abs(books.stored - sum(counts.values())),
                "queryable": abs(engine.query(["events"])[0]["events"] - sum(counts.values())),
            }


def torture(folder, kills, checks):
    rack = Racked(folder, 1)
    wrong = {"lost": 0, "doubled": 0, "unbooked": 0, "queryable": 0}
    for place in range(kills):
        rack.start()
        rack.kill()
        if (place + 1) % max(1, kills // checks) == 0:
            for name, n in rack.verdict().items():
                wrong[name] += n
    return wrong, len(rack.promised())


@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_nothing_acknowledged_is_lost_or_doubled_however_often_it_is_killed(tmp_path):
    wrong, promised = torture(tmp_path, KILLS, checks=10)
    assert promised > KILLS
    assert wrong == {"lost": 0, "doubled": 0, "unbooked": 0, "queryable": 0}


UPKEEP = """
import sys, gnomon
from datetime import UTC, datetime, timedelta
engine = gnomon.open(sys.argv[1], sampling=False, project="kill", rollup_lag_seconds=0, checkpoint_seconds=0.3)
cycle, number = int(sys.argv[2]), 0
print("up", flush=True)
while True:
    for n in range(50):
        number += 1
        at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=(number * 37 + cycle * 11) % 20_000)
        engine.track("tick", id=f"{cycle}-{number}", ts=at, user_id=f"u{number % 9}", source=f"s{number % 3}")
    engine.flush()
    engine.trigger_aggregation()
    print("rolled", flush=True)
"""
SPAN = ["2025-12-01", "2026-02-01"]


def recounted(url):
    """The answers of rollups and those of raw rows, and whether the books close."""
    with gnomon.open(url, sampling=False, project="kill", rollup_lag_seconds=0, cache_entries=0) as engine:
        engine.trigger_aggregation()
        asked = (["events", "people"], ["time:day", "source"], SPAN)
        rolled, raw = engine.query(*asked), engine.query(*asked, basis="raw")
        assert rolled.basis.source != "raw"
        return rolled.to_dicts(), raw.to_dicts(), engine.books().closes()


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_changes_are_whole_however_often_it_is_killed_while_it_rolls_up(url):
    rng, rolled_up = random.Random(3), 0
    for cycle in range(1, 21):
        child = subprocess.Popen([sys.executable, "-c", UPKEEP, url, str(cycle)], stdout=subprocess.PIPE, text=True)
        assert child.stdout.readline() == "up\n"
        time.sleep(rng.uniform(0.05, 5.0))
        child.send_signal(signal.SIGKILL)
        rolled_up += child.communicate()[0].count("rolled")
        if cycle % 5 == 0:
            rolled, raw, closes = recounted(url)
            assert rolled == raw and closes
    assert rolled_up > 3


# -- writes and changes that are cut short ----------------------------------------------------------------------------


@pytest.fixture
def url(tmp_path):
    return f"chdb://{tmp_path}/store"


@pytest.fixture
def store(url):
    opened = open_store(url, Settings())
    yield opened
    opened.close()


def batch(*ids, **more):
    rows = []
    for id_ in ids:
        values = {"id": id_, "ts": NOW, "received_at": NOW, "type": "t", "weight": 1.0, "user_id": "u"}
        rows.append(tuple(values.get(name) for name in ROW))
    counts = [["event", None, "received", "", len(rows)]]
    return Batch("p", rows=rows, counts=counts, checked_ids=True, **more)


def held(store):
    counts, books = store.ask(
        ["SELECT count(*), count(DISTINCT id) FROM events", "SELECT outcome, sum(n) FROM books GROUP BY 1 ORDER BY 1"],
        20.0,
    )
    return counts.rows[0], dict(books.rows)


def failing(monkeypatch, place, *, landed):
    """The insert into one table fails once, before or after its rows have landed."""
    honest, left = Embedded.put, [1]

    def put(self, table, columns, settings):
        if table != place or not left:
            return honest(self, table, columns, settings)
        left.pop()
        if landed:
            honest(self, table, columns, settings)
        raise OSError("the connection is gone")

    monkeypatch.setattr(Embedded, "put", put)


@pytest.mark.parametrize("place", ["events", "books", "state_log"])
@pytest.mark.parametrize("landed", [False, True])
def test_a_write_that_fails_anywhere_is_seen_whole_or_not_at_all(store, monkeypatch, place, landed):
    store.write([(1, batch("a"))], "j")
    failing(monkeypatch, place, landed=landed)
    with pytest.raises(StoreUnavailable):
        store.write([(2, batch("b", "c"))], "j")
    committed = landed and place == "state_log"
    assert held(store) == (((3, 3), {"received": 3, "stored": 3}) if committed else
                           ((1, 1), {"received": 1, "stored": 1}))  # fmt: skip
    if store.position("j") == 1:
        store.write([(2, batch("b", "c"))], "j")
    assert held(store) == ((3, 3), {"received": 3, "stored": 3}) and store.position("j") == 2
    store.checkpoint(compact=True)
    assert store._writer.run("SELECT count() FROM events", store._plain()).rows == [(3,)]  # nothing lies hidden


def test_without_burning_numbers_rows_of_a_failed_write_would_be_seen(store, monkeypatch):
    monkeypatch.setattr(clickhouse.ClickHouseStore, "_ready", lambda self, con: self._newest(con))
    store.write([(1, batch("a"))], "j")
    failing(monkeypatch, "books", landed=True)
    with pytest.raises(StoreUnavailable):
        store.write([(2, batch("b", "c"))], "j")
    store.write([(2, batch("b", "c", "d"))], "j")  # the very same rows would be told by their token
    assert held(store)[0] == (6, 4)


def test_a_process_that_was_lost_leaves_nothing_that_is_seen_later(url, monkeypatch):
    first = open_store(url, Settings())
    first.write([(1, batch("a"))], "j")
    failing(monkeypatch, "books", landed=True)
    with pytest.raises(StoreUnavailable):
        first.write([(2, batch("b"))], "j")
    first.close()  # it never wrote again
    second = open_store(url, Settings())
    try:
        assert second.write([(2, batch("b", "c"))], "j") == {}
        assert held(second) == ((3, 3), {"received": 3, "stored": 3})
    finally:
        second.close()


CHANGE = [
    "CREATE TEMP TABLE kept AS SELECT * FROM events WHERE id_text = 'a'",
    "DELETE FROM events WHERE project = 'p'",
    "INSERT INTO events SELECT * FROM kept",
    "UPDATE books SET source = 'x', reason = CASE WHEN outcome IN ('stored', 'y') THEN 'z, (' ELSE reason END "
    "WHERE outcome = 'stored'",
]
AFTER = ([(1,)], [("received", None, ""), ("stored", "x", "z, (")])


def changed(store):
    asked = ["SELECT count(*) FROM events", "SELECT outcome, source, reason FROM books ORDER BY outcome"]
    return tuple(table.rows for table in store.ask(asked, 20.0))


def test_a_change_is_all_or_nothing(store):
    store.write([(1, batch("a", "b"))], "j")
    before, version = changed(store), store.data_version()
    with pytest.raises(GnomonError):
        store.change([*CHANGE, "SELECT nothing FROM nowhere"])
    assert changed(store) == before and store.data_version() == version
    store.change(CHANGE)
    assert changed(store) == AFTER and store.data_version() == version + 2


def test_rows_that_a_change_adds_twice_are_there_twice(store):
    store.write([(1, batch("a"))], "j")
    store.change(["INSERT INTO books VALUES ('p', 'event', NULL, 'pruned', '', 1)"] * 3)
    assert held(store)[1]["pruned"] == 3


@pytest.mark.parametrize("done", [0, 1])
def test_a_change_that_was_cut_short_behind_its_commit_is_carried_out(url, monkeypatch, done):
    first = open_store(url, Settings())
    first.write([(1, batch("a", "b"))], "j")
    honest = Embedded.run

    def run(self, text, settings):
        if text.startswith("EXCHANGE"):
            if exchanged[0] == done:
                raise OSError("killed")
            exchanged[0] += 1
        return honest(self, text, settings)

    exchanged = [0]
    monkeypatch.setattr(Embedded, "run", run)
    with pytest.raises(StoreUnavailable):
        first.change(CHANGE)
    assert first.data_version() % 2 == 1  # half of it may be seen
    first.close()
    monkeypatch.undo()
    second = open_store(url, Settings())
    try:
        assert changed(second) == AFTER and second.data_version() % 2 == 0
        asked = "SELECT name FROM system.databases WHERE name LIKE '%next%'"
        assert second.ask([asked], 5.0)[0].rows == []
    finally:
        second.close()


def test_a_change_between_two_statements_of_a_question_is_noticed(store, monkeypatch):
    store.write([(1, batch("a", "b"))], "j")
    honest, once = Embedded.run, [1]

    def run(self, text, settings):
        found = honest(self, text, settings)
        if text == "SELECT count(*) FROM events" and once:
            once.pop()
            worker = threading.Thread(target=store.change, args=(CHANGE,))
            worker.start()
            worker.join()
        return found

    monkeypatch.setattr(Embedded, "run", run)
    assert changed(store) == AFTER


def test_a_question_that_does_not_look_again_would_be_found(store, monkeypatch):
    monkeypatch.setattr(clickhouse.ClickHouseStore, "_moved", lambda *_: False)
    with pytest.raises(AssertionError):
        test_a_change_between_two_statements_of_a_question_is_noticed(store, monkeypatch)


@pytest.mark.parametrize("text, words, condition", [
    ("a = 1, b = f(x, 'y, z WHERE ''')", {"a": "1", "b": "f(x, 'y, z WHERE ''')"}, "true"),
    ("a = (SELECT 1 WHERE 2), b = CASE WHEN a = 1 THEN 'WHERE' END WHERE a IN (1, 2)",
     {"a": "(SELECT 1 WHERE 2)", "b": "CASE WHEN a = 1 THEN 'WHERE' END"}, "a IN (1, 2)"),
])  # fmt: skip
def test_words_of_an_update(text, words, condition):
    found, where = changing.set_words(text)
    assert (found, where.strip()) == (words, condition)


# -- forgetting -------------------------------------------------------------------------------------------------------


def erased(folder, **how):
    """An id in every place of an event and a sample, own ones and those of others: recorded, rolled up, forgotten."""
    with gnomon.open(f"chdb://{folder}/e", sampling=False, rollups=ROLLUPS) as engine:
        for user in (ID, "other"):
            for name in TEXTS:
                engine.track(**{"type": "t", "user_id": user, name: ID})
            for properties in ({ID: 1}, {"a": ID}, {"a": {ID: [ID]}}):
                engine.track("t", user_id=user, properties=properties)
            engine.track("t", user_id=user, endpoint=f"/{ID}/x")
        for sample in ({"name": ID}, {"id": ID}, {"labels": {ID: 1}}, {"labels": {"a": ID}}):
            engine.record_metric(**{"name": "m", "value": 1, **sample})
        engine.track("", source=ID)
        engine.flush()
        engine.trigger_aggregation()
        before = engine.query(["events"])[0]["events"]
        assert "data.bin" in holding(folder)  # as it is: short texts are not squeezed
        engine.forget(ID, **how)
        after = engine.query(["events"])[0]["events"]
        assert after < before if how else after == before
        assert engine.books().closes() and engine.books("sample").stored == 4
        assert engine.query(["samples"], dataset="samples")[0]["samples"] == 4
    return holding(folder)


@pytest.mark.parametrize("how", [{}, {"delete_events": True}])
def test_no_byte_of_a_person_who_is_forgotten_is_left(tmp_path, how):
    assert erased(tmp_path, **how) == set()


@pytest.mark.slow
def test_texts_below_nulls_and_words_that_no_row_has_would_be_found(tmp_path, monkeypatch):
    monkeypatch.setattr(changing, "_clean", ", ".join)
    assert erased(tmp_path) == {"data.bin"}


# -- processes --------------------------------------------------------------------------------------------------------


def test_a_second_folder_is_refused_with_a_remedy(store, tmp_path):
    with pytest.raises(InvalidValue) as raised:
        open_store(f"chdb://{tmp_path}/other", Settings())
    assert raised.value.code == "one-folder" and "?database=" in raised.value.remedy
    beside = open_store(f"chdb://{tmp_path}/store?database=beside", Settings())
    store.write([(1, batch("a"))], "j")
    assert held(beside)[0] == (0, 0)
    beside.close()


OTHER = "import sys, gnomon; from gnomon.store import open_store; open_store(sys.argv[1], gnomon.Settings())"


def test_another_process_is_told_that_the_folder_is_in_use(store, url):
    told = subprocess.run([sys.executable, "-c", OTHER, url], capture_output=True, text=True, check=False)
    assert "store-busy" in told.stderr and told.returncode != 0


FORKED = """
import os, sys, time, gnomon
engine = gnomon.open(sys.argv[1], sampling=False)
engine.track("t"); engine.flush()
child = os.fork()
if not child:
    engine.track("t")
    sys.exit(7)
until = time.monotonic() + 20
while time.monotonic() < until:
    found, status = os.waitpid(child, os.WNOHANG)
    if found:
        break
    time.sleep(0.02)
else:
    os.kill(child, 9)
print(os.waitstatus_to_exitcode(status) if found else "hangs")
engine.track("t"); engine.flush()
print(engine.query(["events"])[0]["events"] >= 2)
engine.close()
"""


def test_a_forked_child_ends(url):
    told = subprocess.run([sys.executable, "-c", FORKED, url], capture_output=True, text=True, check=False, timeout=60)
    assert told.stdout.split() == ["7", "True"], told.stderr


@pytest.mark.slow
def test_a_child_that_opens_a_store_itself_is_told_that_it_cannot(url):
    program = (
        FORKED.replace('engine.track("t"); engine.flush()\nchild', "engine.close()\nchild", 1)
        .replace(
            '    engine.track("t")\n    sys.exit(7)',
            "    try:\n        gnomon.open(sys.argv[1])\n    except gnomon.errors.StoreBusy:\n        sys.exit(7)",
        )
        .replace('engine.track("t"); engine.flush()\nprint(engine', "engine = gnomon.open(sys.argv[1])\nprint(engine")
    )
    told = subprocess.run([sys.executable, "-c", program, url], capture_output=True, text=True, check=False, timeout=60)
    assert told.stdout.split()[0] == "7", told.stderr


@pytest.mark.slow
def test_without_its_own_end_a_child_would_hang(url):
    cleared = "import gnomon.store.clickhouse.connecting as c; c._STARTED_IN.clear()\nchild = os.fork()"
    program = FORKED.replace("child = os.fork()", cleared).replace("+ 20", "+ 3")
    told = subprocess.run([sys.executable, "-c", program, url], capture_output=True, text=True, check=False, timeout=60)
    assert told.stdout.split()[0] == "hangs", told.stderr


def test_the_log_of_states_stays_small(store, monkeypatch):
    monkeypatch.setattr(ledger, "KEPT_NUMBERS", 5)
    for n in range(1, 12):
        store.write([(n, batch(f"i{n}"))], "j")
    store.checkpoint()
    store.write([(12, batch("i12"))], "j")
    assert store._head.rows < 40 and held(store)[0] == (12, 12) and store.position("j") == 12


@pytest.mark.slow
def test_a_connection_that_nobody_gives_back_is_said(url):
    store = open_store(url, Settings(database_connections=1))
    try:
        connecting.WAIT_SECONDS, before = 0.05, connecting.WAIT_SECONDS
        with store._asking.one(), pytest.raises(StoreUnavailable) as raised:
            store.ask(["SELECT 1"], 1.0)
        assert raised.value.code == "store-crowded"
    finally:
        connecting.WAIT_SECONDS = before
        store.close()
    assert Path(url.removeprefix("chdb://")).is_dir()


@pytest.mark.slow
def test_damage_is_said_and_recording_goes_on(url):
    with gnomon.open(url, sampling=False) as engine:
        for n in range(500):
            engine.track("t", user_id=f"u{n}")
        engine.flush()
        asked = "SELECT path FROM system.parts WHERE table = 'events' AND active"
        (path,) = engine._hold.store.ask([asked], 5.0)[0].rows[0]
    data = Path(url.removeprefix("chdb://"), path, "data.bin")
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 255
    data.write_bytes(content)
    with gnomon.open(url, sampling=False) as engine:
        assert engine.health().facts["every_block_readable"] is False
        with pytest.raises(StoreDamaged):
            engine.query(["events", "people", "sessions", "p95_duration_ms"], ["source"])
        engine.track("t")
        engine.flush()
