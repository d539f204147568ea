"""What the audit keeps of a question: metrics, dimensions and the fields of its filters, never their values.

Ids of people are the exception: who was asked about matters, so they stay as `Person`, which becomes a keyed digest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gnomon.access import Person
from gnomon.metrics import Metric, Ratio, is_declared
from gnomon.query.model import Filter, Not, Query, Test, parse_filters

#: Dimensions whose values name a person.
PERSONAL = frozenset({"user_id", "device_id", "session_id", "actor"})
MOST_TESTS = 50
MOST_PEOPLE = 100


def outline(query: Query) -> dict[str, Any]:
    """Plain values and `Person`s; a part that says nothing is left out, and lists are cut at a length."""
    tests = list(_tests(query.filters))
    for metric in query.metrics:
        if not is_declared(metric):
            tests += [test for part in _parts(metric) for test in _tests(parse_filters(query.data, part.where))]
    told = {
        "metrics": [metric.name if is_declared(metric) else _described(metric) for metric in query.metrics],
        "dimensions": [dimension.name for dimension in query.dimensions],
        "filters": [_said(test) for test in tests[:MOST_TESTS]],
        "filters_left_out": max(0, len(tests) - MOST_TESTS),
        "dataset": query.data.name if query.data.name != "events" else None,
        "compared": query.compare is not None,
    }
    return {name: value for name, value in told.items() if value}


def _tests(node: Filter | None) -> Iterator[Test]:
    if node is None:
        return
    if isinstance(node, Test):
        yield node
    elif isinstance(node, Not):
        yield from _tests(node.part)
    else:
        for part in node.parts:
            yield from _tests(part)


def _said(test: Test) -> list[Any]:
    said: list[Any] = [test.op, test.dimension.name]
    if test.dimension.column in PERSONAL and test.dimension.json_key is None:
        said.append([Person(value) if isinstance(value, str) else value for value in test.values[:MOST_PEOPLE]])
        if len(test.values) > MOST_PEOPLE:
            said.append(f"and {len(test.values) - MOST_PEOPLE} more")
    return said


def _parts(metric: Metric) -> tuple[Any, ...]:
    found = metric.expression
    return (found.numerator, found.denominator) if isinstance(found, Ratio) else (found,)


def _described(metric: Metric) -> str:
    """A metric object by kind and field; the name that the caller gave it may be anything."""
    return "/".join(f"{type(part).__name__.lower()}({part.field or ''})" for part in _parts(metric))
