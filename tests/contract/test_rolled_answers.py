"""Answers that rest on rollups where something else goes on: two grains, other retention of a type, pages, upkeep in
the middle of a question, damage. Each was silently wrong once."""

import itertools
import json
import random
from datetime import UTC, datetime, timedelta

import pytest

import embedded
import gnomon
from gnomon.errors import InvalidValue, RangeTooLarge, UnknownName
from gnomon.ingest.journal import Journal
from gnomon.query import inquiry, relations, sources, state
from gnomon.store import pruning
from gnomon.store.duckdb import salvage
from gnomon.store.duckdb.faults import suspect_mark
from gnomon.testing import ManualClock

NOW = datetime(2026, 3, 20, 12, tzinfo=UTC)


@pytest.fixture
def clock():
    return ManualClock(NOW)


_SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("clickhouse", "cluster")]


@pytest.fixture(params=["duckdb", "postgres", *_SLOW])
def place(request, tmp_path):
    """What `gnomon.open` is told of where the store is."""
    if request.param == "duckdb":
        return {"url": tmp_path / "x.duckdb"}
    if request.param == "clickhouse":
        return {"url": embedded.url(), "data_dir": str(tmp_path / "data")}
    return {"url": request.getfixturevalue(request.param).url(), "data_dir": str(tmp_path / "data")}


@pytest.fixture
def engine(place, clock):
    with gnomon.open(**place, clock=clock, sampling=False, rollup_lag_seconds=0, cache_entries=0) as opened:
        yield opened


def fill(engine, days=10, types=("request", "debug")):
    for hour in range(days * 24):
        for type_ in types:
            engine.track(type_, user_id=f"u{hour % 5}", source=f"s{hour % 3}", endpoint=f"/{hour % 40}",
                         ts=NOW - timedelta(hours=hour + 0.5))  # fmt: skip
    engine.flush()


@pytest.mark.parametrize("dimensions", [
    ["time:day", "time:hour_of_day"], ["time:hour_of_day", "time:day"], ["time:week", "time:hour"],
    ["time:day_of_week", "time:hour_of_day"],
])  # fmt: skip
def test_people_by_two_grains_are_those_of_the_raw_rows(engine, dimensions):
    fill(engine)
    raw = engine.query(["people", "events"], dimensions, "10d", basis="raw")
    engine.trigger_aggregation()
    rolled = engine.query(["people", "events"], dimensions, "10d")
    assert rolled.basis.source != "raw" and rolled.to_dicts() == raw.to_dicts()


def people_by_the_hour_of_six_years(engine):
    for years in (0, 6):
        engine.track("request", user_id="u1", ts=NOW - timedelta(days=365 * years, hours=30))
    engine.flush()
    engine.trigger_aggregation()
    found = engine.query(["people"], ["time:hour_of_day"], "all")
    assert found.basis.source == "raw" and found.to_dicts() == [{"time:hour_of_day": 6, "people": 1}]


def test_people_by_the_hour_of_many_years_are_told_by_the_raw_rows(engine):
    people_by_the_hour_of_six_years(engine)
    engine.set_retention_policy(raw_data_days=9)
    engine.prune()
    with pytest.raises(InvalidValue, match="hours") as refused:
        engine.query(["people"], ["time:hour_of_day"], "all")
    assert refused.value.code == "raw-rows-gone"


def test_days_of_people_that_are_cut_into_any_number_of_hours_are_found(engine, monkeypatch):
    monkeypatch.setattr(sources, "MOST_HOURS", 2**40)
    with pytest.raises(RangeTooLarge):
        people_by_the_hour_of_six_years(engine)


ZONES = ("UTC", "Europe/London", "Asia/Kathmandu", "America/St_Johns")
GROUPS = ([], ["time:day"], ["time:week"], ["time:month"], ["time:hour"], ["source"], ["time:day", "source"])


@pytest.fixture
def zoned(place, clock):
    with gnomon.open(
        **place, clock=clock, sampling=False, rollup_lag_seconds=0, cache_entries=0, timezones=ZONES
    ) as opened:
        yield opened


