"""Numbers whose tokens ClickHouse knows, while what came with them is gone: a process that was killed between the two,
or a part of the log of states that is lost. Whoever comes next writes on, and nothing is lost or doubled."""

from __future__ import annotations

import shutil
from contextlib import nullcontext

import pytest
from test_clickhouse import AFTER, CHANGE, batch, changed, held

from gnomon.config import Settings
from gnomon.errors import StoreUnavailable
from gnomon.store import open_store
from gnomon.store.clickhouse import ClickHouseStore, deciding, ledger


@pytest.fixture
def url(tmp_path):
    return f"chdb://{tmp_path}/store"


def parts(store):
    asked = "SELECT path FROM system.parts WHERE table = 'state_log' AND active"
    store._writer.run("SYSTEM STOP MERGES state_log", store._plain())
    return {path for (path,) in store._writer.run(asked, store._plain()).rows}


def lose(store, work):
    """What `work` does, without the parts of the log that it makes."""
    before = parts(store)
    work()
    gone = parts(store) - before
    store.close()
    assert gone
    for path in gone:
        shutil.rmtree(path)


def put_token(store):
    """What a commit does, which then loses its part."""
    number = store._newest(None).committed + 1
    ledger.put_state(store._writer, {ledger.WRITER: store._me}, number, store._session)


def written_after_a_loss(url, work):
    """What is there after journal positions from 2 on were written by another process."""
    first = open_store(url, Settings())
    first.write([(1, batch("a"))], "j")
    lose(first, lambda: work(first))
    second = open_store(url, Settings())
    try:
        assert second.position("j") == 1 and held(second)[0] == (1, 1)
        for position, name in ((2, "b"), (3, "c"), (4, "d")):
            for tried in (1, 2, 3, 4):
                try:
                    second.write([(position, batch(name))], "j")
                    break
                except StoreUnavailable as error:
                    assert error.code == "store-moved" and tried < 4
        second.checkpoint()
        return held(second), second.position("j")
    finally:
        second.close()


ALL = (((4, 4), {"received": 4, "stored": 4}), 4)


def killed(store):
    put_token(store)


def newest_parts_lost(store):
    """Of two writes with rows, and of a number that had none."""
    store.write([(2, batch("b"))], "j")
    store.write([(3, batch("c"))], "j")
    put_token(store)


@pytest.mark.parametrize("work", [killed, newest_parts_lost])
def test_whoever_comes_next_writes_on(url, work):
    assert written_after_a_loss(url, work) == ALL


def burnt_by_its_token_only(monkeypatch):
    monkeypatch.setattr(deciding, "burn_lost", lambda *_: None)


def burnt_alone(monkeypatch):
    """The numbers behind it, whose rows are there, are not."""
    honest = ledger.burn_lost
    monkeypatch.setattr(ledger, "BATCHED", ())
    monkeypatch.setattr(deciding, "burn_lost", honest)


def commit_taken_for_granted(monkeypatch):
    honest = ClickHouseStore._commit

    def commit(self, con, batch, entries):
        try:
            honest(self, con, batch, entries)
        except StoreUnavailable:
            self._head = ledger.Head(batch, frozenset(), {**self._head.state, **entries}, 0, {batch: self._me})

    monkeypatch.setattr(ClickHouseStore, "_commit", commit)


@pytest.mark.parametrize("broken", [burnt_by_its_token_only, burnt_alone, commit_taken_for_granted])
def test_what_does_less_would_be_found(url, monkeypatch, broken):
    broken(monkeypatch)
    with pytest.raises(AssertionError):
        assert written_after_a_loss(url, newest_parts_lost) == ALL


@pytest.mark.parametrize("broken", [False, True])
def test_a_change_is_carried_out_though_the_number_that_says_so_is_lost(url, monkeypatch, broken):
    first = open_store(url, Settings())
    first.write([(1, batch("a", "b"))], "j")
    number = first._newest(None).committed + 2
    with monkeypatch.context() as patched:

        def carry_out(self, con, head):
            raise OSError("killed")

        patched.setattr(ClickHouseStore, "_carry_out", carry_out)
        with pytest.raises(StoreUnavailable):
            first.change(CHANGE)
    with first._writing_connection() as con:
        before = parts(first)
        ledger.put_state(con, {ledger.WRITER: first._me}, number, first._session)
        (gone,) = parts(first) - before
    first.close()
    shutil.rmtree(gone)
    if broken:
        burnt_by_its_token_only(monkeypatch)
    with pytest.raises(StoreUnavailable) if broken else nullcontext():
        second = open_store(url, Settings())
        assert changed(second) == AFTER and second.data_version() % 2 == 0
        second.write([(2, batch("c"))], "j")
        second.close()
