"""What stores do differently, as data: one record of words each, which the compiler fills into one set of queries."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from gnomon.store import lines, rollups, rollups_postgres
from gnomon.store.rollups import Rollups
from gnomon.store.texts import quoted as quoted

if TYPE_CHECKING:
    from sqlglot import exp


def _call(name: str, *args: Any) -> exp.Anonymous:
    from sqlglot import exp

    return exp.Anonymous(this=name, expressions=list(args))


def _literal(value: str | int | float) -> exp.Expr:
    from sqlglot import exp

    return exp.Literal.string(value) if isinstance(value, str) else exp.Literal.number(value)


def _cast(value: exp.Expr, name: str) -> exp.Expr:
    from sqlglot import exp

    return exp.Cast(this=value, to=exp.DataType(this=exp.DType[name], nested=False))


def _array(items: list[exp.Expr]) -> exp.Expr:
    from sqlglot import exp

    return exp.Array(expressions=items)


def _as_it_is(value: exp.Expr) -> exp.Expr:
    return value


def _values(name: str, columns: Sequence[str], rows: Sequence[Sequence[int]]) -> str:
    values = ", ".join(f"({', '.join(map(str, row))})" for row in rows)
    return f"(VALUES {values}) AS {name}({', '.join(columns)})"


def _unnested(*lists: str) -> tuple[str, ...]:
    return tuple(f"UNNEST({each})" for each in lists)


@dataclass(frozen=True, slots=True)
class Dialect:
    """The words of one store. Every function takes and returns sqlglot expressions.

    epoch_us: UTC microseconds of a timestamp column. moment: a timestamp from integer microseconds.
    divided: integer division by a literal, of what is not negative. year, month: of a timestamp.
    json_at: the JSON text at a top-level key of a JSON column, SQL NULL when absent. json_text, json_number: the text
    or number there, SQL NULL for a value of another type. json_key: what to group by, see `FilterWords.group_key`.
    average: an AVG as a double. quantile: the smallest value at which the count
    reaches q of the total; quantiles: a list of several, from one pass; nth: its item, from 1. matches: RE2 search,
    `.` matching a line break as well. count_if: how often a condition holds, 0 over no rows. id_text: the id as text.
    real, huge: types, of doubles and of sums of 64-bit integers; no_number: the null of a column of numbers, as texts.
    whole: a column of 64-bit integers so wide that it can be added up. As texts of SQL: exact: a number as a decimal;
    meets: whether two masks have a bit in common; apart: two lists of one length side by side, a row for each item;
    listed: rows of integers as a relation of that name, with columns.
    rollups: the statements of rolling up. row_text, longest: see `store.lines`, as texts of SQL; a store that has none
    hands out values instead.

    The texts of statements, in `store` and `query`, are of words that stores share: `epoch_us(moment)`,
    `make_timestamp(us)`, `divide(a, b)` and `strpos(text, part)`. A store that lacks one has a function of that name,
    or puts another in its place: `spoken`, which may be done again, and which its store does with every statement.
    """

    name: str
    sqlglot: str
    epoch_us: Callable[[exp.Expr], exp.Expr]
    moment: Callable[[exp.Expr], exp.Expr]
    divided: Callable[[exp.Expr, int], exp.Expr]
    year: Callable[[exp.Expr], exp.Expr]
    month: Callable[[exp.Expr], exp.Expr]
    json_at: Callable[[exp.Expr, str], exp.Expr]
    json_text: Callable[[exp.Expr, str], exp.Expr]
    json_number: Callable[[exp.Expr, str], exp.Expr]
    json_key: Callable[[exp.Expr, str], exp.Expr]
    average: Callable[[exp.Expr], exp.Expr]
    quantile: Callable[[exp.Expr, float], exp.Expr]
    quantiles: Callable[[exp.Expr, list[float]], exp.Expr]
    nth: Callable[[exp.Expr, int], exp.Expr]
    count_if: Callable[[exp.Expr], exp.Expr]
    matches: Callable[[exp.Expr, str], exp.Expr]
    contains: Callable[[exp.Expr, str], exp.Expr]
    id_text: str
    rollups: Rollups
    real: str = "DOUBLE"
    huge: str = "INT128"
    no_number: str = "NULL"
    whole: Callable[[exp.Expr], exp.Expr] = _as_it_is
    exact: Callable[[str], str] = "CAST({} AS DECIMAL(38, 6))".format
    meets: Callable[[str, str], str] = "({} & {}) <> 0".format
    apart: Callable[[str, str], tuple[str, ...]] = _unnested
    listed: Callable[[str, Sequence[str], Sequence[Sequence[int]]], str] = _values
    spoken: Callable[[str], str] = str
    row_text: Callable[[str, Any, int, str], str] | None = None
    longest: Callable[[Any], str] | None = None


# -- DuckDB -----------------------------------------------------------------------------------------------------------


def _pointer(key: str) -> str:
    """A JSON pointer (RFC 6901) to one top-level key, so that any character may stand in the key."""
    return "/" + key.replace("~", "~0").replace("/", "~1")


def _json(word: str, column: exp.Expr, key: str) -> exp.Expr:
    return _call(word, column.copy(), _literal(_pointer(key)))


def _json_at(column: exp.Expr, key: str) -> exp.Expr:
    return _cast(_json("json_extract", column, key), "VARCHAR")


def _json_of(types: tuple[str, ...], column: exp.Expr, key: str, value: exp.Expr) -> exp.Expr:
    """A value at a JSON key, null where it is of none of these types."""
    from sqlglot import exp

    found = _json("json_type", column, key)
    names = [_literal(name) for name in types]
    is_one = exp.EQ(this=found, expression=names[0]) if len(names) == 1 else exp.In(this=found, expressions=names)
    return exp.Case(ifs=[exp.If(this=is_one, true=value)])


def _json_text(column: exp.Expr, key: str) -> exp.Expr:
    return _json_of(("VARCHAR",), column, key, _json("json_extract_string", column, key))


def _json_number(column: exp.Expr, key: str) -> exp.Expr:
    return _json_of(("UBIGINT", "BIGINT", "DOUBLE"), column, key, _try_double(_json_at(column, key)))


def _json_key(column: exp.Expr, key: str) -> exp.Expr:
    from sqlglot import exp

    raw = _json_at(column, key)
    number = _try_double(raw.copy())
    is_whole = exp.and_(
        exp.EQ(this=_json("json_type", column, key), expression=_literal("DOUBLE")),
        exp.LT(this=exp.Abs(this=number.copy()), expression=_literal(2**53)),
        exp.EQ(this=exp.Floor(this=number.copy()), expression=number.copy()),
        copy=False,
    )
    rare = exp.Case(
        ifs=[
            exp.If(this=exp.EQ(this=raw.copy(), expression=_literal("null")), true=exp.null()),
            exp.If(this=is_whole, true=_cast(_cast(number, "BIGINT"), "VARCHAR")),
        ],
        default=raw.copy(),
    )
    # A text begins with a quotation mark, which stands before all that JSON values of other types begin with.
    return exp.Case(ifs=[exp.If(this=exp.GTE(this=raw.copy(), expression=_literal("#")), true=rare)], default=raw)


def _try_double(value: exp.Expr) -> exp.Expr:
    from sqlglot import exp

    return exp.TryCast(this=value, to=exp.DataType(this=exp.DType.DOUBLE, nested=False))


def _count_if(condition: exp.Expr) -> exp.Expr:
    """A third of the time of count(*) FILTER (...) over 30M rows. It is a HUGEINT, and null over no rows."""
    from sqlglot import exp

    found = exp.Coalesce(this=_call("count_if", condition), expressions=[_literal(0)])
    return exp.Cast(this=found, to=exp.DataType.build("BIGINT"))


def _divided(value: exp.Expr, by: int) -> exp.Expr:
    from sqlglot import exp

    return exp.IntDiv(this=value, expression=_literal(by))


DUCKDB = Dialect(
    name="duckdb",
    sqlglot="duckdb",
    epoch_us=lambda column: _call("epoch_us", column),
    moment=lambda us: _call("make_timestamp", us),
    divided=_divided,
    year=lambda moment: _call("year", moment),
    month=lambda moment: _call("month", moment),
    json_at=_json_at,
    json_text=_json_text,
    json_number=_json_number,
    json_key=_json_key,
    average=lambda mean: mean,
    quantile=lambda value, q: _call("quantile_disc", value, _literal(q)),
    quantiles=lambda value, qs: _call("quantile_disc", value, _array([_literal(q) for q in qs])),
    nth=lambda values, place: _call("list_extract", values, _literal(place)),
    count_if=_count_if,
    matches=lambda text, pattern: _call("regexp_matches", text, _literal(pattern), _literal("s")),
    contains=lambda text, part: _call("contains", text, _literal(part)),
    id_text=lines.ID_TEXT,
    rollups=rollups.DUCKDB,
    row_text=lines.row_text,
    longest=lines.longest,
)


# -- PostgreSQL: see also migrations/postgres_words.sql ---------------------------------------------------------------

#: The place of a percentile is rounded up from q n, which may lie a little above the whole number that it is.
_BELOW = 1 - 1e-12
#: What stands for a space in RE2, but not in PostgreSQL, which takes the vertical tab as well.
_SPACES = r" \t\n\f\r"
#: A brace that begins no repetition stands for itself in RE2.
_PARTS = re.compile(r"\\.|\[\^?\]?(?:\[:\w+:\]|\\.|[^\]\\])*\]|\{\d+(?:,\d*)?\}|\{", re.DOTALL)
_IN_CLASS = re.compile(r"\[:\w+:\]|\\.|\[", re.DOTALL)
_OUTSIDE = {r"\s": f"[{_SPACES}]", r"\S": f"[^{_SPACES}]", "{": r"\{"}
#: `[.` and `[=` begin something in a class of PostgreSQL only.
_INSIDE = {r"\s": _SPACES, r"\S": r"\S\v", "[": r"\["}


def _pattern(pattern: str) -> str:
    """An RE2 pattern that `query.model.check_pattern` lets through, for PostgreSQL."""

    def read(found: re.Match[str]) -> str:
        if not found[0].startswith("["):
            return _OUTSIDE.get(found[0], found[0])
        return "[" + _IN_CLASS.sub(lambda inner: _INSIDE.get(inner[0], inner[0]), found[0][1:])

    return _PARTS.sub(read, pattern)


def _moment(us: exp.Expr) -> exp.Expr:
    """A literal moment as such, which costs the planner less than a call that it has to work out."""
    from sqlglot import exp

    if not isinstance(us, exp.Literal):
        return _call("make_timestamp", us)
    at = datetime(1970, 1, 1) + timedelta(microseconds=int(us.this))
    return exp.Cast(this=_literal(at.isoformat(" ")), to=exp.DataType.build("TIMESTAMP"))


def _within(word: str, argument: exp.Expr, value: exp.Expr) -> exp.Expr:
    from sqlglot import exp

    return exp.WithinGroup(this=_call(word, argument), expression=exp.Order(expressions=[value]))


def _part(array: exp.Expr, place: int) -> exp.Expr:
    from sqlglot import exp

    return exp.Bracket(this=exp.Paren(this=array), expressions=[_literal(place)], offset=1)


def _count_where(condition: exp.Expr) -> exp.Expr:
    from sqlglot import exp

    return exp.Filter(this=exp.Count(this=exp.Star()), expression=exp.Where(this=condition))


def _search(text: exp.Expr, pattern: str) -> exp.Expr:
    from sqlglot import exp

    plain = exp.Collate(this=text, expression=exp.Identifier(this="C", quoted=True))  # classes are of ASCII, as RE2's
    return exp.RegexpLike(this=plain, expression=_literal(_pattern(pattern)))


def _whole_part(value: exp.Expr, by: int) -> exp.Expr:
    from sqlglot import exp

    return exp.Div(this=value, expression=_literal(by), typed=True, safe=False)


POSTGRES = Dialect(
    name="postgres",
    sqlglot="postgres",
    epoch_us=lambda column: _call("epoch_us", column),
    moment=_moment,
    divided=_whole_part,
    year=lambda moment: _call("year", moment),
    month=lambda moment: _call("month", moment),
    json_at=lambda column, key: _call("json_at", column, _literal(key)),
    json_text=lambda column, key: _call("json_text", column, _literal(key)),
    json_number=lambda column, key: _call("json_number", column, _literal(key)),
    json_key=lambda column, key: _call("json_key", column, _literal(key)),
    average=lambda mean: _cast(mean, "DOUBLE"),
    quantile=lambda value, q: _within("percentile_disc", _literal(q * _BELOW), value),
    quantiles=lambda value, qs: _within("percentile_disc", _array([_literal(q * _BELOW) for q in qs]), value),
    nth=_part,
    count_if=_count_where,
    matches=_search,
    contains=lambda text, part: _call("contains", text, _literal(part)),
    id_text="coalesce(id_text, id::text)",
    rollups=rollups_postgres.POSTGRES,
    real="DOUBLE PRECISION",
    huge="DECIMAL(38, 0)",
    no_number="CAST(NULL AS DECIMAL)",
)
