"""The generated questions once more, to PostgreSQL: the same rows, the same oracle, the same answers.

The rows are those of the embedded store, copied; that PostgreSQL's own way in stores the same is said elsewhere
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

from gnomon.store.dialect import POSTGRES
from gnomon.store.postgres import PostgresStore

QUICK = [range(start, start + 12) for start in range(0, 96, 12)]
SLOW = [range(start, start + 50) for start in range(20_000, 22_000, 50)]


def _ends(seeds: range) -> str:
    return f"{seeds[0]}-{seeds[-1]}"


@pytest.mark.parametrize("seeds", QUICK, ids=_ends)
def test_postgres_and_the_oracle_give_the_same_rows(postgres_worlds, seeds):
    check(postgres_worlds, {f"question({seed})": question(seed) for seed in seeds})


@pytest.mark.slow
@pytest.mark.parametrize("seeds", SLOW, ids=_ends)
def test_two_thousand_more(postgres_worlds, seeds):
    check(postgres_worlds, {f"question({seed})": question(seed) for seed in seeds})


@pytest.mark.slow
def test_sharp_corners(postgres_worlds):
    check(postgres_worlds, CORNERS)


def test_percentiles_at_whole_places(postgres_worlds):
    """0.55 * 100 is a little more than 55 in binary."""
    check(postgres_worlds, {name: asked for name, asked in CORNERS.items() if name.startswith("percentiles")})


def test_it_is_postgres_that_answers(postgres_worlds):
    assert all(isinstance(world.engine._own_or_refuse(), PostgresStore) for world in postgres_worlds.values())


# -- words broken on purpose ------------------------------------------------------------------------------------------


def _call(name: str, *args: Any) -> exp.Anonymous:
    return exp.Anonymous(this=name, expressions=list(args))


def _raw_key(column: exp.Expr, key: str) -> exp.Expr:
    """1 and 1.0 apart, and JSON null a value."""
    return POSTGRES.json_at(column, key)


def _any_text(column: exp.Expr, key: str) -> exp.Expr:
    return _call("json_extract_path_text", exp.cast(column.copy(), "json"), exp.Literal.string(key))


def _between_values(value: exp.Expr, q: float) -> exp.Expr:
    order = exp.Order(expressions=[exp.cast(value, "double")])
    return exp.WithinGroup(this=_call("percentile_cont", exp.Literal.number(q)), expression=order)


def _like(text: exp.Expr, part: str) -> exp.Expr:
    return exp.Like(this=text, expression=exp.Literal.string(f"%{part}%"))


def _nearest(value: exp.Expr, by: int) -> exp.Expr:
    return exp.cast(
        _call("round", exp.Div(this=exp.cast(value, "double"), expression=exp.Literal.number(by))), "bigint"
    )


@pytest.mark.parametrize(
    "words, concerned",
    [
        ({"json_key": _raw_key}, lambda q: "properties.mixed" in q["dimensions"]),
        ({"json_text": _any_text}, lambda q: '"properties.mixed"' in json.dumps(q.get("filters"))),
        ({"quantile": _between_values}, lambda q: q["world"] == "plain" and '"p' in json.dumps(q["metrics"])),
        ({"contains": _like}, lambda q: '["contains' in json.dumps(q)),
        ({"divided": _nearest}, lambda q: any(name.startswith("time:") for name in q["dimensions"])),
        ({"no_number": "NULL"}, lambda q: q["world"] == "weighted" and json.dumps(q["metrics"]).count('"p') > 1),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "where it matters",
)
def test_a_broken_word_is_noticed(
    postgres_worlds, monkeypatch, words: dict[str, Any], concerned: Callable[[Any], bool]
):
    monkeypatch.setattr(PostgresStore, "dialect", replace(POSTGRES, **words))
    assert any(_differs(postgres_worlds, q) for q in map(question, range(312)) if concerned(q))


def _differs(worlds: dict[str, World], asked: dict[str, Any]) -> bool:
    try:
        return bool(differences(worlds[asked["world"]], asked))
    except Exception:  # a statement that the store refuses
        return True
