"""Generated questions, answered by the engine and by an oracle that shares no code with it: the rows must be the same.

A failing question is printed as JSON; `question(seed)` of `generate.py` makes it again.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from compare import differences
from generate import GRAINS, ZONES, question
from rows import NOW
from sqlglot import exp
from worlds import World, feed

import gnomon
from gnomon.query import answer, compile, filters, model, pages, zones
from gnomon.store.dialect import DUCKDB
from gnomon.store.duckdb import DuckDBStore
from gnomon.timerange import DateRange

EACH = 12
QUICK = [range(start, start + EACH) for start in range(0, 312, EACH)]
SLOW = [range(start, start + 50) for start in range(10_000, 13_000, 50)]


def _ends(seeds: range) -> str:
    return f"{seeds[0]}-{seeds[-1]}"


@pytest.mark.parametrize("seeds", QUICK, ids=_ends)
def test_the_engine_and_the_oracle_give_the_same_rows(worlds, seeds):
    check(worlds, {f"question({seed})": question(seed) for seed in seeds})


@pytest.mark.slow
@pytest.mark.parametrize("seeds", SLOW, ids=_ends)
def test_three_thousand_more(worlds, seeds):
    check(worlds, {f"question({seed})": question(seed) for seed in seeds})


def check(worlds: dict[str, World], asked: dict[str, dict[str, Any]]) -> None:
    failed = []
    for name, one in asked.items():
        found = differences(worlds[one["world"]], one)
        if found:
            failed.append("\n  ".join([f"{name} {json.dumps(one, ensure_ascii=False)}", *found[:6]]))
    assert not failed, f"{len(failed)} of {len(asked)} questions differ\n" + "\n".join(failed)


# -- sharp corners, by hand -------------------------------------------------------------------------------------------

LORD_HOWE_BACK = ["2025-04-05T15:10:00+00:00", "2025-04-05T17:00:00+00:00"]
LORD_HOWE_FORWARD = ["2025-10-04T15:40:00+00:00", "2025-10-04T18:00:00+00:00"]
FAR_RANGE = ["1970-01-01T00:00:00+00:00", "1986-02-01T00:00:00+00:00"]
HUNDRED = {"world": "weighted", "filters": ["is", "source", ["hundred"]], "date_range": "all"}


def _corners() -> Iterable[tuple[str, dict[str, Any]]]:
    def of(world: str, dims: list[str], date_range: Any, zone: str, **rest: Any) -> dict[str, Any]:
        metrics = ["events", "people", "success_rate", "p90_duration_ms"]
        return {
            "world": world,
            "metrics": metrics,
            "dimensions": dims,
            "date_range": date_range,
            "timezone": zone,
            **rest,
        }

    ranges = {
        "Lord Howe, from within the hour cut by going back": (LORD_HOWE_BACK, "Australia/Lord_Howe"),
        "Lord Howe, from within the hour cut by going forward": (LORD_HOWE_FORWARD, "Australia/Lord_Howe"),
        "St. John's, from 00:01 to 23:01": (
            ["2010-11-07T02:40:00+00:00", "2010-11-07T05:00:00+00:00"],
            "America/St_Johns",
        ),
        "New York in March": (["2025-03-09", "2025-03-10"], "America/New_York"),
        "New York in November": (["2025-11-02", "2025-11-03"], "America/New_York"),
        "Kathmandu at midnight": (["2025-07-01", "2025-07-02"], "Asia/Kathmandu"),
        "Cairo without a midnight": (["2025-04-25", "2025-04-26"], "Africa/Cairo"),
    }
    for name, (date_range, zone) in ranges.items():
        for world in ("plain", "weighted"):
            for grain in ("minute", "hour", "day"):
                for more in ([], ["type"]):
                    label = ", ".join([name, world, grain, *more])
                    yield label, of(world, [f"time:{grain}", *more], date_range, zone, compare="previous", totals=True)
    for zone in ("Asia/Kathmandu", "America/New_York", "Africa/Monrovia"):
        for grain in ("hour", "day", "week", "month"):
            yield f"1970 to 1986 in {zone} by {grain}", of("far", [f"time:{grain}", "success"], FAR_RANGE, zone)
    percentiles = [{"agg": f"p{q}", "field": "duration_ms"} for q in (7, 14, 28, 29, 55, 50, 95, "99.9")]
    yield "percentiles of 100", {**HUNDRED, "metrics": percentiles, "dimensions": [], "totals": True}
    yield "percentiles of 100 by type", {**HUNDRED, "metrics": percentiles, "dimensions": ["type"]}


CORNERS = dict(_corners())


@pytest.mark.parametrize("name", CORNERS)
def test_sharp_corners(worlds, name):
    check(worlds, {name: CORNERS[name]})


def test_pages_keep_the_range_of_the_first_one(worlds):
    """ "24h" moves on while somebody reads."""
    world = worlds["plain"]
    asked = {
        "metrics": ["events"],
        "dimensions": ["endpoint", "type"],
        "date_range": "24h",
        "order_by": [["events", "desc"]],
    }
    wanted = world.oracle.answer(asked)
    found, cursor = [], None
    try:
        while True:
            page = world.engine.query(**asked, limit=9, after=cursor)
            found += [(row["endpoint"], row["type"]) for row in page]
            cursor = page.next
            world.clock.now += timedelta(minutes=40)
            if cursor is None:
                break
    finally:
        world.clock.now = NOW
    assert found == wanted.order
    assert len(found) > 40


@pytest.mark.slow
def test_pages_by_a_sum_of_fractions_hold_each_row_once(tmp_path):
    """The last digits of such a sum depend on the order of adding, which differs from one run to the next."""
    rng = random.Random(5)
    events = (
        {"id": str(n), "ts": NOW - timedelta(seconds=rng.randrange(80 * 86_400)), "type": "x", "user_id": f"u{n % 500}",
         "duration_ms": rng.random() * 100}
        for n in range(400_000)
    )  # fmt: skip
    with gnomon.open(tmp_path / "sums.duckdb", clock=lambda: NOW, cache_entries=0) as engine:
        feed(engine, events)
        for _ in range(3):
            found, cursor = [], None
            while True:
                page = engine.query(["sum_duration_ms"], ["user_id"], limit=7, after=cursor)
                found += [row["user_id"] for row in page]
                cursor = page.next
                if cursor is None:
                    break
            assert len(found) == len(set(found)) == 500


# -- what is asked ----------------------------------------------------------------------------------------------------


def test_the_quick_questions_use_everything():
    asked = [question(seed) for seeds in QUICK for seed in seeds]
    text = json.dumps(asked)
    assert len(asked) >= 300
    assert {q.get("timezone", "UTC") for q in asked} == set(ZONES)
    assert {name for q in asked for name in q["dimensions"] if name.startswith("time:")} == {
        f"time:{g}" for g in GRAINS
    }
    for op in (
        "is",
        "is_not",
        "contains",
        "contains_not",
        "matches",
        "gt",
        "gte",
        "lt",
        "lte",
        "is_set",
        "and",
        "or",
        "not",
    ):
        assert text.count(f'["{op}", ') >= 5, op
    for agg in ("count", "sum", "mean", "min", "max", "unique", "p95", "p99.9"):
        assert text.count(f'{{"agg": "{agg}"') >= 3, agg
    for part, least in (
        ("compare", 40),
        ("totals", 40),
        ("pages", 60),
        ("order_by", 100),
        ("limit", 20),
        ("filters", 100),
    ):
        assert sum(part in q for q in asked) >= least, part
    assert {len(q["dimensions"]) for q in asked} == {0, 1, 2, 3}
    assert {len(q["metrics"]) for q in asked} == {1, 2, 3, 4}
    assert {q["world"] for q in asked} == {"plain", "weighted", "far"}
    assert max(_depth(q.get("filters")) for q in asked) == 3


def _depth(node: Any) -> int:
    """How many operators stand above the deepest test."""
    if not isinstance(node, list) or not node:
        return 0
    if not isinstance(node[0], str):
        return max(map(_depth, node))
    return 1 + _depth(node[1]) if node[0] in ("and", "or", "not") else 0


# -- rules broken on purpose ------------------------------------------------------------------------------------------

Patch = Callable[[pytest.MonkeyPatch], None]


def _one_offset_for_all(patch: pytest.MonkeyPatch) -> None:
    def offset(self: Any) -> Any:
        return filters.literal(self.pieces[0].offset_us + self.lift * 86_400_000_000)

    patch.setattr(zones.TimeWords, "_offset", offset)


def _rows_instead_of_weights(patch: pytest.MonkeyPatch) -> None:
    honest = compile.Compiler._count

    def count(self: Any, node: Any) -> Any:
        weight, self.weight = self.weight, None
        try:
            return honest(self, node)
        finally:
            self.weight = weight

    patch.setattr(compile.Compiler, "_count", count)


def _is_not_forgets_null(patch: pytest.MonkeyPatch) -> None:
    honest = filters.FilterWords._test

    def test(self: Any, asked: Any) -> Any:
        if asked.op == "is_not":
            return exp.Not(this=exp.Paren(this=honest(self, model.Test("is", asked.dimension, asked.values))))
        return honest(self, asked)

    patch.setattr(filters.FilterWords, "_test", test)


def _pages_begin_with_the_last_row(patch: pytest.MonkeyPatch) -> None:
    honest = pages._behind

    def behind(keys: Any, values: Any) -> Any:
        return honest(keys[:-1], values[:-1]) if len(keys) > 1 else exp.true()

    patch.setattr(pages, "_behind", behind)


def _quantiles_between_values(patch: pytest.MonkeyPatch) -> None:
    def quantile(value: Any, q: float) -> Any:
        return exp.Anonymous(this="quantile_cont", expressions=[value, exp.Literal.number(q)])

    patch.setattr(DuckDBStore, "dialect", replace(DUCKDB, quantile=quantile))


def _previous_a_second_early(patch: pytest.MonkeyPatch) -> None:
    honest = DateRange.previous

    def previous(self: DateRange) -> DateRange:
        found = honest(self)
        return replace(found, start_us=found.start_us - 1_000_000, end_us=found.end_us - 1_000_000)

    patch.setattr(DateRange, "previous", previous)


def _gaps_everywhere(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(answer, "_empty", lambda expression, weighted: None)


@pytest.mark.parametrize(
    "broken, concerned",
    [
        (_one_offset_for_all, lambda q: any(name.startswith("time:") for name in q["dimensions"])),
        (_rows_instead_of_weights, lambda q: q["world"] == "weighted"),
        (_is_not_forgets_null, lambda q: '["is_not"' in json.dumps(q)),
        (_pages_begin_with_the_last_row, lambda q: "pages" in q),
        (_quantiles_between_values, lambda q: q["world"] == "plain" and '"p' in json.dumps(q["metrics"])),
        (_previous_a_second_early, lambda q: q.get("compare") == "previous"),
        (_gaps_everywhere, lambda q: len(q["dimensions"]) == 1 and q["dimensions"][0].startswith("time:")),
    ],
    ids=lambda value: value.__name__.strip("_") if value.__name__ != "<lambda>" else "where it matters",
)
def test_a_broken_rule_is_noticed(worlds, monkeypatch, broken: Patch, concerned: Callable[[Any], bool]):
    asked = [q for seeds in QUICK for seed in seeds if concerned(q := question(seed))]
    broken(monkeypatch)
    assert any(differences(worlds[q["world"]], q) for q in asked)
