"""The words of ClickHouse.

The words that the texts of statements share are renamed by `spoken`, which the store puts every statement through:
functions of its own would belong to the whole server, and `divide` is taken there.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from gnomon.store.dialect import Dialect, _call, _cast, _literal
from gnomon.store.rollups_clickhouse import CLICKHOUSE as ROLLUPS
from gnomon.store.rollups_clickhouse import apart, exact, listed

if TYPE_CHECKING:
    from sqlglot import exp

#: What a session has to be set to, so that nulls are those of SQL.
SETTINGS: dict[str, Any] = {
    "session_timezone": "UTC",
    "join_use_nulls": 1,
    "aggregate_functions_null_for_empty": 1,
    "cast_keep_nullable": 1,
    "prefer_column_name_to_alias": 1,
    "precise_float_parsing": 1,
    "enable_materialized_cte": 1,
    "max_query_size": 1 << 30,  # the parts of days of a long range
    "max_ast_elements": 10_000_000,
    "max_expanded_ast_elements": 10_000_000,
}

_SPOKEN = {
    "epoch_us": "toUnixTimestamp64Micro",
    "make_timestamp": "fromUnixTimestamp64Micro",
    "divide": "intDiv",
    "strpos": "position",
    "json_keys": "JSONExtractKeys",
    "unnest": "arrayJoin",
    "chr": "char",
    "gen_random_uuid": "generateUUIDv4",
    "bool_or": "max",
    "BOOL_OR": "max",
}
_WORDS = re.compile(rf"'(?:[^'\\]|\\.|'')*'|`[^`]*`|\"[^\"]*\"|\b({'|'.join(_SPOKEN)})(?=\()", re.DOTALL)


def spoken(text: str) -> str:
    """A statement with the words that stores share as ClickHouse calls them; literals stay as they are."""
    return _WORDS.sub(lambda found: _SPOKEN.get(found[0], found[0]), text)


# -- times and numbers ------------------------------------------------------------------------------------------------


def _moment(us: exp.Expr) -> exp.Expr:
    return _call("fromUnixTimestamp64Micro", us, _literal("UTC"))


def _whole(value: exp.Expr) -> exp.Expr:
    """Sums of 64-bit integers do not stop at 64 bits, they go on from the other end."""
    return _cast(value, "INT128")


# -- JSON, kept as text -----------------------------------------------------------------------------------------------


def _raw(column: exp.Expr, key: str) -> str:
    """The value at a key, written anew: 1.0 as 1, and large doubles as integers."""
    return _sql(_call("JSONExtractRaw", column.copy(), _literal(key)))


def _as_written(column: exp.Expr, key: str) -> str:
    """The value at a key as it was kept: behind its name, which may also stand further inside, where the text is what
    ClickHouse would write anew as this value."""
    name, whole = _sql(_literal(msgspec.json.encode(key).decode() + ":")), f"assumeNotNull({_sql(column)})"
    ends = f"arrayCumSum(arrayMap(piece -> length(piece) + length({name}), splitByString({name}, {whole})))"
    first = f"simpleJSONExtractRaw(concat('{{\"k\":', substring({whole}, place + 1)), 'k')"
    values = f"arrayMap(place -> {first}, arrayPopBack({ends}))"
    raw = _raw(column, key)
    return f"coalesce(nullIf(arrayFirst(value -> coalesce(JSONExtractRaw(value) = {raw}, false), {values}), ''), {raw})"


def _json_at(column: exp.Expr, key: str) -> exp.Expr:
    raw = _raw(column, key)
    return _text(
        f"CASE WHEN {raw} = '' THEN NULL WHEN {raw} IN ('true', 'false') THEN {raw} ELSE {_as_written(column, key)} END"
    )


def _json_text(column: exp.Expr, key: str) -> exp.Expr:
    raw = _raw(column, key)
    return _text(f"CASE WHEN startsWith({raw}, '\"') THEN JSONExtractString({raw}) END")


def _json_number(column: exp.Expr, key: str) -> exp.Expr:
    raw = _raw(column, key)
    return _text(f"CASE WHEN {raw} >= '-' AND {raw} < ':' THEN JSONExtractFloat({raw}) END")


#: Integers that a double names (here: below 9.007e15), whole doubles among them, and flags.
_PLAIN = "^(-?([0-9]{1,15}|[0-8][0-9]{15}|900[0-6][0-9]{12})|true|false)$"


def _json_key(column: exp.Expr, key: str) -> exp.Expr:
    """Most values are as they were written: also texts in which nothing stands as `\\u`."""
    raw = _raw(column, key)
    as_it_is = f"{raw} < '#' AND position({raw}, '\\\\u') = 0 OR match({raw}, '{_PLAIN}')"
    return _text(
        f"CASE WHEN {raw} IN ('', 'null') THEN NULL WHEN {raw} = '-0' THEN '0' WHEN {as_it_is} THEN {raw} "
        f"ELSE {_as_written(column, key)} END"
    )


def _sql(tree: exp.Expr) -> str:
    return tree.sql(dialect="clickhouse")


def _text(sql: str) -> exp.Expr:
    from sqlglot import exp

    return exp.Var(this=sql)


# -- aggregates -------------------------------------------------------------------------------------------------------

#: `quantileExact` takes the value behind floor(q n) others, of which there must be less than q n.
_BELOW = 1 - 1e-12


def _quantile(value: exp.Expr, q: float) -> exp.Expr:
    return _parametric("quantileExact", [q], value)


def _quantiles(value: exp.Expr, qs: list[float]) -> exp.Expr:
    return _parametric("quantilesExact", qs, value)


def _parametric(name: str, levels: list[float], value: exp.Expr) -> exp.Expr:
    from sqlglot import exp

    return exp.ParameterizedAgg(this=name, expressions=[_literal(q * _BELOW) for q in levels], params=[value])


def _nth(values: exp.Expr, place: int) -> exp.Expr:
    """Null where there are no values: an array cannot be null, and holds zeros then."""
    from sqlglot import exp

    count = values.copy()
    inner = count.this if isinstance(count, exp.Filter) else count
    counted = exp.Count(this=inner.args["params"][0].copy())
    if isinstance(count, exp.Filter):
        count.set("this", counted)
    else:
        count = counted
    there = exp.GT(this=count, expression=_literal(0))
    return exp.Case(ifs=[exp.If(this=there, true=_call("arrayElement", values, _literal(place)))])


def _count_if(condition: exp.Expr) -> exp.Expr:
    return _call("countIf", condition)


def _contains(text: exp.Expr, part: str) -> exp.Expr:
    from sqlglot import exp

    return exp.Paren(this=exp.GT(this=_call("position", text, _literal(part)), expression=_literal(0)))


CLICKHOUSE = Dialect(
    name="clickhouse",
    sqlglot="clickhouse",
    epoch_us=lambda column: _call("toUnixTimestamp64Micro", column),
    moment=_moment,
    divided=lambda value, by: _call("intDiv", value, _literal(by)),
    year=lambda moment: _call("toYear", moment),
    month=lambda moment: _call("toMonth", moment),
    json_at=_json_at,
    json_text=_json_text,
    json_number=_json_number,
    json_key=_json_key,
    average=lambda mean: mean,
    quantile=_quantile,
    quantiles=_quantiles,
    nth=_nth,
    count_if=_count_if,
    matches=lambda text, pattern: _call("match", text, _literal(f"(?s){pattern}")),
    contains=_contains,
    id_text="coalesce(id_text, toString(id))",
    rollups=ROLLUPS,
    real="Float64",
    huge="INT128",
    whole=_whole,
    exact=exact,
    meets=lambda one, other: f"bitAnd({one}, {other}) <> 0",
    apart=apart,
    listed=listed,
    spoken=spoken,
)
