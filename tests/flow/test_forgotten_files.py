"""After an erasure no file beside the store holds the person's id, wherever the service was sent it."""

from __future__ import annotations

import time

import pytest
from serving import served

import gnomon
from gnomon.event import FIELDS
from gnomon.store import erasing

ID = "canary-7f3a91"


def holding(folder):
    """The files that hold the id in any form."""
    forms = [ID.encode(), ID.encode("utf-16-le")]
    return {path.name for path in folder.rglob("*") if path.is_file() and any(f in path.read_bytes() for f in forms)}


def told(folder, *, with_sums=True):
    """Send the id in every place in which a service keeps one, forget it, and say which files hold it still."""
    with served(folder / "s.duckdb", sampling=False) as service:
        events = [
            {"type": "page_view", "user_id": ID, "properties": {"page": "/"}},
            {"type": "page_view", "user_id": "other", "properties": {ID: 1, "to": ID}},
            {"type": "page_view", "user_id": "other", "endpoint": f"/users/{ID}/orders"},
            {"type": "", "user_id": ID},
        ]
        claims = {"scope": "ingest:any read admin", "sub": ID}
        assert service.post("/ingest", events, claims=claims).json()["ingested"] == 3
        assert service.post("/samples", [{"name": "m", "value": 1, "labels": {"who": ID}, "id": ID}], claims=claims)
        service.app.state.service._settle()
        service.app.state.service._rules["default"][1].save(now=True)
        assert service.post("/exports", {"format": "csv"}, claims=claims).status_code == 202
        while [job.state for job in service.engine.exports()] != ["completed"]:
            time.sleep(0.02)
        service.engine.trigger_aggregation()
        assert {"s.duckdb.journal-wal", "s.duckdb.audit-wal"} & holding(folder)
        waiting = service.engine._hold.before_erasing
        service.engine._hold.before_erasing = waiting if with_sums else []
        service.engine.forget(ID)
        service.engine._hold.before_erasing = waiting
        assert service.post("/ingest", {"type": "page_view", "properties": {"page": "/"}}).status_code == 200
    return holding(folder)


def test_a_person_who_is_forgotten_is_in_no_file(tmp_path):
    assert told(tmp_path) == set()


def test_the_list_of_names_is_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr("gnomon.upkeep.keeping.forget_names", lambda *_: None)
    assert told(tmp_path) == {"s.duckdb.journal"}


def test_sums_of_the_audit_that_wait_are_looked_at(tmp_path):
    assert told(tmp_path, with_sums=False) == {"s.duckdb.audit"}


#: Every text of an event, with the id as the whole of it.
TEXTS = [field.name for field in FIELDS if field.kind == "text"]


def erased(folder, **how):
    """An id in every place of an event and a sample, own ones and those of others: recorded, rolled up, forgotten."""
    with gnomon.open(folder / "e.duckdb", sampling=False, rollups=ROLLUPS) as engine:
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
        engine.forget(ID, **how)
        by_name = engine.query(["events"], ["type", "source"], order_by=[["type", "asc"], ["source", "asc"]])
        rolled = [[row.get(name) for name in ("type", "source", "events")] for row in by_name]
        (raw,) = engine._hold.store.ask(
            ["SELECT type, source, count(*) FROM events GROUP BY ALL ORDER BY type, source"], 5.0
        )
        assert rolled == [list(row) for row in raw.rows]
        after = engine.query(["events"])[0]["events"]
        assert after < before if how else after == before
        assert engine.books().closes() and engine.books("sample").stored == 4
        assert engine.query(["samples"], dataset="samples")[0]["samples"] == 4
    return holding(folder)


ROLLUPS = ("source+application+domain+method+error_code", "endpoint")


@pytest.mark.parametrize("how", [{}, {"delete_events": True}])
def test_an_id_is_found_wherever_it_is_the_whole_of_a_text(tmp_path, how):
    assert erased(tmp_path, **how) == set()


def test_an_erasure_that_overlooks_names_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(erasing, "_NAMES", ("method",))
    assert erased(tmp_path) == {"e.duckdb"}


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    """Nothing is done beside the calls."""
    monkeypatch.setattr("gnomon.server.service.TICK_SECONDS", 600.0)