def test_people_of_rollups_late_rows_and_today_are_those_of_the_raw_rows(zoned, clock):
    """London's clocks change within the range: its days are those of UTC in winter only."""
    draw = random.Random(5)

    def record(days, count):
        for _ in range(count):
            user = f"u{int(draw.expovariate(0.05))}"
            zoned.track("request", user_id=user, source=draw.choice("abc"),
                        ts=clock() - timedelta(days=draw.random() * days))  # fmt: skip
        zoned.flush()

    clock.advance(days=14)
    record(16, 1_500)
    zoned.trigger_aggregation()
    record(16, 60)  # late
    clock.advance(hours=5, minutes=20)
    record(0.2, 60)  # behind the watermark
    spans = (["2026-03-19", "2026-04-04"], ["2026-03-25T06:15:00Z", "2026-04-03T16:45:00Z"])
    for dimensions, zone, span in itertools.product(GROUPS, ZONES, spans):
        question = {"metrics": ["people"], "dimensions": dimensions, "date_range": span, "timezone": zone}
        raw, rolled = zoned.query(**question, basis="raw"), zoned.query(**question)
        assert rolled.to_dicts() == raw.to_dicts(), (dimensions, zone, span)
        assert rolled.basis.source != "raw", (dimensions, zone, span)


def test_late_people_that_are_counted_twice_are_found(zoned, clock, monkeypatch):
    def broken(*plan):
        found = relations.people_by_day(*plan)
        return found and found.replace("WHERE a.known IS NULL", "WHERE true")

    monkeypatch.setattr(state, "people_by_day", broken)
    with pytest.raises(AssertionError):
        test_people_of_rollups_late_rows_and_today_are_those_of_the_raw_rows(zoned, clock)


@pytest.mark.parametrize(
    ("rollups", "dimensions", "kept"),
    [
        (("source", "method+endpoint"), ["source"], True),
        (("source", "method+endpoint"), ["endpoint", "type"], True),
        (("source", "method+endpoint"), ["endpoint", "source"], False),
        (("source", "method+endpoint"), ["success"], False),
        (("endpoint+source",), ["source", "endpoint"], True),
        ((), ["type"], True),
        ((), ["source"], False),
    ],
)
def test_what_rollups_keep_apart_is_a_setting(place, clock, rollups, dimensions, kept):
    with gnomon.open(**place, clock=clock, rollup_lag_seconds=0, rollups=rollups) as engine:
        fill(engine, 4)
        question = {"metrics": ["events", "people"][: 1 + ("endpoint" not in dimensions)], "dimensions": dimensions,
                    "date_range": ["2026-03-17", "2026-03-20"]}  # fmt: skip
        raw = engine.query(**question, basis="raw").to_dicts() if "success" not in dimensions else []
        engine.set_retention_policy(raw_data_days=1)
        engine.prune()
        if kept:
            answer = engine.query(**question)
            assert answer.to_dicts() == raw and answer.basis.source != "raw"
        else:
            with pytest.raises(InvalidValue) as caught:
                engine.query(**question)
            assert caught.value.code == "raw-rows-gone" and "apart" in str(caught.value)


def test_a_rollup_of_unknown_dimensions_is_refused(tmp_path, clock):
    with gnomon.open(tmp_path / "x.duckdb", clock=clock, rollups=("sorce",)) as engine, pytest.raises(UnknownName):
        engine.trigger_aggregation()


def test_an_import_says_what_it_could_not_store_because_its_time_was_pruned(engine, tmp_path):
    fill(engine, 4)
    engine.set_retention_policy(raw_data_days=2)
    engine.prune()
    file = tmp_path / "late.ndjson"
    moments = [NOW - timedelta(days=3), NOW - timedelta(days=3, hours=1), NOW - timedelta(hours=1)]
    file.write_text("".join(f'{{"type": "request", "ts": "{moment.isoformat()}"}}\n' for moment in moments))
    report = engine.import_file(file)
    assert (report.lines, report.stored, report.duplicate, report.rejected) == (3, 1, 0, {"sealed": 2})
    again = engine.import_file(file)
    assert (again.stored, again.duplicate, again.rejected) == (0, 1, {"sealed": 2})
    assert {json.loads(one["event"])["type"] for one in engine.quarantine(code="sealed")} == {"request"}
    assert engine.books().closes()


def test_who_is_erased_leaves_the_local_day_in_which_raw_rows_begin(tmp_path):
    clock = ManualClock(datetime(2026, 1, 15, 12, tzinfo=UTC))
    with gnomon.open(tmp_path / "x.duckdb", clock=clock, timezones=["Asia/Kathmandu"], rollup_lag_seconds=0) as engine:
        engine.track("request", user_id="u1", ts="2026-01-14T03:00:00Z")
        engine.track("request", user_id="u2", ts="2026-01-13T20:00:00Z")  # the same day in Kathmandu, not in UTC
        engine.flush()
        engine.set_retention_policy(raw_data_days=1, hourly_aggregates_days=1)
        engine.prune()
        span = {"date_range": ["2026-01-14", "2026-01-15"], "timezone": "Asia/Kathmandu"}
        assert engine.query(["events", "people"], [], **span).to_dicts() == [{"events": 2, "people": 2}]
        engine.forget("u1", delete_events=True)
        assert engine.query(["events", "people"], [], **span).to_dicts() == [{"events": 1, "people": 1}]


