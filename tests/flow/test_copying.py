"""A copy in another store holds the same, goes on where it was cut short, and counts once every row was compared."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from contextlib import closing

import copied_life
import pytest
from copied_life import all_told, clock_now, live, opened, record
from own_postgres import OwnPostgres

import gnomon
from gnomon.errors import GnomonError, InvalidValue, StoreBusy, StoreDamaged, StoreUnavailable
from gnomon.ingest.owner import OwnerLock
from gnomon.query.books import projects_of
from gnomon.store import carrying, open_store
from gnomon.store.carrying import TABLES, Carried, slices
from gnomon.store.duckdb import DuckDBStore
from gnomon.store.postgres import PostgresStore
from gnomon.upkeep import comparing, copying, destination


class Life:
    """A lived store, closed; and what it told."""

    def __init__(self, folder, n=42):
        self.clock, self.file = clock_now(), folder / "lived.duckdb"
        live(str(self.file), self.clock, n=n)
        self.told = all_told(self.file, self.clock)


@pytest.fixture(scope="module")
def lived(tmp_path_factory):
    return Life(tmp_path_factory.mktemp("lived"))


def small(file, n=16):
    """A store of one project with a few rows in most tables."""
    with gnomon.open(file, sampling=False, scheduler=False, threads=1) as engine:
        for number in range(n):
            engine.track("tick", user_id=f"u{number % 5}", id=f"e{number}", weight=1 + number % 2)
            engine.record_metric("m", number)
            engine.flush()
        engine.track("")
        engine.trigger_aggregation()
        engine.flush()
    return file


def copy(source, destination, clock=None, **arguments):
    """What `gnomon copy` does."""
    with gnomon.open(source, clock=clock, scheduler=False, enabled=False, threads=1) as engine:
        return engine.copy_to(destination, **arguments)


def events_in(file, **more):
    with gnomon.open(file, scheduler=False, enabled=False, threads=1, **more) as engine:
        return engine.query(["events"], date_range="all")[0]["events"]


# -- everything is there ------------------------------------------------------------------------------------------


def test_from_a_file_to_a_server_and_back_again(lived, postgres, tmp_path):
    """Every question, the books, the people, the quarantine, the settings and every row are the same on all three."""
    server, there, back = postgres.url(), tmp_path / "there", tmp_path / "back.duckdb"
    done = copy(lived.file, server, lived.clock, data_dir=str(there))
    assert done.same and not done.resumed and not done.newer
    assert done.carried == sum(rows for rows, _ in done.tables.values())
    empty = [name for name, (rows, _) in done.tables.items() if not rows]
    assert empty == [], "a table that nothing was carried of proves nothing"
    assert all_told(server, lived.clock, there) == lived.told
    with opened(server, lived.clock, data_dir=there, enabled=False) as engine:
        returned = engine.copy_to(back)
        assert returned.same and returned.tables == done.tables
        assert engine.verify_audit()
    assert all_told(back, lived.clock) == lived.told
    with opened(back, lived.clock) as engine:
        assert engine.verify_audit() and "copy_from" in [entry.operation for entry in engine.get_access_log()]
        assert engine.health().sound


@pytest.mark.parametrize("kind", ["file", "server"])
def test_life_goes_on_in_the_copy(lived, postgres, tmp_path, kind):
    """A resend is a repeat, pruned time stays sealed, late events are rolled up, and the books close."""
    place = postgres.url() if kind == "server" else tmp_path / "copy.duckdb"
    own = {"data_dir": str(tmp_path / "data")} if kind == "server" else {}
    copy(lived.file, place, lived.clock, **own)
    with opened(place, lived.clock, **own) as engine:
        before = engine.books()
        record(engine, 0)
        again = [number for number in range(1, 42, 2) if number % 9 != 3]  # what was of who is forgotten is new
        for number in again:  # as in `record`: some of that time is pruned
            engine.track(
                "page_view", id=f"e{number}", ts=copied_life.NOW - copied_life.timedelta(hours=number * 7.3 % 144)
            )
        engine.flush()
        after = engine.books()
        assert after.stored == before.stored and after.closes()
        assert after.duplicate - before.duplicate + after.rejected["sealed"] - before.rejected["sealed"] == len(again)
        assert after.duplicate > before.duplicate and after.rejected["sealed"] > before.rejected["sealed"]
        events = engine.query(["events", "people"], date_range=copied_life.ALL)[0]
        assert engine.trigger_aggregation().events >= 0 and engine.trigger_aggregation().events == 0
        assert dict(engine.query(["events", "people"], date_range=copied_life.ALL)[0]) == pytest.approx(dict(events))
        engine.track("page_view", user_id="somebody new")
        engine.flush()
        assert engine.query(["people"], date_range=copied_life.ALL)[0]["people"] == events["people"] + 1


def test_the_tables_are_those_of_the_stores(postgres):
    """A table or column that a migration adds has to be carried as well."""
    known = {(table.name, column) for table in TABLES.values() for column in table.columns}
    with closing(open_store(":memory:", gnomon.Settings())) as store:
        asked = "SELECT table_name, column_name FROM duckdb_columns() WHERE database_name = 'store'"
        assert {row for row in store.ask([asked], 60.0)[0].rows if row[0] != "state"} == known
        order = [
            name
            for (name,) in store.ask([f"SELECT column_name FROM ({asked}) WHERE table_name = 'events'"], 9.0)[0].rows
        ]
        assert list(TABLES["events"].columns) == order
    url = postgres.url()
    with closing(open_store(url, gnomon.Settings())), postgres.connect() as con:
        found = con.execute(
            "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = %s",
            [url.partition("schema=")[2]],
        ).fetchall()
    own = {("quarantine", "place")}  # the order of rows, made anew
    others = {"state", "months", "alembic_version", "events_default"}  # months are noted as rows come in
    assert {row for row in found if row[0] not in others} - own == known


# -- slices -------------------------------------------------------------------------------------------------------


class Numbers:
    streams = True
    """Stands for a table of one key: what a reading of it would answer."""

    def __init__(self, keys):
        self.store = open_store(":memory:", gnomon.Settings(threads=1))
        values = ", ".join(f"('p', {key}, 'a')" for key in keys)
        self.store.change([f"INSERT INTO people VALUES {values}"] if keys else [])

    def rows(self, statement):
        yield self.store.ask([statement], 60.0)[0].rows


@pytest.mark.parametrize("seed", range(6))
def test_slices_hold_every_row_once(monkeypatch, seed):
    monkeypatch.setattr(carrying, "SLICE_ROWS", 7)
    monkeypatch.setattr(carrying, "BUCKETS", 4)
    chance = random.Random(seed)
    spread = chance.choice([3, 50, 10**6, 2**62])
    keys = [chance.randrange(-spread, spread) if chance.random() < 0.7 else 5 for _ in range(chance.choice([0, 5, 90]))]
    numbers = Numbers(keys)
    with closing(numbers.store):
        for after in (None, *sorted(keys)[:1], *sorted(keys)[-1:], 0):
            found = list(slices(numbers, TABLES["people"], after))
            behind = sorted(key for key in keys if after is None or key > after)
            seen = []
            for piece in found:
                inside = [key for key in behind if (piece.after is None or key > piece.after) and key <= piece.upto]
                assert len(inside) == piece.rows and (piece.rows <= 7 or len(set(inside)) == 1)
                seen += inside
            assert seen == behind
            assert [piece.after for piece in found[1:]] == [piece.upto for piece in found[:-1]]


# -- cut short, and gone on with ----------------------------------------------------------------------------------


class Cut(Exception):
    """Stands for the end of a process."""


def cut_after(monkeypatch, kind, n, where="after"):
    """The n-th fill of a destination fails, before or after it."""
    honest, seen = kind.fill, []

    def fill(self, *args):
        seen.append(1)
        if len(seen) == n and where == "before":
            raise Cut
        honest(self, *args)
        if len(seen) == n and where == "after":
            raise Cut

    monkeypatch.setattr(kind, "fill", fill)
    return honest


def finished(place):
    """Whether the last thing that was cut off came behind the end."""
    with closing(open_store(str(place), gnomon.Settings())) as store:
        return carrying.note_of(store).done


@pytest.mark.parametrize("kind", [DuckDBStore, pytest.param(PostgresStore, marks=pytest.mark.slow)])
def test_wherever_it_is_cut_it_goes_on(postgres, tmp_path, monkeypatch, kind):
    """Every slice is carried once, and what is not finished cannot be opened."""
    monkeypatch.setattr(carrying, "SLICE_ROWS", 5)
    monkeypatch.setattr(copying, "SETTLE_ROWS", 1)
    source = small(tmp_path / "source.duckdb")
    place = tmp_path / "copy.duckdb" if kind is DuckDBStore else postgres.url()
    carried, cuts = 0, 0
    while True:
        honest = cut_after(monkeypatch, kind, 6 if cuts % 2 else 8, "before" if cuts % 3 else "after")
        try:
            done = copy(source, place, data_dir=str(tmp_path / "d"))
        except Cut:
            cuts += 1
            monkeypatch.setattr(kind, "fill", honest)
            if finished(place):
                continue
            with pytest.raises(StoreUnavailable) as refused:
                events_in(place, data_dir=str(tmp_path / "d"))
            assert refused.value.code == "unfinished-copy"
            continue
        finally:
            monkeypatch.setattr(kind, "fill", honest)
        carried += done.carried
        break
    assert cuts >= 2 and done.same and done.resumed
    assert carried < done.tables["events"][0], "what was there was carried again"
    assert events_in(place, data_dir=str(tmp_path / "d")) == events_in(source)


def test_a_source_that_changed_meanwhile_is_carried_as_it_is_now(tmp_path, monkeypatch):
    """Recorded, forgotten, rolled up and pruned between two runs, which leave nothing of what is gone."""
    monkeypatch.setattr(carrying, "SLICE_ROWS", 30)
    monkeypatch.setattr(copying, "SETTLE_ROWS", 1)
    clock, source, place = clock_now(), tmp_path / "s.duckdb", tmp_path / "c.duckdb"
    with opened(source, clock) as engine:
        record(engine, 20)
        engine.track("secret-type", user_id="forget-me-entirely")
        engine.trigger_aggregation()
        honest = cut_after(monkeypatch, DuckDBStore, 12)
        with pytest.raises(Cut):
            engine.copy_to(place)
        monkeypatch.setattr(DuckDBStore, "fill", honest)
        engine.set_retention_policy(raw_data_days=3)
        engine.prune()
        engine.forget("forget-me-entirely")
        engine.forget("user 5")
        record(engine, 10, since=100)
        done = engine.copy_to(place)
        assert done.same and done.resumed
    assert b"forget-me-entirely" not in place.read_bytes()
    with opened(source, clock, enabled=False) as one, opened(place, clock, enabled=False) as two:
        assert copied_life.told(one) == copied_life.told(two)
        assert copied_life.rows_of(one) == copied_life.rows_of(two)


def test_what_is_recorded_meanwhile_is_told_and_carried_by_the_next_run(tmp_path, monkeypatch):
    monkeypatch.setattr(carrying, "SLICE_ROWS", 4)
    source, place = small(tmp_path / "s.duckdb"), tmp_path / "c.duckdb"
    with gnomon.open(source, scheduler=False, heartbeat_seconds=0) as engine:

        def more(progress):
            if progress.table == "samples" and progress.step == "copying":
                engine.track("tick", user_id="late")
                engine.flush()
            engine._hold.writer.checkpoint()  # books are folded, so rows of the moment that is read are deleted

        done = engine.copy_to(place, on_progress=more)
        assert done.newer and done.same and done.tables["events"][0] == 16
        again = engine.copy_to(place)
        assert not again.newer and again.resumed and again.tables["events"][0] > 16
        assert again.carried < 16 + 7, "slices that are the same stay"
        count = engine.query(["events"], date_range="all")[0]["events"]
    assert events_in(place) == count


@pytest.mark.parametrize("kind", ["postgres", "clickhouse"])
def test_a_replica_that_had_the_destination_open_waits_until_it_is_finished(request, tmp_path, monkeypatch, kind):
    """Its events wait in its journal, and are stored on top of the copy; questions are refused, not told in part."""
    monkeypatch.setattr(carrying, "SLICE_ROWS", 4)
    source, place = small(tmp_path / "s.duckdb"), request.getfixturevalue(kind).url()
    with gnomon.open(place, data_dir=str(tmp_path / "replica"), scheduler=False, heartbeat_seconds=0) as replica:
        asked, told = [], set()

        def ask_there(progress):
            asks = [lambda: replica.query(["events"]), replica.books, replica.summary]
            if progress.table == "samples" and progress.step == "copying" and not asked:  # the rest takes longer
                asks += [replica.quarantine, replica.health, lambda: projects_of(replica._hold.store, 20.0)]
            for question in asks:
                try:
                    question()
                    told.add("an answer")
                except StoreUnavailable as error:
                    told.add(error.code)
            if progress.table == "samples" and progress.step == "copying" and not asked:
                replica.track("tick", user_id="of the replica")
                with pytest.raises(StoreUnavailable):
                    replica.flush(timeout=0.5)
                asked.append(1)

        assert replica.query(["events"]).rows == [{"events": 0}]
        done = copy(source, place, data_dir=str(tmp_path / "d"), on_progress=ask_there)
        assert done.same and asked and told == {"unfinished-copy"}
        replica.flush()
        assert replica.query(["events"], date_range="all")[0]["events"] == events_in(source) + 1
        assert replica.books().closes()


@pytest.mark.parametrize("kind", ["postgres", "clickhouse"])
def test_a_replica_that_answers_from_half_a_copy_is_found(request, tmp_path, monkeypatch, kind):
    for module in ("postgres", "clickhouse.asking"):
        monkeypatch.setattr(f"gnomon.store.{module}.finished", lambda note: True)
    with pytest.raises(AssertionError):
        test_a_replica_that_had_the_destination_open_waits_until_it_is_finished(request, tmp_path, monkeypatch, kind)


# -- refused ------------------------------------------------------------------------------------------------------


def test_only_an_empty_store_or_its_own_copy_is_filled(tmp_path, postgres, monkeypatch):
    source, other, place = small(tmp_path / "a.duckdb", 3), small(tmp_path / "b.duckdb", 4), tmp_path / "c.duckdb"
    held = other.read_bytes()
    for wrong, code in ((other, "destination-used"), (source, "destination-used"), (":memory:", "bad-store")):
        with pytest.raises(InvalidValue) as refused:
            copy(source, wrong)
        assert refused.value.code == code and refused.value.remedy
    assert other.read_bytes() == held, "what was refused is as it was"
    honest = cut_after(monkeypatch, DuckDBStore, 3)
    with pytest.raises(Cut):
        copy(source, place)
    monkeypatch.setattr(DuckDBStore, "fill", honest)
    with pytest.raises(InvalidValue, match="unfinished copy of another"):
        copy(other, place)
    copy(source, place)
    with pytest.raises(InvalidValue, match="copy of another"):
        copy(other, place)
    with gnomon.open(place, scheduler=False) as engine:
        engine.track("used")
    with pytest.raises(InvalidValue, match="was used since"):
        copy(source, place)
    assert not copy(source, place, verify_only=True).same


@pytest.fixture
def moved(postgres, tmp_path):
    """A store on a server, and a place under the same name on another server."""
    url = postgres.url()
    with gnomon.open(url, data_dir=str(tmp_path / "d"), scheduler=False, heartbeat_seconds=0) as engine:
        engine.track("tick")
    name = re.search(r"/(\w+)\?", url)[1]
    with OwnPostgres() as other, other.connect() as con:
        con.execute(f"CREATE DATABASE {name}")
        there = other.url(url.rpartition("schema=")[2]).replace("/postgres?", f"/{name}?")
        with gnomon.open(url, data_dir=str(tmp_path / "d"), scheduler=False, enabled=False) as engine:
            yield engine, there


def test_the_same_name_on_another_server_needs_files_of_its_own(moved, tmp_path):
    engine, there = moved
    with pytest.raises(InvalidValue) as refused:
        engine.copy_to(there)
    assert refused.value.code == "bad-store" and "--data-dir" in refused.value.remedy
    assert engine.copy_to(there, data_dir=str(tmp_path / "new")).same
    assert events_in(there, data_dir=str(tmp_path / "new")) == 1


def test_a_copy_that_would_share_the_files_of_its_source_is_found(moved, tmp_path, monkeypatch):
    monkeypatch.setattr(destination, "_same_files", lambda: StoreBusy("another process owns the destination"))
    with pytest.raises(StoreBusy):
        test_the_same_name_on_another_server_needs_files_of_its_own(moved, tmp_path)


def test_a_destination_that_another_process_has_is_refused(tmp_path):
    source, lock = small(tmp_path / "a.duckdb", 3), OwnerLock(tmp_path / "c.duckdb.owner")
    assert lock.acquire()
    with pytest.raises(StoreBusy):
        copy(source, tmp_path / "c.duckdb")
    lock.release()
    with pytest.raises(InvalidValue) as refused:
        copy(source, tmp_path / "none.duckdb", verify_only=True)
    assert refused.value.code == "no-store" and not (tmp_path / "none.duckdb").exists()


# -- damage -------------------------------------------------------------------------------------------------------


SELDOM = [pytest.param(damage, marks=pytest.mark.slow) for damage in ("dropped", "twice", "instead", "text", "number")]


def damaged(table: Carried, rows, damage):
    """The rows with one lost, doubled, or one value a little different; None where that cannot be."""
    if damage == "dropped":
        return rows[1:]
    if damage == "twice":
        return [*rows, rows[0]]
    if damage == "instead":
        return [rows[-1], *rows[1:]] if rows[-1] != rows[0] else None
    kind, wrong = {"text": ("text", lambda value: f"{value} "), "number": ("integer", lambda value: value + 1),
                   "sign": ("real", lambda value: -value or -0.0)}[damage]  # fmt: skip
    for at, row in enumerate(rows):
        for place, value in enumerate(row):
            if list(table.columns.values())[place] == kind and value is not None:
                return [*rows[:at], (*row[:place], wrong(value), *row[place + 1 :]), *rows[at + 1 :]]
    return None


@pytest.mark.parametrize("damage", ["sign", *SELDOM])
def test_a_damaged_copy_is_found_does_not_count_and_is_mended(lived, tmp_path, monkeypatch, damage):
    """One row of each table is lost, doubled or changed on its way."""
    place, honest, hit = tmp_path / "c.duckdb", DuckDBStore.fill, []
    joined = ("alive", "weighted") if damage == "twice" else ("alive",)  # a span that is there twice is there once

    def fill(self, table, rows, first, state):
        found = [row for part in rows() for row in part]
        wrong = damaged(TABLES[table], found, damage) if found and table not in (*hit, *joined) else None
        if wrong is not None:
            hit.append(table)
        honest(self, table, lambda: [found if wrong is None else wrong], first, state)

    monkeypatch.setattr(DuckDBStore, "fill", fill)
    with pytest.raises(StoreDamaged) as found:
        copy(lived.file, place, lived.clock)
    assert found.value.code == "copy-differs" and len(hit) >= 5
    assert {name for name in TABLES if f" {name} (" in found.value.message} == set(hit)
    monkeypatch.setattr(DuckDBStore, "fill", honest)
    with pytest.raises(StoreUnavailable):
        opened(place, lived.clock)
    mended = copy(lived.file, place, lived.clock)
    assert mended.same and mended.resumed
    if damage == "sign":
        assert all_told(place, lived.clock) == lived.told


def test_a_copy_that_was_changed_later_is_found(tmp_path):
    source, place = small(tmp_path / "s.duckdb", 6), tmp_path / "c.duckdb"
    assert copy(source, place).same and copy(source, place, verify_only=True).same
    with closing(DuckDBStore(str(place), gnomon.Settings())) as store:
        store.change(["UPDATE events SET properties = '{}' WHERE id_text = 'e3'"])
        store.checkpoint()
    found = copy(source, place, verify_only=True)
    assert found.differing == ["events"] and found.tables["events"][0] == found.found["events"][0]


@pytest.mark.slow
def test_a_comparison_that_looks_at_numbers_of_rows_only_would_be_noticed(tmp_path, monkeypatch):
    """The broken variant of the hash: everything is alike."""
    monkeypatch.setattr(comparing, "blake2b", lambda data, digest_size: comparing.hashes_nothing)
    monkeypatch.setattr(comparing, "hashes_nothing", type("", (), {"digest": lambda: b"\0"}), raising=False)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        test_a_copy_that_was_changed_later_is_found(tmp_path)


def test_a_copy_whose_notes_run_ahead_of_its_rows_would_be_noticed(tmp_path, monkeypatch):
    """The broken variant of going on: the note of a slice is kept although its rows are not."""
    honest = DuckDBStore.fill

    def fill(self, table, rows, first, state):
        if table == "samples":
            raise Cut
        lost = table == "events" and self.ask(["SELECT count(*) FROM events"], 9.0)[0].rows[0][0]
        honest(self, table, (list) if lost else rows, first, state)

    monkeypatch.setattr(carrying, "SLICE_ROWS", 6)
    monkeypatch.setattr(copying, "SETTLE_ROWS", 1)
    source, place = small(tmp_path / "s.duckdb"), tmp_path / "c.duckdb"
    monkeypatch.setattr(DuckDBStore, "fill", fill)
    with pytest.raises(Cut):
        copy(source, place)
    monkeypatch.setattr(DuckDBStore, "fill", honest)
    with pytest.raises(StoreDamaged, match="events"):
        copy(source, place)


def test_the_source_stays_as_it_was(lived, tmp_path):
    with closing(DuckDBStore(str(lived.file), gnomon.Settings())) as store, store.snapshot() as before:
        held = before.contents()
    copy(lived.file, tmp_path / "c.duckdb", lived.clock)
    with closing(DuckDBStore(str(lived.file), gnomon.Settings())) as store, store.snapshot() as after:
        assert after.contents() == held


def test_a_row_that_the_destination_refuses_stops_the_copy(postgres, tmp_path):
    """A store whose content another program has doubled."""
    source = small(tmp_path / "s.duckdb", 3)
    with closing(DuckDBStore(str(source), gnomon.Settings())) as store:
        store.change(["INSERT INTO events SELECT * FROM events"])
        store.checkpoint()
    with pytest.raises(GnomonError) as refused:
        copy(source, postgres.url(), data_dir=str(tmp_path / "d"))
    assert refused.value.code == "store-refused"


PEAK = """
import resource, sys, gnomon
source = sys.argv[1]
settings = gnomon.Settings(sampling=False, scheduler=False, enabled=False, threads=1, memory_limit="100MB")
with gnomon.open(source, settings=settings) as engine:
    engine.copy_to(source + ".copy")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_store(tmp_path):
    peaks = []
    for rows in (150_000, 600_000):
        source = tmp_path / f"{rows}.duckdb"
        with closing(DuckDBStore(str(source), gnomon.Settings())) as store:
            names = ", ".join(TABLES["events"].columns)
            text = "'{\"text\":\"' || repeat('x', 300) || '\"}'"
            store.change([
                f"INSERT INTO events ({names}) SELECT 'default', uuid(), NULL, make_timestamp(1700000000000000 + i), "
                "make_timestamp(1700000000000000), 2 * (i // 5000), 'request', 'u' || i % 999, NULL, NULL, 's', 'a', "
                f"'example.com', '/' || i, 'GET', 200, i / 7.0, i, i, true, NULL, 1, {text} FROM range({rows}) r(i)"
            ])  # fmt: skip
            store.checkpoint()
        done = subprocess.run(
            [sys.executable, "-c", PEAK, source, str(rows)], capture_output=True, text=True, check=True
        )
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] - peaks[0] < 80, f"{peaks} MB"
