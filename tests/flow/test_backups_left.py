"""What the certificate of an erasure says of backups: at every target that was used, and never more than is true."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta

import pytest

import gnomon
from gnomon.errors import StoreUnavailable
from gnomon.ingest.journal import TARGETS
from gnomon.testing import ManualClock
from gnomon.upkeep import aging, targets
from gnomon.upkeep.targets import Folder, without_secrets

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def clock():
    return ManualClock(NOW)


@pytest.fixture
def engine(tmp_path, clock):
    with gnomon.open(tmp_path / "s.duckdb", clock=clock, sampling=False, backup_days=30) as opened:
        opened.track("a", user_id="u1")
        opened.flush()
        yield opened


def told(certificate):
    return [(one.target, one.backups, one.gone, one.reason) for one in certificate.backups]


def people(engine):
    return engine.query(["people"]).to_dicts()[0]["people"]


def test_without_backups_nothing_is_told(engine):
    certificate = engine.forget("u1")
    assert (certificate.backups, certificate.backups_gone, certificate.remaining) == ((), None, ())


def test_a_backup_in_another_folder_is_told(engine, tmp_path):
    engine.trigger_backup(tmp_path / "elsewhere")
    certificate = engine.forget("u1")
    assert told(certificate) == [(str(tmp_path / "elsewhere"), 1, None, "no-schedule")]
    assert certificate.backups_gone is None


def test_targets_are_known_after_a_restart_and_a_restore(engine, tmp_path, clock):
    first = engine.trigger_backup(tmp_path / "one")
    engine.trigger_backup(tmp_path / "two")
    engine.restore_backup(first.path)
    engine.close()
    with gnomon.open(tmp_path / "s.duckdb", clock=clock) as again:
        assert [one.target for one in again.forget("u1").backups] == [str(tmp_path / "one"), str(tmp_path / "two")]


def test_targets_that_are_not_remembered_are_found(engine, tmp_path, monkeypatch):
    monkeypatch.setattr(targets, "remember", lambda *_: None)
    engine.trigger_backup(tmp_path / "elsewhere")
    assert engine.forget("u1").backups == ()


def test_daily_backups_age_out_and_the_date_holds(tmp_path, clock):
    with gnomon.open(tmp_path / "s.duckdb", clock=clock, sampling=False, scheduler=True, backup_days=30) as engine:
        engine.track("a", user_id="u1")
        engine.run_jobs()
        clock.advance(hours=5)
        certificate = engine.forget("u1")
        (left,) = certificate.backups
        assert (left.backups, left.gone, left.reason) == (1, NOW + timedelta(days=31), None)
        assert certificate.backups_gone == left.gone
        while clock() < certificate.backups_gone:
            assert NOW in [kept.created_at for kept in engine.backups()] or clock() > NOW + timedelta(days=30)
            clock.advance(days=10.35)
            engine.run_jobs()
        assert NOW not in [kept.created_at for kept in engine.backups()]


def test_one_that_stays_leaves_no_date(tmp_path, clock):
    with gnomon.open(tmp_path / "s.duckdb", clock=clock, sampling=False, scheduler=True) as engine:
        engine.trigger_backup()
        engine.trigger_backup(tmp_path / "elsewhere")
        certificate = engine.forget("u1")
        assert [one.gone is None for one in certificate.backups] == [False, True]
        assert certificate.backups_gone is None


def unreachable(monkeypatch):
    def entries(_self):
        raise StoreUnavailable("it does not answer", code="target-unavailable")

    monkeypatch.setattr(Folder, "entries", entries)


def test_a_target_that_cannot_be_reached_is_named_and_stops_nothing(engine, tmp_path, monkeypatch):
    engine.trigger_backup(tmp_path / "elsewhere")
    unreachable(monkeypatch)
    certificate = engine.forget("u1")
    place = str(tmp_path / "elsewhere")
    assert (place, None, None, "target-unavailable") in told(certificate) and place in certificate.remaining
    assert certificate.backups_gone is None and certificate.rows == 1 and people(engine) == 0


def test_a_folder_that_is_gone_is_not_taken_for_an_empty_one(engine, tmp_path):
    engine.trigger_backup(tmp_path / "elsewhere")
    shutil.move(tmp_path / "elsewhere", tmp_path / "taken-away")
    certificate = engine.forget("u1")
    assert told(certificate) == [(str(tmp_path / "elsewhere"), None, None, "target-unavailable")]
    assert certificate.remaining == (str(tmp_path / "elsewhere"),)


def test_a_setting_that_names_no_target_stops_no_erasure(tmp_path):
    with gnomon.open(tmp_path / "s.duckdb", backup_target="s3://") as engine:
        engine.track("a", user_id="u1")
        certificate = engine.forget("u1")
        assert certificate.backups[0].backups is None and certificate.rows == 1


@pytest.mark.parametrize(
    ("url", "reason"),
    [("kaggle://ann/backups", "keeps-versions"), ("git+ssh://git@git.example/backups.git", "keeps-history")],
)
def test_some_places_keep_what_was_removed(engine, monkeypatch, url, reason):
    class Empty:
        def entries(self):
            return []

    targets.remember(engine._hold.journal, url)
    real = aging.open_target
    monkeypatch.setattr(aging, "open_target", lambda given, *rest: Empty() if given == url else real(given, *rest))
    assert told(engine.forget("u1")) == [(url, 0, None, reason)]


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("git+https://TOKEN@git.example/backups.git?access=TOKEN", "git+https://git.example/backups.git"),
        ("git+ssh://git@git.example/backups.git", "git+ssh://git@git.example/backups.git"),
        ("s3://bucket/p?region=eu-central-1", "s3://bucket/p?region=eu-central-1"),
        ("file:///mnt/backups", "/mnt/backups"),
    ],
)
def test_no_secret_is_remembered(engine, url, kept):
    targets.remember(engine._hold.journal, url)
    assert without_secrets(url) == kept
    assert [value for key, value in engine._hold.journal.all_kept().items() if key.startswith(TARGETS)] == [kept]