def test_forgetting_keeps_the_totals_of_a_type_whose_raw_rows_are_gone(engine):
    fill(engine)
    span = ["2026-03-09", "2026-03-21"]
    engine.set_retention_policy(raw_data_days=9, by_type={"debug": 2})
    engine.prune()
    before = engine.query(["events"], ["type"], span).to_dicts()
    engine.forget("u1")
    assert engine.query(["events"], ["type"], span).to_dicts() == before
    assert sum(row["events"] for row in before) == 480


def test_a_type_that_is_kept_longer_from_now_on_is_not_sealed_by_the_others(engine, clock):
    fill(engine, 3)
    engine.set_retention_policy(raw_data_days=2)
    engine.prune()
    engine.set_retention_policy(by_type={"debug": 9}, hourly_aggregates_days=30)
    engine.prune()
    clock.advance(days=4)
    engine.prune()
    engine.track("debug", ts=NOW - timedelta(hours=1))  # before the edge of the others
    engine.flush()
    assert not engine.books().rejected
    assert engine.query(["events"], [], ["2026-03-19", "2026-03-21"], [["is", "type", ["debug"]]], basis="raw")


def test_pages_are_of_one_moment_though_rollups_grow_between_them(engine, clock):
    fill(engine, 2, ("request",))
    engine.trigger_aggregation()
    question = {
        "metrics": ["events"],
        "dimensions": ["endpoint"],
        "date_range": ["2026-03-18", "2026-03-20"],
        "limit": 15,
    }
    expected = {row["endpoint"]: row["events"] for row in engine.query(**{**question, "limit": 100})}
    page = engine.query(**question)
    seen = page.to_dicts()
    for number in range(200):
        engine.track("request", endpoint=f"/{number % 40}", ts=NOW - timedelta(days=1))
    engine.flush()
    engine.trigger_aggregation()
    while page.next:
        page = engine.query(**question, after=page.next)
        seen += page.to_dicts()
    assert {row["endpoint"]: row["events"] for row in seen} == expected and len(seen) == len(expected)


@pytest.mark.parametrize("upkeep", ["roll up", "prune"])
def test_upkeep_in_the_middle_of_a_question_changes_no_answer(engine, monkeypatch, upkeep):
    fill(engine, 5)
    engine.trigger_aggregation()
    for hour in range(50):
        engine.track("request", source="late", ts=NOW - timedelta(hours=hour + 30))
    engine.flush()
    engine.set_retention_policy(raw_data_days=1)
    span = ["2026-03-10", "2026-03-21"]
    expected = engine.query(["events"], ["source"], span).to_dicts()
    store = type(engine._own_or_refuse())
    honest, done = store.ask, []

    def ask(self, statements, timeout):
        if not done and any("GROUP BY" in statement and "events" in statement for statement in statements):
            done.append(1)
            engine.trigger_aggregation() if upkeep == "roll up" else engine.prune()
        return honest(self, statements, timeout)

    monkeypatch.setattr(store, "ask", ask)
    assert engine.query(["events"], ["source"], span).to_dicts() == expected and done


def test_events_that_a_damaged_file_lost_and_the_journal_brings_back_count_once(tmp_path, clock, monkeypatch):
    """The rollups of a file that cannot be read whole may hold what the journal is about to bring again."""
    honest = salvage._salvage_table

    def without_events(con, table, report):
        return honest(con, table, report) if table != "events" else False

    monkeypatch.setattr(salvage, "_salvage_table", without_events)
    # Opening and closing forget what a checkpoint holds; here the journal still has all of it, as after a crash.
    monkeypatch.setattr(Journal, "forget_up_to", lambda self, position: None)
    with gnomon.open(tmp_path / "x.duckdb", clock=clock, sampling=False, rollup_lag_seconds=0) as engine:
        for type_ in "abcd":  # each a data version of its own
            fill(engine, 1, (type_,))
        engine.trigger_aggregation()
    suspect_mark(str(tmp_path / "x.duckdb")).touch()
    with gnomon.open(tmp_path / "x.duckdb", clock=clock, sampling=False, rollup_lag_seconds=0) as engine:
        engine.track("request", ts=NOW - timedelta(hours=30))
        engine.flush()
        for _ in range(2):
            assert engine.query(["events"], [], ["2026-03-17", "2026-03-21"]).to_dicts() == [{"events": 97}]
            engine.trigger_aggregation()


