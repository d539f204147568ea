"""What the certificate of an erasure says of backups: at every target that was used, and never more than is true."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta

import pytest

import gnomon
from gnomon.errors import InvalidValue, StoreUnavailable
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
        ("git+ssh://TOKEN@git.example:22/backups.git#TOKEN", "git+ssh://git.example:22/backups.git"),
        ("s3://bucket/p?region=eu-central-1", "s3://bucket/p?region=eu-central-1"),
        (
            "s3://b/p?region=x&endpoint=https://u:TOKEN@minio:9000/s?t=TOKEN%23TOKEN",
            "s3://b/p?endpoint=https://minio:9000/s&region=x",
        ),
        ("s3://TOKEN@b/p", "s3://b/p"),
        ("s3://TOKEN:@b/p", "s3://b/p"),
        ("gs://b/p?key=TOKEN", "gs://b/p"),
        ("az://c/p#sig=TOKEN", "az://c/p"),
        ("kaggle://o/d?key=TOKEN", "kaggle://o/d"),
        ("file:///mnt/b?x=TOKEN", "/mnt/b"),
        ("file:///mnt/backups", "/mnt/backups"),
    ],
)
def test_no_secret_is_remembered(engine, url, kept):
    targets.remember(engine._hold.journal, url)
    assert without_secrets(url) == kept
    assert [value for key, value in engine._hold.journal.all_kept().items() if key.startswith(TARGETS)] == [kept]


@pytest.mark.parametrize(
    "url",
    ["s3://b/p?endpoint=https://user:TOKEN@minio", "s3://b/p?endpoint=https://TOKEN@minio&endpoint=https://minio",
     "s3://b/p?secret=TOKEN", "s3://b/p?secret=", "kaggle://o/d?key=TOKEN", "git+https://h/r?access=TOKEN",
     "git+ssh://h/r?region=TOKEN", "file:///mnt/b?x=TOKEN", "s3://TOKEN:@b/p", "s3://b/p?endpoint=http://[TOKEN"],
)  # fmt: skip
def test_a_target_with_what_may_be_a_secret_is_refused_and_kept_nowhere(tmp_path, url):
    with gnomon.open(tmp_path / "s.duckdb", backup_target=url) as engine:
        engine.track("a", user_id="u1")
        with pytest.raises(InvalidValue) as refused:
            engine.trigger_backup()
        certificate = engine.forget("u1")
    assert refused.value.code == "bad-target" and "TOKEN" not in str(refused.value)
    assert "TOKEN" not in str(certificate) and certificate.backups[0].backups is None
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"TOKEN" in path.read_bytes()]


@pytest.mark.parametrize("url", ["s3://[x/y", "s3://b/p?endpoint=http://[x"])
def test_a_setting_that_is_no_url_costs_no_certificate(tmp_path, url):
    with gnomon.open(tmp_path / "s.duckdb", backup_target=url) as engine:
        engine.track("a", user_id="u1")
        certificate = engine.forget("u1")
        assert certificate.rows == 1 and len(certificate.remaining) == 1 and certificate.backups_gone is None
        assert certificate.backups[0].reason in ("target-unavailable", "bad-target")


def test_whatever_a_target_does_costs_no_certificate(engine, tmp_path, monkeypatch):
    engine.trigger_backup(tmp_path / "elsewhere")
    for failing in ("open_target", "target_url", "remembered"):
        with monkeypatch.context() as broken:
            broken.setattr(aging, failing, lambda *_: 1 / 0)
            engine.track("a", user_id=failing)
            certificate = engine.forget(failing)
            assert certificate.rows == 1 and certificate.backups_gone is None
            assert (None, "target-unavailable") in [(one.backups, one.reason) for one in certificate.backups]


def test_backups_from_before_there_was_a_data_dir_are_told(tmp_path, clock):
    with gnomon.open(tmp_path / "s.duckdb", clock=clock) as engine:
        engine.trigger_backup()
        for key in engine._hold.journal.all_kept():  # made by a version that did not remember targets
            if key.startswith(TARGETS):
                engine._hold.journal.keep_only({})
    more = {"clock": clock, "scheduler": True, "data_dir": str(tmp_path / "data")}
    with gnomon.open(tmp_path / "s.duckdb", **more) as engine:
        engine.track("a", user_id="u1")
        engine.run_jobs()
        clock.advance(hours=5)
        certificate = engine.forget("u1")
    before, since = told(certificate)
    assert before == (str(tmp_path / "backups"), 1, None, "no-schedule") and certificate.backups_gone is None
    assert since == (str(tmp_path / "data" / "backups"), 1, NOW + timedelta(days=31), None)
    clock.advance(hours=1)
    with gnomon.open(tmp_path / "s.duckdb", **more, backup_target=str(tmp_path / "new")) as engine:
        assert [one[:2] for one in told(engine.forget("u1"))] == [before[:2], since[:2]]


def folder_of_two_hosts(postgres, tmp_path):
    """One host backs up into a folder; another one, on which that folder is empty or is its own, forgets."""
    url, place = postgres.url(), tmp_path / "backups"
    first, second = (gnomon.open(url, data_dir=str(tmp_path / f"data{n}"), sampling=False, scheduler=True,
                                 backup_daily=True, backup_target=str(place)) for n in range(2))  # fmt: skip
    with first, second:
        second.track("a", user_id="u1")
        second.flush()
        first.trigger_backup()
        shutil.rmtree(place)
        place.mkdir()
        empty = second.forget("u1")
        second.trigger_backup()
        own = second.forget("u1")
        return str(place), empty, own


def test_a_folder_that_another_host_used_is_not_taken_for_the_own_one(postgres, tmp_path):
    place, empty, own = folder_of_two_hosts(postgres, tmp_path)
    assert told(empty) == [(place, None, None, "elsewhere")] and empty.remaining == (place,)
    assert [(one.backups, one.reason) for one in own.backups] == [(1, None), (None, "elsewhere")]
    assert own.backups_gone is None and own.remaining == (place,)


def test_a_folder_without_its_host_is_found(postgres, tmp_path, monkeypatch):
    monkeypatch.setattr(targets, "_local", lambda _: False)
    assert told(folder_of_two_hosts(postgres, tmp_path)[1]) == []
