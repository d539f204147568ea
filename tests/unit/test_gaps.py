"""Gaps in answers: null where nobody was there to record, 0 where nothing happened, and how each way out shows it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

import gnomon
from gnomon import cli
from gnomon.event import Batch
from gnomon.query import gaps
from gnomon.query.gaps import gap_buckets, holes, in_words, with_own
from gnomon.testing import ManualClock
from gnomon.timerange import to_us

START = datetime(2026, 3, 2, tzinfo=UTC)  # a Monday
DAYS = ["2026-03-01", "2026-03-09"]
SHAPE = [
    0,
    1,
    0,
    None,
    None,
    2,
    0,
    None,
]  #: of `recorded`: unknown, alive (idle on the second day), dead, alive, future


def recorded(path, clock, **settings):
    """An engine that recorded on the 2nd, idled on the 3rd, was away on the 4th and 5th, and recorded on the 6th; it
    is the 7th now."""
    clock.now = START
    with gnomon.open(path, clock=clock, **settings) as engine:
        engine.track("a", source="x", duration_ms=5)
        engine.flush()
        clock.now = START + timedelta(days=1, hours=23)
    clock.now = START + timedelta(days=4, hours=1)
    engine = gnomon.open(path, clock=clock, **settings)
    for _ in range(2):
        engine.track("b", source="y", duration_ms=7)
    engine.record_metric("depth", 3)
    engine.flush()
    clock.now = START + timedelta(days=5, hours=12)
    return engine


@pytest.fixture
def clock():
    return ManualClock(START)


@pytest.fixture
def engine(tmp_path, clock):
    with recorded(tmp_path / "x.duckdb", clock) as found:
        yield found


def events(engine, span=DAYS, metric="events", **question):
    return [row[metric] for row in engine.query([metric], ["time:day"], span, **question)]


# -- the arithmetic


def test_holes_lie_between_and_behind_the_spans_never_before_them():
    alive = [(10, 20), (30, 40), (60, 60)]
    assert holes(alive, 0, 100) == ((21, 30), (41, 60), (61, 100))
    assert holes(alive, 21, 30) == ((21, 30),) and holes(alive, 10, 21) == ()
    assert holes(alive, 25, 50) == ((25, 30), (41, 50)) and holes(alive, 0, 10) == ()
    assert holes(alive, 70, 80) == ((70, 80),) and holes([], 0, 100) == ()
    assert holes([(0, 200)], 0, 100) == () and holes([(50, 99)], 0, 100) == ()


def test_a_bucket_is_a_gap_only_as_a_whole_and_only_by_its_part_of_the_range():
    buckets = (0, 10, 20, 30)
    assert gap_buckets([(10, 30)], buckets, 0, 40) == {10, 20}
    assert gap_buckets([(11, 29)], buckets, 0, 40) == set()
    assert gap_buckets([(5, 40)], buckets, 5, 40) == {0, 10, 20, 30}  # the first begins before the range
    assert gap_buckets([(5, 40)], buckets, 4, 40) == {10, 20, 30}
    assert gap_buckets([(20, 35)], buckets, 0, 35) == {20, 30}  # the last ends behind it, or behind now
    assert gap_buckets([(0, 10), (30, 40)], buckets, 0, 40) == {0, 30}


def test_the_asking_engine_adds_its_own_span():
    assert with_own(((0, 5), (10, 20)), (22, 30), 2) == ((0, 5), (10, 30))
    assert with_own(((0, 5), (10, 20)), (23, 30), 2) == ((0, 5), (10, 20), (23, 30))
    assert with_own(((0, 5), (10, 20)), (3, 15), 0) == ((0, 20),) and with_own((), (3, 15), 0) == ((3, 15),)
    assert with_own(((0, 5),), None, 9) == ((0, 5),)


def test_lengths_in_words():
    assert [in_words(s) for s in (0.2, 59, 61, 7_200, 12_000, 86_400, 90_061)] == [
        "less than 1 s", "59 s", "1 min 1 s", "2 h", "3 h 20 min", "1 d", "1 d 1 h"]  # fmt: skip


# -- series


def test_a_series_has_null_in_gaps_and_zero_where_it_was_idle(engine):
    found = engine.query(["events", "people", "mean_duration_ms"], ["time:day"], DAYS)
    assert [row["events"] for row in found] == SHAPE and [row["people"] for row in found][2:5] == [0, None, None]
    assert [found.is_gap(row) for row in found] == [False] * 3 + [True] * 2 + [False] * 3
    assert found.basis.gaps == 2
    ((start, end),) = found.gaps
    assert start - (START + timedelta(days=1, hours=23)) <= timedelta(microseconds=1)
    assert end == START + timedelta(days=4, hours=1)
    assert found.basis.uncollected_seconds == pytest.approx(50 * 3_600)
    assert "gaps: nothing was collected for 2 d 2 h of the range" in found.basis.steps


def test_rollups_and_raw_rows_have_the_same_gaps(engine, clock):
    clock.advance(hours=3)
    engine.trigger_aggregation()
    assert engine.query(["events"], ["time:day"], DAYS).basis.source != "raw"
    assert events(engine) == SHAPE == events(engine, basis="raw")
    assert events(engine, metric="people")[3:5] == [None, None]


def test_other_questions_keep_their_numbers_and_say_what_was_not_collected(engine):
    for dimensions in ([], ["source"], ["time:day", "source"], ["time:hour_of_day"]):
        found = engine.query(["events"], dimensions, DAYS)
        assert sum(row["events"] for row in found) == 3 and not found.gap_rows
        assert found.basis.gaps == 0 and found.basis.uncollected_seconds == pytest.approx(50 * 3_600)
        assert str(found.basis) == "raw, exact, 2 d 2 h without collection"
    assert engine.query(["events"], [], ["2026-03-02", "2026-03-03"]).basis.uncollected_seconds == 0


def test_what_a_filter_leaves_empty_is_a_gap_where_nobody_was_there(engine):
    assert events(engine, filters=["is", "source", "none"]) == [0, 0, 0, None, None, 0, 0, None]


def test_late_events_fill_a_gap(engine):
    engine.track("late", ts=START + timedelta(days=2, hours=9))
    engine.flush()
    assert events(engine) == [0, 1, 0, 1, None, 2, 0, None]


def test_an_imported_file_covers_its_own_time(tmp_path, engine):
    lines = [{"type": "i", "ts": f"2026-03-04T{hour:02}:30:00Z", "id": f"{hour}"} for hour in (3, 21)]
    (tmp_path / "log.ndjson").write_text("\n".join(map(json.dumps, lines)))
    for _ in range(2):
        engine.import_file(tmp_path / "log.ndjson")
        assert events(engine) == [0, 1, 0, 2, None, 2, 0, None]
    hours = engine.query(["events"], ["time:hour"], ["2026-03-04", "2026-03-05"])
    found = [row["events"] for row in hours]
    assert found[:3] == [None] * 3 and found[22:] == [None] * 2
    assert found[3] == found[21] == 1 and found[4:21] == [0] * 17


def test_a_store_of_imports_alone_has_no_gaps(tmp_path):
    for day in (4, 9):
        line = {"type": "i", "ts": f"2026-03-{day:02}T03:00:00Z"}
        (tmp_path / "log.ndjson").write_text(json.dumps(line))
        assert cli.main(["import", str(tmp_path / "log.ndjson"), "--store", str(tmp_path / "x.duckdb")]) == 0
    with gnomon.open(tmp_path / "x.duckdb", enabled=False, clock=ManualClock(START + timedelta(days=30))) as engine:
        assert events(engine, ["2026-03-03", "2026-03-11"]) == [0, 1, 0, 0, 0, 0, 1, 0]


def test_an_engine_that_only_asks_is_not_there_and_sees_what_others_add(tmp_path, clock):
    path = tmp_path / "x.duckdb"
    recorded(path, clock).close()
    clock.now = START + timedelta(days=6, hours=1)
    with gnomon.open(path, clock=clock, enabled=False) as asking:
        assert events(asking) == [0, 1, 0, None, None, 2, 0, None]
        before = asking._own_or_refuse().data_version()
        late = [(to_us(clock.now) + n, to_us(clock.now) + n, True) for n in range(2)]
        asking._journal.append([Batch("default", beats=late)])
        asking.flush()
        asking._hold.writer.wait_for(asking._journal.last_position(), 30.0)
        assert asking._own_or_refuse().data_version() > before and events(asking)[7] == 0
        clock.advance(hours=20)
        begun, until = to_us(START + timedelta(days=6, hours=1)), to_us(clock.now)
        for moment in range(begun, until, 100_000_000):  # each within the tolerance
            beat = Batch("default", beats=[(moment, moment + 100_000_000, True)])
            with asking._hold.writer.paused():
                asking._own_or_refuse().write([(asking._journal.last_position(), beat)], asking._journal.id)
        version = asking._own_or_refuse().data_version()
        hours = asking.query(["events"], ["time:hour"], ["2026-03-08T10:00:00Z", "2026-03-08T20:00:00Z"])
        assert [row["events"] for row in hours] == [0] * 10 and version == before + 2


def test_heartbeats_switched_off_tell_no_gap(tmp_path, clock):
    recorded(tmp_path / "x.duckdb", clock).close()
    with gnomon.open(tmp_path / "x.duckdb", clock=clock, heartbeat_seconds=0.0) as engine:
        assert events(engine) == [0, 1, 0, 0, 0, 2, 0, None] and engine.query(["events"]).gaps == []


def test_projects_have_gaps_of_their_own(tmp_path, clock):
    recorded(tmp_path / "x.duckdb", clock, project="one").close()
    with gnomon.open(tmp_path / "x.duckdb", clock=clock, project="two") as engine:
        assert events(engine) == [0] * 7 + [None]


def test_metric_samples_have_the_same_gaps(engine):
    found = engine.query(["samples", "mean_value"], ["time:day"], DAYS, dataset="samples")
    assert [row["samples"] for row in found] == [0, 0, 0, None, None, 1, 0, None]


def test_estimates_have_gaps_without_an_interval(tmp_path, clock):
    with recorded(tmp_path / "x.duckdb", clock) as engine:
        engine.track("w", weight=4.0)
        engine.flush()
        found = engine.query(["events"], ["time:day"], DAYS)
        assert not found.basis.exact and found.interval("events", 3).low is None and found[3]["events"] is None


def test_order_and_pages_keep_their_gaps(engine):
    found = engine.query(["events"], ["time:day"], DAYS, order_by=[["events", "desc"]])
    assert [row["events"] for row in found] == [2, 1, 0, 0, 0, None, None, None]
    assert sorted(found.text(row, "events") for row in found[5:]) == ["-", "gap", "gap"]
    first = engine.query(["events"], ["time:day"], DAYS, limit=4)
    rest = engine.query(["events"], ["time:day"], DAYS, limit=4, after=first.next)
    assert [row["events"] for row in [*first, *rest]] == SHAPE
    assert first.gap_rows == {3} and rest.gap_rows == {0} and first.basis.gaps == 2


# -- comparison


def test_a_change_from_or_to_a_gap_is_null_with_its_reason(engine):
    found = engine.query(["events", "success_rate"], ["time:day"], ["2026-03-04", "2026-03-06"], compare="previous")
    assert (found.change("events", 0).now, found.change("events", 0).before) == (None, 1)
    assert [found.change("events", n).reason for n in range(2)] == ["gap", "gap"]
    back = engine.query(["events"], ["time:day"], ["2026-03-06", "2026-03-08"], compare="previous", totals=True)
    assert [back.change("events", n).reason for n in range(2)] == ["gap", "gap"]
    assert back.change("events", 0).now == 2 and back.change("events", 0).before is None
    assert back.change("events", back.totals).reason == "no_baseline"
    plain = engine.query(["events"], ["time:day"], ["2026-03-03", "2026-03-04"], compare="previous")
    assert plain.change("events", 0).change == -1.0


# -- ways out


def test_each_way_out_shows_a_gap(engine, capsys, monkeypatch, tmp_path, clock):
    found = engine.query(["events"], ["time:day"], DAYS)
    assert [row["events"] for row in found.to_dicts()] == SHAPE
    assert found.to_arrow()["events"].to_pylist() == SHAPE and found.to_polars()["events"].to_list() == SHAPE
    assert found.to_pandas()["events"].isna().tolist() == [value is None for value in SHAPE]
    assert found.summary().count("gap") == 2 and "2 buckets without collection" in found.summary()
    assert found._repr_html_().count("<td>gap</td>") == 2
    one = engine.query(["events"], ["time:day"], ["2026-03-05", "2026-03-07"])
    assert one.summary().endswith("raw, exact, 1 bucket without collection")


def test_the_command_line_shows_gaps_and_is_not_there_itself(tmp_path, clock, capsys, monkeypatch):
    path = str(tmp_path / "x.duckdb")
    recorded(path, clock).close()
    words = ["query", "--store", path, "--dimensions", "time:day", "--date-range", ",".join(DAYS)]
    shown = {}
    for form in ("table", "csv", "json"):
        assert cli.main([*words, "--format", form]) == 0
        shown[form] = capsys.readouterr().out
    nulls = [row["events"] for row in json.loads(shown["json"])]
    assert nulls == [0, 1, 0, None, None, 2, 0, None]  # by the machine's clock all of them are over
    assert shown["csv"].splitlines()[4].endswith("+00:00,") and shown["table"].count("gap") >= 2
    assert cli.main(["doctor", "--store", path]) == 0
    assert "not collected in 7 days" in capsys.readouterr().out
    with gnomon.open(path, enabled=False) as engine:
        assert engine._own_or_refuse().ask(["SELECT count(*) FROM alive"], 5.0)[0].rows == [(2,)]


# -- deliberately broken: each promise has a variant that turns its test red


@pytest.mark.parametrize(
    ("name", "broken", "check"),
    [
        ("holes", lambda alive, start, end: ((start, end),) if alive else (), "series"),  # known before the first beat
        ("holes", lambda alive, start, end: (), "series"),
        ("gap_buckets", lambda found, buckets, start, end: frozenset(
            b for b in buckets if any(b < last and b + 86_400_000_000 > first for first, last in found)), "series"),
    ],
    ids=["before-the-first", "none", "touched"],
)  # fmt: skip
def test_broken_arithmetic_is_seen(engine, monkeypatch, name, broken, check):
    monkeypatch.setattr(f"gnomon.query.plan.{name}", broken)
    with pytest.raises(AssertionError):
        test_a_series_has_null_in_gaps_and_zero_where_it_was_idle(engine)


def test_an_asking_engine_that_trusts_the_version_is_seen(tmp_path, clock, monkeypatch):
    monkeypatch.setattr("gnomon.query.inquiry.read_alive", lambda store, *_: tuple(_first_seen(store)))
    _SEEN.clear()
    with pytest.raises(AssertionError):
        test_an_engine_that_only_asks_is_not_there_and_sees_what_others_add(tmp_path, clock)


_SEEN = {}


def _first_seen(store):
    return _SEEN.setdefault(store.data_version(), gaps.read_alive(store, "default", 5.0))


def test_files_that_make_a_first_heartbeat_are_seen(tmp_path, monkeypatch):
    from gnomon.store import aliveness

    honest = aliveness.changed

    def all_live(project, known, beats, slack):
        return honest(project, known, [(first, last, True) for first, last, _ in beats], slack)

    monkeypatch.setattr("gnomon.store.duckdb.writing.changed", all_live)
    with pytest.raises(AssertionError):
        test_a_store_of_imports_alone_has_no_gaps(tmp_path)


def test_files_that_cover_nothing_are_seen(tmp_path, engine, monkeypatch):
    from gnomon.store import aliveness

    honest = aliveness.changed

    def none_covered(project, known, beats, slack):
        return honest(project, known, [beat for beat in beats if beat[2]], slack)

    monkeypatch.setattr("gnomon.store.duckdb.writing.changed", none_covered)
    with pytest.raises(AssertionError):
        test_an_imported_file_covers_its_own_time(tmp_path, engine)
