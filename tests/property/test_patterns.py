"""Patterns that `matches` takes mean the same in every store; those that would not are refused before."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from sqlglot import exp

from gnomon.config import Settings
from gnomon.errors import GnomonError, InvalidValue
from gnomon.query.model import check_pattern
from gnomon.store.dialect import POSTGRES, quoted
from gnomon.store.duckdb import DuckDBStore
from gnomon.store.postgres import PostgresStore

TEXTS = ("", "a", "b", "ab", "aab", "A", "1", "12", "a1", "_", "-", "]", "[", "^", "$", "a.b", "a\nb", "\n", "\t", " ",
         "\x0b", "\x0c", "\r", "ü", "🚀", "é", "я", "a-b", "{", "{2}", "a{,2}", "|", "\\", "/", "'", '"', "aaaa", ":",
         "x*", "(", "?", "٣", "\u00a0", "\u2028", "\x1c", "\x7f")  # fmt: skip
_PIECES = r"""
a b 1 . ^ $ | * + ? ( ) { } ] - : ü
\d \w \s \D \W \S \. \* \\ \- \/ \n \t \{ \( *? +? ?? {2} {1,} {0,3} {,2} {2}? (?: (a|b) () #
[a-c] [^a] [\d_] [\s-] [\w.] [^\s] [^\S] [\S] [\W] [\D] []a] [^]a] [a-] [-a] [\]] [.] [a[] [$] [&&] [а-я] [--a]
[[:alpha:]] [^[:space:]] [[:word:]] [[:foo:]] [[.a.]] [[=a=]] [[.] [[:<:]] ***: ***=
"""
PIECES = _PIECES.split()


@pytest.fixture(scope="module")
def stores(postgres):
    opened = [DuckDBStore(":memory:", Settings()), PostgresStore(postgres.url(), Settings())]
    yield opened
    for store in opened:
        store.close()


def matching(store, pattern):
    """The texts that a store finds, None where it takes the pattern for none."""
    rows = ", ".join(f"({quoted(text)})" for text in TEXTS)
    found = store.dialect.matches(exp.column("x"), pattern).sql(store.dialect.sqlglot)
    try:
        return {text for (text,) in store.ask([f"SELECT x FROM (VALUES {rows}) AS t(x) WHERE {found}"], 10.0)[0].rows}
    except GnomonError:
        return None


def admitted(seed, count):
    draw = random.Random(seed)
    for _ in range(count):
        pattern = "".join(draw.choice(PIECES) for _ in range(draw.randrange(1, 6)))
        try:
            check_pattern(pattern)
        except InvalidValue:
            continue
        yield pattern


def differing(stores, seed, count):
    return [p for p in admitted(seed, count) if matching(stores[0], p) != matching(stores[1], p)]


def test_a_pattern_finds_the_same_texts_in_every_store(stores):
    assert differing(stores, 1, 600) == []


@pytest.mark.slow
def test_many_patterns_find_the_same_texts_in_every_store(stores):
    assert not differing(stores, 2, 20_000)


def test_a_pattern_that_is_handed_on_as_it_is_would_be_noticed(stores, monkeypatch):
    plain = replace(POSTGRES, matches=lambda text, p: exp.RegexpLike(this=text, expression=exp.Literal.string(p)))
    monkeypatch.setattr(PostgresStore, "dialect", plain)
    assert differing(stores, 1, 600)


@pytest.mark.parametrize("pattern", ["[[:<:]]a", "[[:foo:]]", "[^[:alpha:][:x:]]"])
def test_a_class_of_an_unknown_name_is_refused(pattern):
    with pytest.raises(InvalidValue) as caught:
        check_pattern(pattern)
    assert caught.value.code == "bad-pattern"
