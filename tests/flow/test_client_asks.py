"""Asking over HTTP gives what the engine gives: the same rows, times, intervals, changes, gaps and errors."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from faulty_proxy import FAULTS, FaultyProxy, answer
from serving import served, token

import gnomon
from gnomon.client import Patience
from gnomon.errors import Forbidden, GnomonError, InvalidValue, RangeTooLarge, StoreUnavailable, UnknownName

PLACES = ["Asia/Kathmandu", "America/New_York"]


@pytest.fixture(scope="module")
def service():
    with served() as found:
        now = datetime.now(UTC)
        for n in range(600):
            found.engine.track(
                "view" if n % 3 else "request", user_id=f"u{n % 17}", source=f"s{n % 4}", duration_ms=float(n % 90),
                status_code=500 if n % 10 == 0 else 200, ts=now - timedelta(hours=n * 0.4),
                weight=2.5 if n % 5 == 0 else 1.0, properties={"plan": "pro" if n % 2 else "free", "n": n},
            )  # fmt: skip
        found.engine.flush()
        yield found


@pytest.fixture
def client(service):
    with connect(service.port) as found:
        yield found


def connect(port, **claims):
    return gnomon.connect(f"http://127.0.0.1:{port}", token(**claims), patience=Patience(0.01, 0.05))


NOW = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
WEEK = [(NOW - timedelta(days=7)).isoformat(), NOW.isoformat()]
QUESTIONS = [
    {"metrics": ["events"], "date_range": WEEK},
    {"metrics": ["events", "people", "success_rate", "p95_duration_ms", "mean_duration_ms"], "dimensions": ["source"],
         "date_range": WEEK, "totals": True, "order_by": [["events", "desc"]]},
    {"metrics": ["events"], "dimensions": ["time:day"], "date_range": WEEK, "timezone": PLACES[0],
     "compare": "previous"},
    {"metrics": ["events", "error_rate"], "dimensions": ["type", "time:hour_of_day"], "date_range": WEEK, "limit": 7},
    {"metrics": ["success_rate", "events"], "dimensions": ["time:hour"], "date_range": WEEK, "timezone": PLACES[1],
         "filters": [["is", "source", ["s1", "s2"]], ["not", ["is", "type", ["view"]]]], "compare": "previous"},
    {"metrics": [{"agg": "sum", "field": "properties.n", "as": "total"}, {"agg": "p95", "field": "duration_ms"}],
         "dimensions": ["properties.plan", "success"], "date_range": tuple(WEEK)},
    {"metrics": ["events"], "dimensions": ["source"], "date_range": WEEK, "filters": [["is", "source", ["none"]]]},
    {"metrics": ["events"], "date_range": (NOW - timedelta(days=3), NOW)},
]  # fmt: skip


@pytest.mark.parametrize("asked", QUESTIONS, ids=range(len(QUESTIONS)))
def test_a_question_has_the_engines_answer(service, client, asked):
    mine, wanted = client.query(**asked), service.engine.query(**asked)
    assert mine.to_dicts() == wanted.to_dicts() and mine.next == wanted.next
    assert (mine.dimensions, mine.metrics, mine.totals) == (wanted.dimensions, wanted.metrics, wanted.totals)
    for name in ("source", "exact", "start", "end", "timezone", "percentile_error", "gaps"):
        assert getattr(mine.basis, name) == getattr(wanted.basis, name), name
    for place in range(len(wanted)):
        assert mine.is_gap(place) == wanted.is_gap(place)
        for metric in wanted.metrics:
            ours, theirs = mine.interval(metric, place), wanted.interval(metric, place)
            assert (ours.value, ours.exact, ours.reason) == (theirs.value, theirs.exact, theirs.reason)
            assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))
            if asked.get("compare"):
                assert mine.change(metric, place) == wanted.change(metric, place)
    assert mine.summary() == wanted.summary()
    assert mine.to_polars().shape == wanted.to_polars().shape


def test_pages_follow_each_other(client, service):
    asked = {"metrics": ["events"], "dimensions": ["user_id", "source"], "date_range": WEEK, "limit": 20}
    found, after = [], None
    while True:
        page = client.query(**asked, after=after)
        found += page.to_dicts()
        if (after := page.next) is None:
            break
    assert found == service.engine.query(["events"], ["user_id", "source"], WEEK).to_dicts() and len(found) > 40


def test_the_shorter_questions_and_reports(client, service):
    engine = service.engine
    assert client.query_usage(WEEK, {"source": "s1"}, "day").to_dicts() == engine.query_usage(
        WEEK, {"source": "s1"}, "day").to_dicts()  # fmt: skip
    halves = [[WEEK[0], (NOW - timedelta(days=3)).isoformat()], [(NOW - timedelta(days=3)).isoformat(), WEEK[1]]]
    mine, wanted = client.compare_periods(*halves), engine.compare_periods(*halves)
    assert [mine.change("events", n) for n in range(4)] == [wanted.change("events", n) for n in range(4)]
    for grain, zone in (("day", None), ("week", PLACES[0]), ("month", PLACES[1])):
        mine, wanted = client.active_users("9d", grain, zone), engine.active_users("9d", grain, zone)
        assert mine.to_dicts() == wanted.to_dicts() and mine.summary() == wanted.summary()
    told = client.summary(date_range="last_month")
    assert told["by_type"] == engine.summary(date_range="last_month").to_dict()["by_type"]
    assert client.summary(hours=48)["period_hours"] == pytest.approx(48)
    assert client.user("u3", recent=2)["events"] == engine.user("u3").events
    assert client.dashboard()["health"]["level"] == engine.dashboard().health.level
    assert "events" in {metric["name"] for metric in client.catalog()["metrics"]}


def test_errors_are_those_of_the_engine(client, service):
    for asked, kind in (
        ({"metrics": ["evnts"]}, UnknownName),
        (
            {"metrics": ["events"], "dimensions": ["time:minute"], "date_range": ["2020-01-01", "2026-01-01"]},
            RangeTooLarge,
        ),
        ({"metrics": ["events"], "date_range": "nonsense"}, InvalidValue),
        ({"metrics": ["events"], "filters": [["matches", "type", ["(?=x)"]]]}, InvalidValue),
    ):
        with pytest.raises(kind) as mine:
            client.query(**asked)
        with pytest.raises(kind) as wanted:
            service.engine.query(**asked)
        assert type(mine.value) is type(wanted.value) and mine.value.code == wanted.value.code
    with pytest.raises(InvalidValue, match="not-found"):
        client.user("nobody/at all?")
    with pytest.raises(InvalidValue, match="bad-query"):
        client.query(["events"], filters=[["is", "type", [object()]]])
    with pytest.raises(UnknownName):
        client.active_users(grain="hour")
    with connect(service.port, scope="ingest") as other, pytest.raises(Forbidden):
        other.query(["events"])
    with gnomon.connect(f"http://127.0.0.1:{service.port}", "nonsense") as other, pytest.raises(Forbidden) as raised:
        other.query(["events"])
    assert raised.value.code == "unauthorized"


def test_a_question_is_put_again_and_then_given_up(service):
    with FaultyProxy(service.port, share=0.4) as proxy, connect(proxy.port) as client:
        wanted = service.engine.query(["events"], ["source"], WEEK).to_dicts()
        kinds = service.engine.query(["events"], ["type"], WEEK).to_dicts()
        failed = 0
        for n in range(60):
            try:  # two questions in turns, as an answer that came twice must not pass for that of the other
                found = client.query(["events"], ["type" if n % 2 else "source"], WEEK).to_dicts()
                assert found == (kinds if n % 2 else wanted)
            except StoreUnavailable as error:
                assert error.code == "service-unreachable"
                failed += 1
        assert failed < 20 and all(proxy.done[fault] for fault in FAULTS)
        proxy.upstream = None
        with pytest.raises(StoreUnavailable) as raised:
            client.query(["events"])
    assert raised.value.code == "service-unreachable" and isinstance(raised.value, GnomonError)


def test_a_service_that_wants_a_moment_gets_it_and_one_that_wants_long_is_told(service):
    with FaultyProxy(service.port, share=0.0) as proxy, connect(proxy.port) as client:
        proxy.instead += [answer(503, "{}", Retry_After="1"), answer(502), b"nonsense"]
        assert len(client.query(["events"])) == 1 and not proxy.instead
        for told, code in (
            (answer(503, '{"type": "overloaded", "detail": "too much"}', Retry_After="600"), "overloaded"),
            (answer(404, "<html>"), "service-fault"),
            (answer(200, "<html>"), "service-fault"),
        ):
            proxy.instead.append(told)
            with pytest.raises(StoreUnavailable) as raised:
                client.query(["events"])
            assert raised.value.code == code and not proxy.instead


def test_a_token_of_every_project_chooses_one(service):
    url, key = f"http://127.0.0.1:{service.port}", token(project="*", scope="ingest:any read")
    with gnomon.connect(url, key, project="far") as far, gnomon.connect(url, key, project="away") as away:
        far.track("there", properties={"n": 7})
        far.record_metric("depth", 4)
        far.flush()
        until, wanted = time.monotonic() + 20, [[{"events": 1}], [{"samples": 1}]]
        while [far.query(["events"]).to_dicts(), far.query(["samples"], dataset="samples").to_dicts()] != wanted:
            assert time.monotonic() < until
            time.sleep(0.02)
        assert away.query(["events"]).to_dicts() == [{"events": 0}]
    with connect(service.port) as own:
        assert own.query(["events"], filters=[["is", "type", ["there"]]]).to_dicts() == [{"events": 0}]
    with gnomon.connect(url, token(), project="far") as foreign, pytest.raises(Forbidden):
        foreign.query(["events"])


def test_the_books_of_the_service(service):
    with connect(service.port, scope="ingest:any read") as client:
        client.track("bad", status_code=9, id="refused")
        client.flush()
        service.engine.flush()
        (refused,) = client.quarantine(1, "out-of-range")
        assert (refused["id"], refused["code"]) == ("refused", "out-of-range")
        told, own = client.books(), service.engine.books()
        assert (told["received"], told["stored"]) == (own.received, own.stored)
        assert client.books("sample")["received"] == service.engine.books("sample").received
        with pytest.raises(UnknownName):
            client.books("nope")
