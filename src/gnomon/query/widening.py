"""A question that names a person, widened to all that the person may be kept as: the id itself, and its pseudonyms.

So whoever knows an id may ask about it, and nobody has to know under which key a row was kept. Answers show pseudonyms.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gnomon.catalog import Dataset
from gnomon.metrics import Expression, Ratio
from gnomon.pseudonyms import Pseudonyms
from gnomon.query.model import Filter, Not, Query, Test, parse_filters
from gnomon.query.outline import PERSONAL


def widened(query: Query, pseudonyms: Pseudonyms | None) -> Query:
    """The question with every id, and every value of a named property, beside its pseudonyms under all keys."""
    if pseudonyms is None:
        return query
    filters = None if query.filters is None else _filter(query.filters, pseudonyms)
    metrics = tuple(
        replace(metric, expression=_expression(query.data, metric.expression, pseudonyms)) for metric in query.metrics
    )
    return replace(query, filters=filters, metrics=metrics)


def _expression(data: Dataset, node: Expression, pseudonyms: Pseudonyms) -> Any:
    if isinstance(node, Ratio):
        return replace(node, numerator=_expression(data, node.numerator, pseudonyms),
                       denominator=_expression(data, node.denominator, pseudonyms))  # fmt: skip
    where = parse_filters(data, node.where)
    return node if where is None else replace(node, where=_filter(where, pseudonyms))


def _filter(node: Filter, pseudonyms: Pseudonyms) -> Filter:
    if isinstance(node, Test):
        return _test(node, pseudonyms)
    if isinstance(node, Not):
        return Not(_filter(node.part, pseudonyms))
    return type(node)(tuple(_filter(part, pseudonyms) for part in node.parts))


def _test(test: Test, pseudonyms: Pseudonyms) -> Test:
    """`is` and `is_not` only: the other operators compare with what is kept."""
    if test.op not in ("is", "is_not"):
        return test
    key = test.dimension.json_key
    if key is None and test.dimension.column in PERSONAL:
        many = [pseudonyms.ids(value) if isinstance(value, str) else (value,) for value in test.values]
    elif pseudonyms.names_key(key):
        many = [pseudonyms.values(key or "", value) for value in test.values]
    else:
        return test
    unlike = {(type(value), value): value for few in many for value in few}  # `True` is not `1`
    return replace(test, values=tuple(unlike.values()))
