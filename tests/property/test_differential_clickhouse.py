"""The generated questions once more, to ClickHouse: the same rows, the same oracle, the same answers.

The rows are those of the embedded store, copied; that ClickHouse's own way in stores the same is said elsewhere
(`tests/contract/test_store.py`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from compare import differences
from generate import question
from sqlglot import exp
from test_differential import CORNERS, check
from worlds import World

from gnomon.store.clickhouse import ClickHouseStore
from gnomon.store.dialect_clickhouse import CLICKHOUSE

QUICK = [range(start, start + 12) for start in range(0, 36, 12)]
SLOW = [range(start, start + 50) for start in range(30_000, 32_000, 50)]


def _ends(seeds: range) -> str:
    return f"{seeds[0]}-{seeds[-1]}"


@pytest.mark.parametrize("seeds", QUICK, ids=_ends)
def test_clickhouse_and_the_oracle_give_the_same_rows(clickhouse_worlds, seeds):
    check(clickhouse_worlds, {f"question({seed})": question(seed) for seed in seeds})


@pytest.mark.slow
@pytest.mark.parametrize("seeds", SLOW, ids=_ends)
def test_two_thousand_more(clickhouse_worlds, seeds):
    check(clickhouse_worlds, {f"question({seed})": question(seed) for seed in seeds})


@pytest.mark.slow
def test_sharp_corners(clickhouse_worlds):
    check(clickhouse_worlds, CORNERS)


def test_percentiles_at_whole_places(clickhouse_worlds):
    """0.55 * 100 is a little more than 55 in binary."""
    check(clickhouse_worlds, {name: asked for name, asked in CORNERS.items() if name.startswith("percentiles")})


def test_an_answer_without_rows_has_its_columns(clickhouse_worlds):
    asked = {"metrics": ["events", "mean_bytes_sent"], "dimensions": ["source"], "date_range": "all", "totals": True,
             "filters": [["is", "source", ["nobody"]]], "world": "weighted"}  # fmt: skip
    check(clickhouse_worlds, {"no rows": asked})


def test_it_is_clickhouse_that_answers(clickhouse_worlds):
    assert all(isinstance(world.engine._own_or_refuse(), ClickHouseStore) for world in clickhouse_worlds.values())


# -- words broken on purpose ------------------------------------------------------------------------------------------


def _call(name: str, *args: Any) -> exp.Anonymous:
    return exp.Anonymous(this=name, expressions=list(args))


def _anew(column: exp.Expr, key: str) -> exp.Expr:
    """The value as ClickHouse writes it: -0 beside 0, {"a": 1} for {"a": 1.0}, and JSON null a value."""
    return _call("JSONExtractRaw", column.copy(), exp.Literal.string(key))


def _any_text(column: exp.Expr, key: str) -> exp.Expr:
    return _call("JSONExtractString", column.copy(), exp.Literal.string(key))


def _one_further(value: exp.Expr, q: float) -> exp.Expr:
    """Where q n is whole, the value behind it."""
    return exp.ParameterizedAgg(this="quantileExact", expressions=[exp.Literal.number(q)], params=[value])


def _like(text: exp.Expr, part: str) -> exp.Expr:
    return exp.Like(this=text, expression=exp.Literal.string(f"%{part}%"))


def _nearest(value: exp.Expr, by: int) -> exp.Expr:
    return _call("toInt64", _call("round", exp.Div(this=value, expression=exp.Literal.number(by))))


def _zero_over_nothing(values: exp.Expr, place: int) -> exp.Expr:
    return _call("arrayElement", values, exp.Literal.number(place))


@pytest.mark.parametrize(
    "words, concerned",
    [
        ({"json_key": _anew}, lambda q: "properties.mixed" in q["dimensions"]),
        ({"json_text": _any_text}, lambda q: '"properties.mixed"' in json.dumps(q.get("filters"))),
        ({"quantile": _one_further}, lambda q: q["world"] == "plain" and '"p' in json.dumps(q["metrics"])),
        ({"nth": _zero_over_nothing}, lambda q: q["world"] == "plain" and json.dumps(q["metrics"]).count('"p') > 1),
        ({"contains": _like}, lambda q: '["contains' in json.dumps(q)),
        ({"divided": _nearest}, lambda q: any(name.startswith("time:") for name in q["dimensions"])),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "where it matters",
)
def test_a_broken_word_is_noticed(
    clickhouse_worlds, monkeypatch, words: dict[str, Any], concerned: Callable[[Any], bool]
):
    monkeypatch.setattr(ClickHouseStore, "dialect", replace(CLICKHOUSE, **words))
    assert any(_differs(clickhouse_worlds, q) for q in map(question, range(312)) if concerned(q))


def _differs(worlds: dict[str, World], asked: dict[str, Any]) -> bool:
    try:
        return bool(differences(worlds[asked["world"]], asked))
    except Exception:  # a statement that the store refuses
        return True
