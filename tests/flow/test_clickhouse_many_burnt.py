"""A store of which every second number is burnt, as several processes wrote in turns: everything goes on, and rows of
burnt numbers are not seen."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest

import gnomon
from gnomon.config import Settings
from gnomon.errors import GnomonError
from gnomon.store import open_store
from gnomon.store.clickhouse import ledger
from gnomon.testing import ManualClock

NOW = datetime(2026, 3, 20, 12, tzinfo=UTC)
BURNT = range(1_000_101, 1_010_101, 2)
FEWER = BURNT[:1_000]


@pytest.mark.parametrize("step", [1, 2, 63, 64, 65, 700])
def test_the_condition_leaves_out_what_is_burnt_and_nothing_else(clickhouse, step):
    store = open_store(clickhouse.url(), Settings())
    chosen = random.Random(step)
    for count in (1, 2, 40, 400):
        burnt = sorted({3, *(1_000 + n * chosen.randint(1, step) for n in range(count))})
        numbers = sorted({0, 1, 936, 999, *burnt, *(n + chosen.randint(-66, 66) for n in burnt), burnt[-1] + 5_000})
        asked = f"SELECT number FROM (SELECT arrayJoin({numbers}) AS number, toInt64(number) AS batch) WHERE "
        found = store.ask([f"{asked}{ledger.without(burnt)} ORDER BY 1"], 20.0)[0].rows
        assert [number for (number,) in found] == [n for n in numbers if n not in burnt]
    assert len(ledger.without([2, *BURNT])) < 4_000 and ledger.without([7, 9]) == "batch NOT IN (7,9)"
    store.close()


def opened(clickhouse, url, folder):
    return gnomon.open(url, data_dir=str(folder), clock=ManualClock(NOW), sampling=False, cache_entries=0,
                       rollup_lag_seconds=0, heartbeat_seconds=0)  # fmt: skip


def burn_many(store, many):
    """Rows of a number between, which are seen, and of a burnt one, which are not."""
    with store._writing_connection() as con:
        entries = {f"{ledger.BURNT}{n}": "another" for n in many}
        ledger.put_state(con, entries, many[-1], store._session)
        for number, name in ((many[40], "hidden"), (many[40] + 1, "seen")):
            con.run(
                "INSERT INTO events (project, id, id_text, ts, received_at, version, type, user_id, weight, batch) "
                f"SELECT project, generateUUIDv4(), '{name}', ts, received_at, version, type, '{name}', weight, "
                f"{number} FROM events LIMIT 1", store._plain(),
            )  # fmt: skip


def worked(clickhouse, folder, many):
    with opened(clickhouse, clickhouse.url(), folder) as engine:
        for n in range(60):
            engine.track("t", id=f"e{n}", user_id=f"u{n % 6}", ts=NOW - timedelta(hours=n))
        engine.flush()
        burn_many(engine._hold.store, many)
        assert len(engine._hold.store._newest(None).burnt) >= len(many)
        ask = {"metrics": ["events", "people"], "date_range": "all"}
        told = [engine.query(**ask)[0]]
        engine.track("t", id="later", user_id="u1", ts=NOW - timedelta(minutes=1))
        engine.flush()
        assert engine.trigger_aggregation().events
        told.append(engine.query(**ask)[0])
        engine.forget("u2", delete_events=True)
        engine._hold.store.checkpoint(compact=True)
        return [(row["events"], row["people"]) for row in (*told, engine.query(**ask)[0])]


@pytest.mark.parametrize("many", [FEWER, pytest.param(BURNT, marks=pytest.mark.slow)], ids=len)
def test_processes_that_write_in_turns_lose_nothing_of_what_the_store_can_do(clickhouse, tmp_path, many):
    assert worked(clickhouse, tmp_path, many) == [(61, 7), (62, 7), (52, 6)]


@pytest.mark.slow
def test_a_list_of_them_would_be_too_long(clickhouse, tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "_mapped", ledger._listed)
    with pytest.raises(GnomonError):
        worked(clickhouse, tmp_path, BURNT)
