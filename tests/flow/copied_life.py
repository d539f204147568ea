"""A store with everything in it that a copy must carry, and all that can be asked of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import gnomon
from gnomon.ingest.recovery import RESTORED
from gnomon.ingest.replica import KEPT_STORE
from gnomon.store.carrying import TABLES
from gnomon.testing import ManualClock

NOW = datetime(2026, 3, 28, 13, 7, tzinfo=UTC)
HOSTILE = ("o'hara", 'q"uote', "back\\slash", "🚀", "line\nbreak", "\t", "null", "'; DROP TABLE events; --", "%s", "{}",
           "ü", "￮", "\U00010000", "1", "a,b", "\\N")  # fmt: skip
PROJECTS = ("shop", "o'ther 🚀")
ALL = ["2026-02-25", "2026-03-29"]
LATELY = ["2026-03-26", "2026-03-29"]  #: of which raw rows are kept
QUESTIONS = [
    (["events", "people", "requests", "success_rate"], [], {}),
    (["events", "people"], ["time:day"], {"timezone": "Asia/Kathmandu"}),
    (["events", "mean_duration_ms", "p95_duration_ms", "sum_bytes_sent", "min_duration_ms", "max_bytes_sent"],
     ["source"], {}),
    (["requests", "failures", "unknown"], ["type", "time:hour"], {"date_range": LATELY}),
    (["events"], ["properties.plan"], {"date_range": LATELY}),
    (["events", "sessions"], ["user_id"], {"date_range": LATELY}),
    (["events"], ["status_class", "endpoint", "method"], {"date_range": LATELY}),
    ([{"agg": "sum", "field": "properties.n", "as": "n"}], ["application"], {"date_range": LATELY}),
]  # fmt: skip
SETTINGS = {"sampling": True, "sampling_low": 60.0, "sampling_high": 120.0, "sampling_rate": 0.25,
            "rollup_lag_seconds": 0, "sampling_floor_per_source": 1, "scheduler": False, "threads": 1,
            "checkpoint_seconds": 1_000.0, "timezones": ["UTC", "Asia/Kathmandu"]}  # fmt: skip


def opened(url, clock, project=PROJECTS[0], data_dir=None, **changes):
    """An engine with the settings of this life."""
    more = {} if data_dir is None else {"data_dir": str(data_dir)}
    return gnomon.open(url, project=project, clock=clock, **{**SETTINGS, **more, **changes})


def record(engine, n, since=0, days=6):
    """Events of the last days: of hostile values, by known and unknown people, sampled, weighted and refused ones."""
    now = engine.clock()
    for number in range(since, since + n):
        ts = now - timedelta(hours=(number * 7.3) % (24 * days))
        text = HOSTILE[number % len(HOSTILE)]
        engine.track("page_view", id=f"e{number}" if number % 2 else None, ts=ts, user_id=f"user {number % 9}",
                     source=text, session_id=f"s{number % 5}", weight=1 + number % 3 / 2,
                     properties={"plan": text, "n": number, "x": [1, {"y": None}]})  # fmt: skip
        engine.record_request(source="proxy", status_code=200 + number % 2 * 300, duration_ms=number % 50 / 7, ts=ts,
                              bytes_sent=2**40 + number, url=f"https://example.com/{number % 4}", method="GET",
                              device_id=f"d{number % 11}", application=text)  # fmt: skip
        if number % 10 == 0:
            engine.record_metric("depth", number / 3, labels={"queue": text}, id=f"m{number}" if number % 20 else None)
            engine.track("")  # refused: it goes to the quarantine
    engine.flush()


def live(url, clock, data_dir=None, n=60):
    """All of it: two projects, rolled up, pruned, a person forgotten, late events, policies."""
    with opened(url, clock, PROJECTS[1], data_dir) as engine:
        record(engine, n // 3)
        engine.trigger_aggregation()
    with opened(url, clock, data_dir=data_dir) as engine:
        record(engine, n)
        engine.set_retention_policy(raw_data_days=3)
        engine.set_sampling_thresholds(50, 100, 0.5)
        engine.trigger_aggregation()
        engine.prune()
        record(engine, n // 3, since=n, days=2)  # late ones; some before the edge are sealed
        record(engine, 5, since=n * 2, days=9)
        engine.forget("user 3")
        clock.advance(minutes=20)
        engine.track("late", user_id="user 1", ts=clock() - timedelta(days=1))
        engine.flush()


def told(engine):
    """Everything that can be asked of one project."""
    asked = [
        engine.query(metrics, dimensions, totals=True, **{"date_range": ALL, **more}).to_dicts()
        for metrics, dimensions, more in QUESTIONS
    ]
    kept = {
        key: value
        for key, value in engine._hold.journal.all_kept().items()
        if key not in (RESTORED, KEPT_STORE) and not key.startswith("names:")
    }
    books = [engine.books(kind).to_dict() for kind in ("event", "sample")]
    quarantine = sorted(engine.quarantine(1_000), key=repr)
    people = [engine.user(f"user {number}").to_dict() for number in (1, 3, 5)]
    rest = [kept, books, quarantine, engine.get_retention_policy(), engine.sampling_thresholds()]
    return [_rounded(asked), _rounded(people), *rest]


def _rounded(value):
    """Sums of doubles depend on the order of rows in their last digit."""
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(part) for part in value]
    return float(f"{value:.12g}") if isinstance(value, float) else value


def all_told(url, clock, data_dir=None):
    """Of both projects, with the very rows of every table but those of spans, which another opening may join."""
    found = []
    for project in PROJECTS:
        with opened(url, clock, project, data_dir, heartbeat_seconds=0) as engine:
            found.append(told(engine))
            rows = rows_of(engine)
    return found, rows


def rows_of(engine):
    """Every row, in an order of its own; read in another way than a copy does."""
    store = engine._own_or_refuse()
    names = [name for name in TABLES if name != "alive"]
    asked = [f"SELECT {', '.join(TABLES[name].columns)} FROM {name}" for name in names]
    tables = dict(zip(names, store.ask(asked, 60.0), strict=True))
    return {name: sorted(map(_plain, table.rows)) for name, table in tables.items()}


def _plain(row):
    return repr([float(value) if type(value).__name__ == "Decimal" else value for value in row])


def clock_now():
    """A clock at the moment of this life."""
    return ManualClock(NOW)
