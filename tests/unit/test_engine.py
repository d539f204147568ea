"""Opening, importing, looking at what was refused, health, and closing, as a host program meets them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import gnomon
from gnomon.errors import GnomonError, InvalidValue, StoreUnavailable
from gnomon.query import health as healths
from gnomon.testing import ManualClock

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)


@pytest.fixture
def engine():
    with gnomon.open(":memory:", clock=ManualClock(NOW), flush_seconds=60.0) as opened:
        yield opened


# -- opening ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["{}/x.duckdb", "duckdb://{}/x.duckdb", Path])
def test_every_way_to_name_a_file_is_the_same_file(tmp_path, form):
    with gnomon.open(tmp_path / "x.duckdb", clock=ManualClock(NOW)) as engine:
        engine.track("t")
    again = tmp_path / "x.duckdb" if form is Path else form.format(tmp_path)
    with gnomon.open(again, clock=ManualClock(NOW)) as engine:
        assert engine.query(["events"]).rows[0]["events"] == 1


def test_a_relative_path_and_a_link_are_the_same_file_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.duckdb").symlink_to(tmp_path / "x.duckdb")
    with gnomon.open("x.duckdb") as one, gnomon.open(tmp_path / "link.duckdb") as other:
        one.track("t")
        one.flush()
        assert other.query(["events"]).rows[0]["events"] == 1


def test_settings_come_from_the_environment_unless_given(tmp_path, monkeypatch):
    monkeypatch.setenv("GNOMON_DATABASE_URL", str(tmp_path / "env.duckdb"))
    monkeypatch.setenv("GNOMON_PROJECT", "from env")
    with gnomon.open() as engine:
        assert engine.settings.project == "from env"
    assert (tmp_path / "env.duckdb").exists()
    with gnomon.open(
        ":memory:", project="given", settings=gnomon.Settings(), timezones=["Asia/Kathmandu", "UTC"]
    ) as engine:
        assert (engine.settings.project, str(engine.zone)) == ("given", "Asia/Kathmandu")


def test_engines_of_one_process_share_a_store(tmp_path):
    one = gnomon.open(tmp_path / "x.duckdb", project="a", clock=ManualClock(NOW))
    two = gnomon.open(tmp_path / "x.duckdb", project="b", clock=ManualClock(NOW))
    one.track("t")
    two.track("t")
    two.track("t")
    one.close()  # the other one goes on
    two.flush()
    assert two.query(["events"]).rows[0]["events"] == 2 and two.owns_store
    two.close()
    with gnomon.open(tmp_path / "x.duckdb", project="a", clock=ManualClock(NOW)) as again:
        assert again.query(["events"]).rows[0]["events"] == 1


def test_two_stores_in_memory_have_nothing_in_common():
    with gnomon.open(":memory:") as one, gnomon.open(":memory:") as other:
        one.track("t")
        one.flush()
        other.flush()
        assert other.query(["events"]).rows[0]["events"] == 0


def test_a_store_in_memory_leaves_nothing_behind():
    with gnomon.open(":memory:") as engine:
        folder = engine._hold.file.parent
        assert folder.exists()
    assert not folder.exists()


def test_the_clock_is_the_one_that_was_given(engine):
    engine.track("t")
    engine.flush()
    assert engine.query(["events"], date_range=["2026-01-15", "2026-01-16"]).rows[0]["events"] == 1
    assert engine.query(["events"]).basis.end == NOW + timedelta(microseconds=1)
    engine.clock.advance(days=400)
    engine.track("t")
    engine.flush()
    assert [row["events"] for row in engine.query(["events"], ["time:year"])] == [1, 1]


# -- importing --------------------------------------------------------------------------------------------------------


def lines(path, events):
    path.write_text("".join(event if isinstance(event, str) else json.dumps(event) + "\n" for event in events))
    return path


def test_an_import_reports_what_became_of_each_line_and_may_be_repeated(tmp_path, engine):
    good = [{"type": "t", "ts": "2026-01-01T00:00:00Z", "id": f"i{n}", "source": "s"} for n in range(5)]
    bad = [{"type": "", "ts": "2026-01-01T00:00:00Z"}, {"type": "t", "ts": "2026-01-01"}, "no json\n"]
    file = lines(tmp_path / "x.ndjson", [*good, *bad, good[0]])
    report = engine.import_file(file)
    assert (report.lines, report.stored, report.duplicate, report.rejected.total()) == (9, 5, 1, 3)
    assert len(report.first_rejected) == 3 and [line for line, _, _ in report.first_rejected] == [6, 7, 8]
    assert "9 lines, 5 stored, 1 already there" in str(report) and "empty-name" in str(report)
    again = engine.import_file(file)
    assert (again.stored, again.duplicate) == (0, 6)
    books = engine.books()
    assert books.closes() and (books.stored, books.duplicate, books.rejected.total()) == (5, 7, 6)
    assert engine.query(["events"], ["source"]).to_dicts() == [{"source": "s", "events": 5}]


def test_an_import_reaches_back_to_1970_and_no_further(tmp_path, engine):
    file = lines(
        tmp_path / "x.ndjson",
        [{"type": "t", "ts": "1970-01-01T00:00:00Z"}, {"type": "t", "ts": "1969-12-31T23:59:59Z"}],
    )
    assert engine.import_file(file).stored == 1
    assert engine.query(["events"]).basis.start.year == 1970


@pytest.mark.parametrize(
    ("path", "more"),
    [("nothing.csv", {}), (".", {}), ("x.ndjson", {"format": "xml"}), ("x.ndjson", {"timezone": "Nowhere"})],
)
def test_a_file_that_cannot_be_imported(tmp_path, engine, path, more):
    lines(tmp_path / "x.ndjson", [{"type": "t", "ts": "2026-01-01T00:00:00Z"}])
    with pytest.raises(GnomonError):
        engine.import_file(tmp_path / path, **more)
    assert engine.books().received == 0


def test_an_empty_file(tmp_path, engine):
    report = engine.import_file(lines(tmp_path / "x.ndjson", []))
    assert (report.lines, report.stored, report.duplicate) == (0, 0, 0)


# -- the quarantine ---------------------------------------------------------------------------------------------------


def test_what_was_refused_can_be_looked_at(engine):
    engine.track("", source="s", id="first")
    engine.flush()
    engine.clock.advance(seconds=1)
    engine.record_request(status_code=99, url="http://u:secret@x/")
    engine.flush()
    newest, oldest = engine.quarantine()
    assert (oldest["code"], oldest["source"], oldest["id"], oldest["received_at"]) == ("empty-name", "s", "first", NOW)
    assert (
        newest["code"] == "out-of-range" and "status_code" in newest["detail"] and '"status_code":99' in newest["event"]
    )
    assert [entry["code"] for entry in engine.quarantine(limit=1)] == ["out-of-range"]
    assert [entry["code"] for entry in engine.quarantine(code="empty-name")] == ["empty-name"]
    assert engine.quarantine(limit=0) == [] == engine.quarantine(code="no such code")


def test_credentials_of_a_refused_url_are_not_kept(engine):
    engine.record_request(status_code=99, url="http://user:hunter2@x/a?token=hunter2")
    engine.record_request(url="http://user:hunter2@[bad/")
    engine.flush()
    assert len(engine.quarantine()) == 2
    assert "hunter2" not in str(engine.quarantine())


# -- health -----------------------------------------------------------------------------------------------------------


def test_a_sound_engine_says_so(engine):
    assert engine.health().sound and engine.health().facts["growth"] == "nothing recorded yet"
    engine.track("t")
    engine.record_metric("m", 1)
    engine.track("")
    engine.flush()
    facts = engine.health().facts
    assert (facts["events"], facts["metric_samples"], facts["quarantined"], facts["journal_lag"]) == (1, 1, 1, 0)
    assert facts["first_event"] == facts["last_event"] == "2026-01-15T12:00:00+00:00"
    assert json.dumps(engine.health().to_dict())
    assert facts["growth"].startswith("less than a day")
    engine.clock.advance(days=3)
    assert "the disk lasts" in engine.health().facts["growth"]


def findings(engine):
    return " | ".join(f"{finding.what}: {finding.remedy}" for finding in engine.health().findings)


def test_what_is_not_sound_is_named_with_its_remedy(tmp_path, monkeypatch):
    with gnomon.open(tmp_path / "x.duckdb", clock=ManualClock(NOW), flush_seconds=60.0) as engine:
        assert engine.health().sound
        (tmp_path / "x.duckdb.damaged-20260101T000000Z").write_text("x")
        assert "x.duckdb.damaged-20260101T000000Z" in findings(engine)
        monkeypatch.setattr(healths, "MOST_WAITING_BATCHES", 0)
        with engine._hold.writer._work:
            engine.track("t")
            engine._make_durable()
            assert "batches behind the journal" in findings(engine)
        engine.flush()
        usage = type("Usage", (), {"free": 1024})
        monkeypatch.setattr("gnomon.engine.shutil.disk_usage", lambda path: usage)
        assert "Free disk space" in findings(engine)


# -- flushing ---------------------------------------------------------------------------------------------------------


def test_a_flush_that_is_durable_but_not_yet_to_be_asked_says_so(engine):
    engine.track("t")
    with engine._hold.writer._work, pytest.raises(StoreUnavailable) as caught:
        engine.flush(timeout=0.2)
    assert caught.value.code == "not-queryable"
    engine.flush()
    assert engine.query(["events"]).rows[0]["events"] == 1


def test_a_flush_of_nothing_returns(engine):
    engine.flush()
    engine.flush(timeout=0.0)
    assert engine.books().received == 0


def test_a_clock_without_a_zone_is_refused_when_it_is_asked():
    with gnomon.open(":memory:", clock=lambda: datetime(2026, 1, 1)) as engine, pytest.raises(InvalidValue):
        engine.query(["events"])
