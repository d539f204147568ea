"""Forgetting a device: its rows stay once each, as anonymous counts, or go."""

import pytest

import gnomon
from gnomon.store import erasing
from gnomon.testing import ManualClock


@pytest.fixture
def engine():
    with gnomon.open(":memory:", clock=ManualClock(), sampling=False) as opened:
        opened.track("a", device_id="d1")
        opened.track("a", device_id="d1", user_id="u1")
        opened.track("a", user_id="u2")
        opened.flush()
        yield opened


def events(engine):
    return engine.query(["events", "people"]).to_dicts()


def test_a_device_that_is_forgotten_changes_no_total(engine):
    certificate = engine.forget("d1")
    assert (certificate.rows, certificate.named) == (1, 1)
    assert events(engine) == [{"events": 3, "people": 2}]
    assert engine.query(["events"], filters=["is", "device_id", ["d1"]]).to_dicts() == [{"events": 0}]


def test_or_goes_with_its_events(engine):
    engine.forget("d1", delete_events=True)
    assert events(engine) == [{"events": 2, "people": 2}]


def test_rows_that_count_as_their_own_and_as_those_of_others_are_found(engine, monkeypatch):
    whole = erasing.foreign_rows
    monkeypatch.setattr(
        erasing, "foreign_rows", lambda *given: whole(*given).replace("coalesce(user_id, device_id)", "user_id")
    )
    engine.forget("d1")
    assert events(engine)[0]["events"] == 4
