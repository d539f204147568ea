"""Rolling up on PostgreSQL in memory and on the disk: two ways to the same states, also of what comes late."""

import random
from datetime import UTC, datetime, timedelta

import pytest

import gnomon
from gnomon.store import rollups_postgres, states_postgres

NOW = datetime(2026, 3, 30, 12, tzinfo=UTC)  # Berlin's clocks changed the day before
STATES = (
    "SELECT rollup, tier, ts, type, source, application, endpoint, status_code, success, n, "
    "round(v::numeric, 6), duration_ms_has, round(duration_ms_sum::numeric, 6), duration_ms_min, duration_ms_max, "
    "round(duration_ms_v2::numeric, 3), bytes_sent_has, bytes_sent_sum, bytes_sent_min, bytes_sent_max, "
    "(SELECT array_agg(b || ':' || w ORDER BY b) FROM unnest(duration_ms_at, duration_ms_w) AS u(b, w)) FROM rolled"
)
PEOPLE = (
    "SELECT a.day, p.actor, a.type, a.source, a.application, a.weight, a.low, a.high FROM activity AS a "
    "JOIN people AS p ON p.number = a.person",
    "SELECT a.day, p.actor, a.weight, a.low, a.high FROM active_days AS a JOIN people AS p ON p.number = a.person",
)


def send(engine, rng, count, weights):
    for _ in range(count):
        engine.track(
            rng.choice(["request", "view"]), ts=NOW - timedelta(seconds=rng.randrange(4 * 86_400)),
            user_id=rng.choice([None, "u1", "u2", "u3"]), device_id=rng.choice([None, "d1"]),
            source=rng.choice([None, "a", "b"]), application=rng.choice([None, "web"]),
            endpoint=rng.choice([None, "/x"]), status_code=rng.choice([None, 200, 503]),
            success=rng.choice([None, True, False]), duration_ms=rng.choice([None, 0.0, 1.5, 2.0, 80.25]),
            bytes_sent=rng.choice([None, 0, 2**62]), weight=rng.choice(weights),
        )  # fmt: skip


def rolled(postgres, folder, weights):
    url, rng, rolled_up = postgres.url(), random.Random(5), []
    settings = gnomon.Settings(data_dir=str(folder), timezones=("UTC", "Europe/Berlin"), sampling=False)
    with gnomon.open(url, settings=settings, clock=lambda: NOW) as engine:
        for _ in range(2):  # the second time meets buckets and days that are there
            send(engine, rng, 400, weights)
            engine.flush()
            rolled_up.append(engine.trigger_aggregation().events)
        assert rolled_up[0] > 350 and rolled_up[1] > 350, "the last hour stays raw"
        store = engine._hold.store
        return [sorted(table.rows, key=repr) for table in store.ask([STATES, *PEOPLE], 60.0)]


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 2.5)], ids=["counted", "weighted"])
def test_states_made_in_memory_are_those_made_on_the_disk(postgres, tmp_path, monkeypatch, weights):
    quick = rolled(postgres, tmp_path / "quick", weights)
    monkeypatch.setattr(rollups_postgres, "IN_MEMORY", -1)
    assert quick == rolled(postgres, tmp_path / "slow", weights) and all(quick)


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["COALESCE(kinds_0.source, '')", "many > 1"])
def test_states_that_mix_up_or_leave_out_would_be_found(postgres, tmp_path, monkeypatch, broken):
    honest = states_postgres.staged

    def staged(*args, **more):
        wrong = "many > 2" if broken == "many > 1" else "kinds_0.source"
        return [text.replace(broken, wrong) for text in honest(*args, **more)]

    monkeypatch.setattr(rollups_postgres, "staged", staged)
    with pytest.raises(AssertionError):
        test_states_made_in_memory_are_those_made_on_the_disk(postgres, tmp_path, monkeypatch, (1.0,))