def test_days_of_a_zone_that_was_minutes_off_are_cut_where_hours_are(tmp_path, clock):
    words = {"timezones": ["Africa/Monrovia"], "rollup_lag_seconds": 0}
    lines = [f'{{"type": "a", "id": "{n}", "ts": "1971-06-{1 + n // 96:02}T{n // 4 % 24:02}:{n % 4 * 15 + 7:02}:00Z"}}'
             for n in range(400)]  # fmt: skip
    (tmp_path / "old.ndjson").write_text("\n".join(lines))
    with gnomon.open(tmp_path / "x.duckdb", clock=clock, **words) as engine:
        engine.import_file(tmp_path / "old.ndjson")
        spans = [["1971-06-02", "1971-06-04"], ["1971-06-01T10:00:00Z", "1971-06-03T10:15:00Z"]]
        raw = [engine.query(["events", "people"], [], span, timezone=zone, basis="raw").to_dicts()
               for span in spans for zone in ("Africa/Monrovia", "UTC")]  # fmt: skip
        engine.trigger_aggregation()
        assert raw == [engine.query(["events", "people"], [], span, timezone=zone).to_dicts()
                       for span in spans for zone in ("Africa/Monrovia", "UTC")]  # fmt: skip


def pruned_samples(engine):
    """Samples of five days, of which the older two are pruned; asks how many there are in a range."""

    def told(span):
        return engine.query(["events"], [], span, dataset="samples")[0]["events"]

    for days_ago in range(5):
        engine.record_metric("depth", 1.0, ts=NOW - timedelta(days=days_ago))
    engine.flush()
    engine.set_retention_policy(metric_days=2)
    assert (engine.prune(dry_run=True).samples, told("all")) == (2, 5)
    assert engine.prune().samples == 2
    return told


def test_samples_of_pruned_time_are_refused_not_told_in_part(engine):
    told = pruned_samples(engine)
    engine.record_metric("depth", 1.0, ts=NOW - timedelta(days=4))  # late
    engine.flush()
    assert told(["2026-03-18", "2026-03-21"]) == told("all") == 3
    with pytest.raises(InvalidValue, match="pruned") as refused:
        told(["2026-03-17", "2026-03-21"])
    assert refused.value.code == "raw-rows-gone"
    assert engine.prune().samples == 1 and told("all") == 3


def test_samples_without_an_edge_would_be_told_in_part(engine, monkeypatch):
    monkeypatch.setattr(pruning, "note_edge", lambda *_: [])
    assert pruned_samples(engine)(["2026-03-15", "2026-03-21"]) == 3


def totals_with_late_rows(engine):
    """What rollups tell and raw rows say after rows came behind the watermark."""
    fill(engine, days=3)
    engine.trigger_aggregation()
    assert engine.query(["events"], [], "3d").basis.source == "rollups and raw"  # of today
    engine.track("request", user_id="late", ts=NOW - timedelta(days=1))
    engine.flush()
    rolled, raw = (engine.query(["events", "people"], ["time:day"], "3d", basis=basis) for basis in ("auto", "raw"))
    return rolled.to_dicts(), raw.to_dicts()


def test_a_row_that_comes_late_is_in_the_next_answer(engine):
    rolled, raw = totals_with_late_rows(engine)
    assert rolled == raw


def test_answers_that_do_not_look_for_late_rows_are_found(engine, monkeypatch):
    monkeypatch.setattr(inquiry, "any_late", lambda *_: "SELECT 1 FROM state WHERE 1 = 0")
    rolled, raw = totals_with_late_rows(engine)
    assert rolled != raw


def test_a_row_that_comes_late_between_plan_and_answer_is_in_it(engine, monkeypatch):
    fill(engine, days=3)
    engine.trigger_aggregation()
    span = ["2026-03-18", "2026-03-20"]
    (before,) = engine.query(["events"], [], span, basis="raw").to_dicts()
    plan, came = inquiry.make_plan, []

    def meanwhile(*given):
        made = plan(*given)
        if not came:
            came.append(1)
            engine.track("request", user_id="late", ts=NOW - timedelta(days=1))
            engine.flush()
        return made

    monkeypatch.setattr(inquiry, "make_plan", meanwhile)
    assert engine.query(["events"], [], span).to_dicts() == [{"events": before["events"] + 1}]
