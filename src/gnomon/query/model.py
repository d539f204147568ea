"""`Query`: a question as a value. Building one checks its shape and every name in it; it reaches no store.

Filters keep their JSON form on the outside (`["is", "source", ["a"]]`) and are small dataclasses inside.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from gnomon.catalog import Dataset, Dimension, dataset, find_dimension
from gnomon.errors import InvalidValue, unknown_name
from gnomon.metrics import Metric, Ratio, find_metric

MAX_FILTER_NODES = 500
MAX_DIMENSIONS = 10
MAX_METRICS = 50
MAX_PATTERN = 1_000


@dataclass(frozen=True)
class Test:
    """One comparison of a dimension: op is is, is_not, contains, contains_not, matches, gt, gte, lt, lte or is_set."""

    op: str
    dimension: Dimension
    values: tuple[Any, ...]


@dataclass(frozen=True)
class All:
    """Every part holds."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True)
class Either:
    """At least one part holds."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True)
class Not:
    """The part does not hold; so it also matches where the part met a null."""

    part: Filter


Filter: TypeAlias = Test | All | Either | Not

_ORDERED = ("gt", "gte", "lt", "lte")
_TEXT_OPS = ("contains", "contains_not", "matches")
_OPS = ("is", "is_not", *_TEXT_OPS, *_ORDERED, "is_set", "and", "or", "not")
OPERATORS = _OPS  #: of filters


@dataclass(frozen=True)
class Query:
    """A checked question. Use `Query.build`; the fields are what the plan works on.

    `order` holds `(place, descending)`, where place is a column of the answer: dimensions first, then metrics.
    """

    data: Dataset
    metrics: tuple[Metric, ...]
    dimensions: tuple[Dimension, ...]
    date_range: Any
    filters: Filter | None
    timezone: str | None
    order: tuple[tuple[int, bool], ...]
    limit: int | None
    compare: Any
    after: str | None
    totals: bool
    basis: str = "auto"  #: `raw`: never from rollups

    @classmethod
    def build(cls, metrics: Sequence[Any], dimensions: Sequence[str] = (), date_range: Any = "all",
              filters: Sequence[Any] | None = None, timezone: str | None = None,
              order_by: Sequence[Sequence[str]] | None = None, limit: int | None = None, compare: Any = None,
              after: str | None = None, totals: bool = False, dataset_name: str = "events",
              basis: str = "auto") -> Query:  # fmt: skip
        """Check every part. Raises `InvalidValue` for a wrong shape, `UnknownName` for a name that does not exist."""
        data = dataset(dataset_name)
        found = tuple(find_metric(given) for given in _list("metrics", metrics, MAX_METRICS, least=1))
        dims = tuple(find_dimension(data, name) for name in _list("dimensions", dimensions, MAX_DIMENSIONS))
        _no_repeats([d.name for d in dims] + [m.name for m in found])
        for metric in found:
            _check_fields(data, metric)
        if limit is not None and (type(limit) is not int or limit < 1):
            raise InvalidValue("limit must be a whole number of at least 1", code="bad-query")
        if basis not in ("auto", "raw"):
            raise unknown_name("basis", basis, ["auto", "raw"])
        return cls(
            data,
            found,
            dims,
            date_range,
            parse_filters(data, filters),
            timezone,
            _order(order_by, [d.name for d in dims] + [m.name for m in found]),
            limit,
            compare,
            after,
            totals,
            basis,
        )

    @property
    def time_only(self) -> bool:
        """Whether a time bucket is the only dimension, so that every bucket of the range is returned."""
        return len(self.dimensions) == 1 and self.dimensions[0].grain not in (None, "hour_of_day", "day_of_week")


def parse_filters(data: Dataset, filters: Any) -> Filter | None:
    """The checked form of a list of filters (all must hold). A single filter is taken as a list of one."""
    if filters is None or filters == [] or filters == ():
        return None
    if isinstance(filters, All | Either | Not | Test):
        return filters
    if not isinstance(filters, list | tuple):
        raise _bad_filter("filters must be a list")
    budget = [MAX_FILTER_NODES]
    if filters and isinstance(filters[0], str):
        return _filter(data, filters, budget, 0)
    parts = tuple(_filter(data, part, budget, 0) for part in filters)
    return parts[0] if len(parts) == 1 else All(parts)


def _filter(data: Dataset, given: Any, budget: list[int], depth: int) -> Filter:
    budget[0] -= 1
    if budget[0] < 0 or depth > 16:
        raise _bad_filter(f"more than {MAX_FILTER_NODES} filters, or nested deeper than 16")
    if not isinstance(given, list | tuple) or not given or not isinstance(given[0], str):
        raise _bad_filter("a filter is a list that begins with an operator")
    op, rest = given[0], given[1:]
    if op in ("and", "or"):
        if len(rest) != 1 or not isinstance(rest[0], list | tuple) or not rest[0]:
            raise _bad_filter(f"`{op}` takes one list of at least one filter")
        parts = tuple(_filter(data, part, budget, depth + 1) for part in rest[0])
        return All(parts) if op == "and" else Either(parts)
    if op == "not":
        if len(rest) != 1:
            raise _bad_filter("`not` takes one filter")
        return Not(_filter(data, rest[0], budget, depth + 1))
    if op not in _OPS:
        raise unknown_name("filter operator", op, _OPS)
    return _test(data, op, rest)


def _test(data: Dataset, op: str, rest: Sequence[Any]) -> Test:
    if not rest:
        raise _bad_filter(f"`{op}` needs a dimension")
    dimension = find_dimension(data, rest[0])
    if dimension.kind == "time":
        raise InvalidValue("time is not filtered but given as date_range", code="bad-filter")
    if op == "is_set":
        if len(rest) != 1:
            raise _bad_filter("`is_set` takes a dimension only")
        return Test(op, dimension, ())
    if len(rest) != 2:
        raise _bad_filter(f"`{op}` takes a dimension and a value")
    values = tuple(rest[1]) if isinstance(rest[1], list | tuple) else (rest[1],)
    if not values or len(values) > 10_000:
        raise _bad_filter(f"`{op}` takes 1 to 10,000 values")
    if op in _ORDERED and len(values) != 1:
        raise _bad_filter(f"`{op}` takes one value")
    return Test(op, dimension, tuple(_value(op, dimension, value) for value in values))


def _value(op: str, dimension: Dimension, value: Any) -> Any:
    """One filter value, of the type that the dimension holds. `"1"` is not `1`, so a wrong type is refused."""
    if value is None:
        if op in ("is", "is_not"):
            return None
        raise _bad_filter(f"`{op}` does not take null")
    if isinstance(value, float) and not math.isfinite(value):
        raise _bad_filter("a number in a filter must be finite")
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**63:
        raise _bad_filter("an integer in a filter must fit 64 bits")
    if isinstance(value, str):
        _check_text(value)
    kind = _kind_of(value)
    allowed = {"text": ("text",), "number": ("number",), "boolean": ("boolean",),
               "json": ("text", "number", "boolean")}[dimension.kind]  # fmt: skip
    if op in _TEXT_OPS:
        allowed = ("text",) if dimension.kind in ("text", "json") else ()
    if op in _ORDERED and kind == "boolean":
        allowed = ()
    if kind not in allowed:
        raise InvalidValue(f"`{op}` on {dimension.name[:60]!r} does not take a value of type {kind}",
                           remedy=f"Its values are of type {dimension.kind}.", code="bad-filter")  # fmt: skip
    if op == "matches":
        check_pattern(value)
    return value


def _kind_of(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return "text" if isinstance(value, str) else type(value).__name__


def _check_text(value: str) -> None:
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise _bad_filter("a text in a filter holds half of a surrogate pair") from None
    if size > 8 * 1024 or "\x00" in value:
        raise _bad_filter("a text in a filter is longer than 8 KiB or holds a NUL character")


_REPETITION = re.compile(r"\{(\d*)(?:,(\d*))?\}")
_ESCAPES = frozenset("dDwWsS.\\+*?()[]{}|^$/-\"' nrt")


def check_pattern(pattern: str) -> None:
    """Accept what RE2 and PostgreSQL read alike; raise `InvalidValue` (`bad-pattern`) for anything else."""
    if len(pattern) > MAX_PATTERN:
        raise _bad_pattern(f"longer than {MAX_PATTERN} characters")
    for match in _REPETITION.finditer(pattern):
        if any(int(number) > 255 for number in match.groups() if number):
            raise _bad_pattern("repeats more than 255 times")
    place = 0
    while place < len(pattern):
        if pattern[place] == "\\":
            if pattern[place + 1 : place + 2] not in _ESCAPES or place + 1 >= len(pattern):
                raise _bad_pattern("has an escape that stores read differently (back reference, word boundary, class)")
            place += 1
        elif pattern.startswith("(?", place) and not pattern.startswith("(?:", place):
            raise _bad_pattern("has a look-around, a flag or a named group")
        place += 1
    try:
        re.compile(_for_python(pattern))
    except (re.error, RecursionError, OverflowError):
        raise _bad_pattern("is not a regular expression") from None


_ESCAPE_OR_CLASS = re.compile(r"\\.|\[\^?\]?(?:\[:\w+:\]|\\.|[^\]\\])*\]", re.DOTALL)
_POSSESSIVE = re.compile(r"(?:[*+?]|\{\d+(?:,\d*)?\})\+")
#: The names that a class may have within it.
_NAMED_CLASS = re.compile(
    r"\[:(?:alnum|alpha|ascii|blank|cntrl|digit|graph|lower|print|punct|space|upper|word|xdigit):\]"
)
_WARNED_OF = re.compile(r"(?!^)\[|&&|\|\||~~|--")


def _for_python(pattern: str) -> str:
    """The pattern as Python may check it: without the classes that it warns of, which the stores read alike."""
    rest = _ESCAPE_OR_CLASS.sub("a", pattern)
    if "[" in rest:
        raise _bad_pattern("has a class that does not end")
    for found in _ESCAPE_OR_CLASS.finditer(pattern):
        if found[0].startswith("[") and re.search(r"\[:.*:", _NAMED_CLASS.sub("", found[0][1:]), re.DOTALL):
            raise _bad_pattern("names a class that is not known")
    if _POSSESSIVE.search(rest):
        raise _bad_pattern("has a possessive repetition")
    return _ESCAPE_OR_CLASS.sub(lambda found: "[a]" if _WARNED_OF.search(found[0]) else found[0], pattern)


def _check_fields(data: Dataset, metric: Metric) -> None:
    """Every field of a metric exists and is of a fitting type."""
    expression = metric.expression
    parts = (expression.numerator, expression.denominator) if isinstance(expression, Ratio) else (expression,)
    if data.name != metric.dataset and metric.dataset != "events":
        raise InvalidValue(f"the metric {metric.name} belongs to the dataset {metric.dataset}",
                           remedy=f'Ask with dataset="{metric.dataset}".', code="bad-query")  # fmt: skip
    for part in parts:
        parse_filters(data, part.where)
        if part.field is None:
            continue
        dimension = find_dimension(data, part.field)
        countable = type(part).__name__ in ("Unique", "Count")
        if not countable and dimension.kind not in ("number", "json"):
            raise InvalidValue(
                f"{dimension.name[:60]!r} holds no numbers",
                remedy="Measures: " + ", ".join(data.measures) + f", {data.json_prefix}<key>.",
                code="bad-query",
            )
        if dimension.kind == "time":
            raise InvalidValue("time cannot be aggregated", code="bad-query")


def _order(order_by: Any, names: list[str]) -> tuple[tuple[int, bool], ...]:
    found: list[tuple[int, bool]] = []
    if isinstance(order_by, list | tuple) and len(order_by) == 2 and order_by[1] in ("asc", "desc"):
        order_by = [order_by]  # one pair that was not put into a list
    for entry in _list("order_by", order_by or (), 20):
        pair = (entry, "asc") if isinstance(entry, str) else entry
        if not isinstance(pair, list | tuple) or len(pair) != 2 or pair[1] not in ("asc", "desc"):
            raise InvalidValue('order_by takes pairs like ["requests", "desc"]', code="bad-query")
        if pair[0] not in names:
            raise unknown_name("column to order by", pair[0], names)
        found.append((names.index(pair[0]), pair[1] == "desc"))
    return tuple(found)


def _list(name: str, given: Any, most: int, least: int = 0) -> list[Any]:
    if isinstance(given, str) or not isinstance(given, Sequence) or isinstance(given, Mapping):
        raise InvalidValue(f"{name} must be a list", code="bad-query")
    if not least <= len(given) <= most:
        raise InvalidValue(f"{name} takes {least} to {most} entries", code="bad-query")
    return list(given)


def _no_repeats(names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise InvalidValue("two columns of the answer would have the same name",
                               remedy='Give a metric object another name with "as".', code="bad-query")  # fmt: skip


def _bad_filter(message: str) -> InvalidValue:
    return InvalidValue(
        message,
        remedy='Forms: ["is", dim, [values]], ["gt", dim, value], ["is_set", dim], ["and"|"or", [..]], ["not", f].',
        code="bad-filter",
    )


def _bad_pattern(why: str) -> InvalidValue:
    return InvalidValue(
        f"the pattern {why}",
        remedy="Use a plain RE2 pattern without look-around and back references.",
        code="bad-pattern",
    )
