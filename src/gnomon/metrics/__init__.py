"""The algebra of metrics: a metric is a value (count, sum, mean, min, max, unique, quantile, ratio), never SQL.

The packs (`requests`, `events`) declare named metrics; `@metric` adds a host's own. The compiler gives each kind its
meaning, weights included, so a metric never has to know of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from gnomon.catalog import dataset, find_dimension
from gnomon.errors import InvalidValue, unknown_name

Filter: TypeAlias = Any  #: the JSON form of a filter, e.g. ["is", "type", ["request"]]


@dataclass(frozen=True)
class Count:
    """Weighted number of events, of those that pass `where`, or of those that have `field`."""

    where: Filter = None
    field: str | None = None


@dataclass(frozen=True)
class Sum:
    """Weighted sum of a measure; 0 where there is none."""

    field: str
    where: Filter = None


@dataclass(frozen=True)
class Mean:
    """Weighted mean of a measure over the events that have it; null where none has."""

    field: str
    where: Filter = None


@dataclass(frozen=True)
class Min:
    """Smallest value of a measure."""

    field: str
    where: Filter = None


@dataclass(frozen=True)
class Max:
    """Largest value of a measure."""

    field: str
    where: Filter = None


@dataclass(frozen=True)
class Unique:
    """Exact number of different values of a dimension, nulls not counted."""

    field: str
    where: Filter = None


@dataclass(frozen=True)
class Quantile:
    """The smallest value whose cumulative weight reaches `q` (0 < q < 1) of the total weight."""

    field: str
    q: float
    where: Filter = None


@dataclass(frozen=True)
class Ratio:
    """Sum of the one over sum of the other (never a mean of ratios); null where the denominator is 0 or missing.

    A `share` counts a part of what the denominator counts, so it lies between 0 and 1.
    """

    numerator: Count | Sum | Unique
    denominator: Count | Sum | Unique
    share: bool = False


Expression: TypeAlias = Count | Sum | Mean | Min | Max | Unique | Quantile | Ratio


@dataclass(frozen=True)
class Metric:
    """A named expression. `better` says which direction is good; `unit` is for people."""

    name: str
    expression: Expression
    unit: str = ""
    better: str | None = None
    dataset: str = "events"

    @property
    def is_rate(self) -> bool:
        """Whether its values are ratios, so that a change also has a difference in points."""
        return isinstance(self.expression, Ratio)

    @property
    def is_share(self) -> bool:
        """Whether its values lie between 0 and 1."""
        return isinstance(self.expression, Ratio) and self.expression.share


_REGISTRY: dict[str, Metric] = {}
ALIASES = {"visitors": "people", "visits": "sessions", "pageviews": "page_views"}


def declare(*metrics: Metric) -> None:
    """Add metrics to the registry; a name is declared once."""
    for found in metrics:
        if not isinstance(found.name, str) or not 0 < len(found.name) <= 200:
            raise InvalidValue("a metric has a name of 1 to 200 characters", code="bad-metric")
        for field in _fields(found.expression):
            find_dimension(dataset(found.dataset), field)
        if found.name in _REGISTRY and _REGISTRY[found.name] != found:
            raise InvalidValue(
                f"the metric {found.name} is declared already", remedy="Choose another name.", code="name-taken"
            )
        _REGISTRY[found.name] = found


def _fields(expression: Expression) -> list[str]:
    parts = (expression.numerator, expression.denominator) if isinstance(expression, Ratio) else (expression,)
    return [part.field for part in parts if part.field is not None]


def metric(name: str, *, unit: str = "", better: str | None = None) -> Callable[[Callable[[], Expression]], Metric]:
    """Declare a custom metric: decorate a function without arguments that returns an expression.

    >>> @metric("checkout_rate", better="up")
    ... def checkout_rate():
    ...     return Ratio(Count(where=["is", "type", ["checkout"]]), Count(where=["is", "type", ["cart"]]))
    """

    def declared(build: Callable[[], Expression]) -> Metric:
        made = Metric(name, build(), unit, better)
        declare(made)
        return made

    return declared


def known() -> Iterator[Metric]:
    """Every declared metric."""
    _load_packs()
    return iter(tuple(_REGISTRY.values()))


def is_declared(given: Metric) -> bool:
    """Whether a metric is a declared one under its own name or an alias, not one that a question made up."""
    found = _REGISTRY.get(ALIASES.get(given.name, given.name))
    return found is not None and found.expression == given.expression


_AGGS: dict[str, Callable[[str, Filter], Expression]] = {
    "sum": lambda field, where: Sum(field, where),
    "mean": lambda field, where: Mean(field, where),
    "avg": lambda field, where: Mean(field, where),
    "min": lambda field, where: Min(field, where),
    "max": lambda field, where: Max(field, where),
    "unique": lambda field, where: Unique(field, where),
    "median": lambda field, where: Quantile(field, 0.5, where),
}
AGGREGATES = tuple(_AGGS)  #: of metric objects, besides `count` and percentiles
_PERCENTILE = re.compile(r"p(\d{1,2}(?:\.\d{1,3})?)")


def find_metric(given: object) -> Metric:
    """The metric that `given` names or describes (`{"agg": ..., "field": ..., "as": ...}`). Raises `UnknownName`."""
    if isinstance(given, Metric):
        return given
    if isinstance(given, Mapping):
        return _from_object(given)
    if not isinstance(given, str):
        raise InvalidValue(
            "a metric must be a name or an object",
            remedy='For example "events" or {"agg": "p95", "field": "duration_ms"}.',
            code="bad-query",
        )
    _load_packs()
    name = ALIASES.get(given, given)
    if name not in _REGISTRY:
        raise unknown_name("metric", given, [*_REGISTRY, *ALIASES])
    return _REGISTRY[name] if name == given else replace(_REGISTRY[name], name=given)


def _from_object(given: Mapping[Any, Any]) -> Metric:
    extra = set(given) - {"agg", "field", "as", "where"}
    if extra:
        raise unknown_name("part of a metric object", next(iter(extra)), ["agg", "field", "as", "where"])
    agg, field, where = given.get("agg"), given.get("field"), given.get("where")
    name = given.get("as")
    if name is None:
        name = f"{agg}_{field}" if isinstance(agg, str) and isinstance(field, str) else agg
    if not isinstance(agg, str) or not isinstance(name, str) or not 0 < len(name) <= 200:
        raise InvalidValue("a metric object needs `agg` and texts for `field` and `as`", code="bad-query")
    return Metric(name, _expression(agg, field, where))


def _expression(agg: str, field: Any, where: Filter) -> Expression:
    if agg == "count":
        return Count(where, field)
    percentile = _PERCENTILE.fullmatch(agg)
    if agg not in _AGGS and not percentile:
        raise unknown_name("aggregate", agg, ["count", *_AGGS, "p50", "p90", "p95", "p99"])
    if not isinstance(field, str):
        raise InvalidValue(
            f"the aggregate {agg} needs a field",
            remedy='For example {"agg": "sum", "field": "bytes_sent"}.',
            code="bad-query",
        )
    if percentile:
        q = float(percentile[1]) / 100
        if not 0 < q < 1:
            raise InvalidValue("a percentile lies between p0 and p100", code="bad-query")
        return Quantile(field, round(q, 6), where)
    return _AGGS[agg](field, where)


def _load_packs() -> None:
    from gnomon.metrics import events, requests  # noqa: F401  importing a pack declares it


__all__ = [
    "Count", "Expression", "Max", "Mean", "Metric", "Min", "Quantile", "Ratio", "Sum", "Unique",
    "declare", "find_metric", "is_declared", "known", "metric",
]  # fmt: skip
