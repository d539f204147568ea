"""The order of an answer's rows, and its pages: where the one before ended, and what lies behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlglot import exp

from gnomon.errors import InvalidValue
from gnomon.query.filters import column, literal
from gnomon.query.plan import Plan


@dataclass(frozen=True)
class Cursor:
    """Where the page before ended: the values of its last row, in the order of the answer's sort keys (none: at the
    start), and the data version of the first page."""

    values: tuple[Any, ...]
    version: int


def paged(plan: Plan, select: exp.Select, cursor: Cursor | None, *, joined: bool = False) -> exp.Select:
    """One page in order; with `joined` the rows are already those of a relation named `answer`."""
    keys = sort_keys(plan)
    if cursor is not None and cursor.values:
        if len(cursor.values) != len(keys):
            raise InvalidValue("the page cursor belongs to another question", code="bad-cursor")
        if not joined:
            select = exp.select(exp.Star()).from_("answer").with_("answer", as_=select, materialized=True)
        select.where(_behind(keys, cursor.values), copy=False)
    order = [exp.Ordered(this=column(name), desc=desc, nulls_first=False) for name, desc in keys]
    return select.order_by(*order, copy=False).limit(plan.page + 1, copy=False)


def sort_keys(plan: Plan) -> list[tuple[str, bool]]:
    """The complete order of an answer as `(column, descending)`: what was asked, else time then the first metric
    falling, and always every dimension behind it, so that pages neither repeat nor miss a row. Nulls come last."""
    count = len(plan.query.dimensions)
    named = [(f"d{place}" if place < count else f"m{place - count}", desc) for place, desc in plan.query.order]
    if not named:
        named = [(f"d{i}", False) for i, d in enumerate(plan.query.dimensions) if d.kind == "time"] or [("m0", True)]
    seen = {name for name, _ in named}
    return named + [(f"d{i}", False) for i in range(count) if f"d{i}" not in seen]


def _behind(keys: list[tuple[str, bool]], values: tuple[Any, ...]) -> exp.Expr:
    """Rows that sort strictly behind `values`, nulls last in either direction."""
    alternatives: list[exp.Expr] = []
    same: list[exp.Expr] = []
    there = exp.and_(
        *[
            exp.NullSafeEQ(this=column(n), expression=literal(v))
            for (n, _), v in zip(keys, values, strict=True)
            if n[0] == "d"
        ]
    )
    for (name, desc), value in zip(keys, values, strict=True):
        is_null = exp.Is(this=column(name), expression=exp.Null())
        if value is None:
            same.append(is_null)
            continue
        bound = literal(value)
        if isinstance(value, float) and name[0] == "m":
            again = exp.select(name).from_("answer").where(there.copy()).limit(1).subquery()
            bound = exp.Coalesce(this=again, expressions=[bound])
        beyond: exp.Expr = (exp.LT if desc else exp.GT)(this=column(name), expression=bound)
        alternatives.append(exp.and_(*same, exp.Paren(this=exp.Or(this=beyond, expression=is_null))))
        same.append(exp.EQ(this=column(name), expression=bound.copy()))
    return exp.or_(*alternatives) if alternatives else exp.false()
