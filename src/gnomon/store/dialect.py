"""What stores do differently, as data: one record of words each, which the compiler fills into one set of queries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from gnomon.store import lines

if TYPE_CHECKING:
    from sqlglot import exp


def _call(name: str, *args: Any) -> exp.Anonymous:
    from sqlglot import exp

    return exp.Anonymous(this=name, expressions=list(args))


def _literal(value: str | int | float) -> exp.Expr:
    from sqlglot import exp

    return exp.Literal.string(value) if isinstance(value, str) else exp.Literal.number(value)


def _array(items: list[exp.Expr]) -> exp.Expr:
    from sqlglot import exp

    return exp.Array(expressions=items)


@dataclass(frozen=True, slots=True)
class Dialect:
    """The words of one store. Every function takes and returns sqlglot expressions.

    epoch_us: UTC microseconds of a timestamp column. moment: a timestamp from integer microseconds.
    floor_div: integer division for operands that are not negative. year, month: of a timestamp.
    json_at: the JSON text at a top-level key of a JSON column, SQL NULL when absent. json_type: one of the JSON type
    words below for the same. json_text: a JSON string's text. quantile: the smallest value at which the count
    reaches q of the total; quantiles: a list of several, from one pass; nth: its item, from 1. matches: RE2 search,
    `.` matching a line break as well. count_if: how often a condition holds, 0 over no rows. id_text: the id as text.
    row_text, longest: see `store.lines`, as texts of SQL; a store that has none hands out values instead.
    """

    name: str
    sqlglot: str
    epoch_us: Callable[[exp.Expr], exp.Expr]
    moment: Callable[[exp.Expr], exp.Expr]
    year: Callable[[exp.Expr], exp.Expr]
    month: Callable[[exp.Expr], exp.Expr]
    json_at: Callable[[exp.Expr, str], exp.Expr]
    json_type: Callable[[exp.Expr, str], exp.Expr]
    json_text: Callable[[exp.Expr, str], exp.Expr]
    json_number_types: tuple[str, ...]
    json_integer_types: tuple[str, ...]
    quantile: Callable[[exp.Expr, float], exp.Expr]
    quantiles: Callable[[exp.Expr, list[float]], exp.Expr]
    nth: Callable[[exp.Expr, int], exp.Expr]
    count_if: Callable[[exp.Expr], exp.Expr]
    matches: Callable[[exp.Expr, str], exp.Expr]
    contains: Callable[[exp.Expr, str], exp.Expr]
    id_text: str
    real: str = "DOUBLE"
    integer: str = "BIGINT"
    row_text: Callable[[str, Any, int], str] | None = None
    longest: Callable[[Any], str] | None = None


def _pointer(key: str) -> str:
    """A JSON pointer (RFC 6901) to one top-level key, so that any character may stand in the key."""
    return "/" + key.replace("~", "~0").replace("/", "~1")


def _count_if(condition: exp.Expr) -> exp.Expr:
    """A third of the time of count(*) FILTER (...) over 30M rows. It is a HUGEINT, and null over no rows."""
    from sqlglot import exp

    found = exp.Coalesce(this=_call("count_if", condition), expressions=[_literal(0)])
    return exp.Cast(this=found, to=exp.DataType.build("BIGINT"))


DUCKDB = Dialect(
    name="duckdb",
    sqlglot="duckdb",
    epoch_us=lambda column: _call("epoch_us", column),
    moment=lambda us: _call("make_timestamp", us),
    year=lambda moment: _call("year", moment),
    month=lambda moment: _call("month", moment),
    json_at=lambda column, key: _call("json_extract", column, _literal(_pointer(key))),
    json_type=lambda column, key: _call("json_type", column, _literal(_pointer(key))),
    json_text=lambda column, key: _call("json_extract_string", column, _literal(_pointer(key))),
    json_number_types=("UBIGINT", "BIGINT", "DOUBLE"),
    json_integer_types=("UBIGINT", "BIGINT"),
    quantile=lambda value, q: _call("quantile_disc", value, _literal(q)),
    quantiles=lambda value, qs: _call("quantile_disc", value, _array([_literal(q) for q in qs])),
    nth=lambda values, place: _call("list_extract", values, _literal(place)),
    count_if=_count_if,
    matches=lambda text, pattern: _call("regexp_matches", text, _literal(pattern), _literal("s")),
    contains=lambda text, part: _call("contains", text, _literal(part)),
    id_text="coalesce(id_text, id::VARCHAR)",
    row_text=lines.row_text,
    longest=lines.longest,
)

POSTGRES = replace(DUCKDB, name="postgresql", sqlglot="postgres", id_text="coalesce(id_text, id::text)")


def quoted(text: str) -> str:
    """A text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"
