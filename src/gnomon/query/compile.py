"""A plan becomes SQL: expression trees built once, written out in the words of one store's dialect.

Nothing a caller sends is ever text of SQL: names come from the catalog, values become literals of the tree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlglot import exp

from gnomon.catalog import Dimension
from gnomon.errors import InvalidValue
from gnomon.metrics import Count, Mean, Min, Quantile, Ratio, Sum, Unique
from gnomon.metrics import Expression as MetricExpression
from gnomon.query.filters import FilterWords, column, literal, named, typed
from gnomon.query.model import Filter, Test, parse_filters
from gnomon.query.plan import Plan
from gnomon.query.zones import TimeWords
from gnomon.store.dialect import Dialect

_NORMAL_95 = 1.959963984540054  #: two-sided 95 % quantile of the normal distribution


@dataclass(frozen=True)
class Cursor:
    """Where the page before ended: the values of its last row, in the order of the answer's sort keys (none: at the
    start), and the data version of the first page."""

    values: tuple[Any, ...]
    version: int


def compile_plan(plan: Plan, dialect: Dialect, cursor: Cursor | None = None, *, totals: bool = False) -> str:
    """The SQL text of a plan. Columns: `d0..` dimensions, `m0..` metrics, `e0..` half-widths of 95 % intervals."""
    if plan.sources.sums or plan.sources.people:
        from gnomon.query.state import compile_state  # deferred: it builds on this module

        return compile_state(plan, dialect, cursor, totals=totals)
    return Compiler(plan, dialect, totals).statement(cursor)


class Compiler:
    """The SQL of an answer that rests on raw rows; `query.state` builds on it."""

    def __init__(self, plan: Plan, dialect: Dialect, totals: bool) -> None:
        self.plan = plan
        self.dialect = dialect
        self.totals = totals
        self.filters = FilterWords(dialect)
        self.times = TimeWords(dialect, plan.range, plan.pieces)
        self.weight = column("weight") if plan.weighted else None

    def statement(self, cursor: Cursor | None) -> str:
        dims = [] if self.totals else [
            named(self._dimension(d), f"d{i}") for i, d in enumerate(self.plan.query.dimensions)
        ]  # fmt: skip
        metrics = [named(self._metric(m.expression), f"m{i}") for i, m in enumerate(self.plan.query.metrics)]
        errors = self._half_widths() if self.plan.weighted else []
        select = exp.Select(expressions=[*dims, *metrics, *errors]).from_(self.plan.query.data.name, copy=False)
        select.where(self._where(cursor), copy=False)
        if dims:
            select.group_by(*[exp.Literal.number(i + 1) for i in range(len(dims))], copy=False)
            select = self._join_quantiles(select)
            if self.plan.buckets is None:
                select = self._paged(select, cursor)
        else:
            select = self._join_quantiles(select)
        return select.sql(dialect=self.dialect.sqlglot, copy=False)

    # -- rows ---------------------------------------------------------------------------------------------------

    def _where(self, cursor: Cursor | None) -> exp.Expr:
        ts = column("ts")
        version = cursor.version if cursor else self.plan.version
        parts: list[exp.Expr] = [
            exp.EQ(this=column("project"), expression=literal(self.plan.project)),
            exp.GTE(this=ts, expression=self.dialect.moment(literal(self.plan.range.start_us))),
            exp.LT(this=ts.copy(), expression=self.dialect.moment(literal(self.plan.range.end_us))),
        ]
        if cursor is not None:
            parts.append(exp.LTE(this=column("version"), expression=literal(version)))
        if self.plan.query.filters is not None:
            parts.append(self.filters.condition(self.plan.query.filters))
        return exp.and_(*parts, copy=False)

    def _dimension(self, dimension: Dimension) -> exp.Expr:
        if dimension.kind == "time":
            return self.times.bucket(dimension.grain or "")
        return self.filters.group_key(dimension)

    # -- metrics ------------------------------------------------------------------------------------------------

    def _condition(self, where: Any) -> Filter | None:
        return parse_filters(self.plan.query.data, where)

    def _metric(self, node: MetricExpression) -> exp.Expr:
        if isinstance(node, Ratio):
            below = exp.Nullif(this=self._metric(node.denominator), expression=literal(0))
            above = exp.Cast(this=self._metric(node.numerator), to=typed("DOUBLE"))
            return exp.Div(this=above, expression=below, typed=False, safe=False)
        if isinstance(node, Count):
            return self._count(node)
        if isinstance(node, Unique):
            distinct = exp.Count(this=exp.Distinct(expressions=[self._identity(node.field)]))
            return self._filtered(distinct, node.where)
        value = self._number(node.field)
        if isinstance(node, Quantile):
            return self._quantile(node, value)
        if isinstance(node, Sum):
            total = exp.Sum(this=self._weighted(value))
            return exp.Coalesce(this=self._filtered(total, node.where), expressions=[literal(0)])
        if isinstance(node, Mean):
            return self._mean(node, value)
        return self._filtered((exp.Min if isinstance(node, Min) else exp.Max)(this=value), node.where)

    def _count(self, node: Count) -> exp.Expr:
        if self.weight is None:
            return self._plain_count(node)
        present = None
        if node.field is not None:
            present = exp.Not(this=exp.Is(this=self._identity(node.field), expression=exp.Null()))
        total = self._filtered(exp.Sum(this=self.weight.copy()), node.where, present)
        return exp.Coalesce(this=total, expressions=[exp.Literal.number("0.0")])

    def _plain_count(self, node: Count) -> exp.Expr:
        """The number of rows. What is only asked to be there is counted as a column, which no store has to compare."""
        where = self._condition(node.where)
        if where is None:
            return exp.Count(this=exp.Star() if node.field is None else self._identity(node.field))
        if node.field is None and isinstance(where, Test) and where.op == "is_set":
            return exp.Count(this=self.filters.identity_of(where.dimension))
        condition = self.filters.condition(where)
        if node.field is not None:
            present = exp.Not(this=exp.Is(this=self._identity(node.field), expression=exp.Null()))
            condition = exp.and_(condition, present)
        if self.plan.query.dimensions and isinstance(where, Test) and where.values == (False,):
            # Failures are few: picking them out first costs less than a look at every row of every group.
            return exp.Filter(this=exp.Count(this=exp.Star()), expression=exp.Where(this=condition))
        return self.dialect.count_if(condition)

    def _mean(self, node: Mean, value: exp.Expr) -> exp.Expr:
        if self.weight is None:
            return self._filtered(exp.Avg(this=value), node.where)
        present = exp.Not(this=exp.Is(this=value.copy(), expression=exp.Null()))
        above = self._filtered(exp.Sum(this=self._weighted(value)), node.where)
        below = self._filtered(exp.Sum(this=self.weight.copy()), node.where, present)
        return exp.Div(this=above, expression=exp.Nullif(this=below, expression=literal(0)), typed=False, safe=False)

    def _quantile(self, node: Quantile, value: exp.Expr) -> exp.Expr:
        if self.weight is None:
            wanted = sorted({n.q for n in self._quantiles() if (n.field, n.where) == (node.field, node.where)})
            if len(wanted) == 1:
                return self._filtered(self.dialect.quantile(value, node.q), node.where)
            several = self._filtered(self.dialect.quantiles(value, wanted), node.where)  # one state for all of them
            return self.dialect.nth(several, wanted.index(node.q) + 1)
        # With weights: the smallest value whose running weight reaches q of the total, see _join_quantiles.
        reached = exp.GTE(
            this=column(self._running(node)),
            expression=exp.Mul(this=literal(node.q * (1 - 1e-12)), expression=column(self._running(node) + "_all")),
        )
        kept = exp.And(this=reached, expression=exp.Not(this=exp.Is(this=value.copy(), expression=exp.Null())))
        return self._filtered(exp.Min(this=value), node.where, kept)

    def _running(self, node: Quantile) -> str:
        return f"run{[str(n) for n in self._quantiles()].index(str(node))}"

    def _quantiles(self) -> list[Quantile]:
        return [m.expression for m in self.plan.query.metrics if isinstance(m.expression, Quantile)]

    def _join_quantiles(self, select: exp.Select) -> exp.Select:
        """For weighted quantiles, put running weights beside every row before the rows are grouped."""
        if self.weight is None or not self._quantiles():
            return select
        keys = [] if self.totals else [self._dimension(d) for d in self.plan.query.dimensions]
        extra: list[exp.Expr] = []
        for node in self._quantiles():
            value = self._number(node.field)
            counts: exp.Expr = exp.Not(this=exp.Is(this=value.copy(), expression=exp.Null()))
            condition = self._condition(node.where)
            if condition is not None:
                counts = exp.and_(counts, self.filters.condition(condition))
            weight = exp.Case(ifs=[exp.If(this=counts, true=self.weight.copy())], default=exp.Literal.number("0.0"))
            everything = exp.Window(this=exp.Sum(this=weight), partition_by=[k.copy() for k in keys])
            running = exp.Window(
                this=exp.Sum(this=weight.copy()), partition_by=[k.copy() for k in keys],
                order=exp.Order(expressions=[exp.Ordered(this=value.copy())]),
            )  # fmt: skip
            extra += [named(running, self._running(node)), named(everything, self._running(node) + "_all")]
        where = select.args["where"]
        rows = exp.select(exp.Star(), *extra).from_(self.plan.query.data.name).where(where.this)
        select.set("where", None)
        select.set("from_", exp.From(this=rows.subquery("weighed")))
        return select

    def _filtered(self, aggregate: exp.Expr, where: Any, also: exp.Expr | None = None) -> exp.Expr:
        condition = self._condition(where)
        built = None if condition is None else self.filters.condition(condition)
        if also is not None:
            built = also if built is None else exp.and_(built, also)
        if built is None:
            return aggregate
        return exp.Filter(this=aggregate, expression=exp.Where(this=built))

    def _weighted(self, value: exp.Expr) -> exp.Expr:
        if self.weight is None:
            return value
        return exp.Mul(this=value, expression=self.weight.copy())

    def _number(self, name: str) -> exp.Expr:
        return self.filters.number(self.plan.query.data, name)

    def _identity(self, name: str) -> exp.Expr:
        return self.filters.identity(self.plan.query.data, name)

    # -- intervals ----------------------------------------------------------------------------------------------

    def _half_widths(self) -> list[exp.Expr]:
        """95 % half-widths where the estimator's variance is known: Horvitz-Thompson for counts and sums, and its
        linearisation for means and ratios (Särndal, Swensson, Wretman: Model Assisted Survey Sampling, 5.3-5.6)."""
        found: list[exp.Expr] = []
        for i, metric in enumerate(self.plan.query.metrics):
            variance = self._variance(metric.expression)
            if variance is not None:
                root = exp.Sqrt(this=exp.Greatest(this=variance, expressions=[literal(0)]))
                found.append(named(exp.Mul(this=literal(_NORMAL_95), expression=root), f"e{i}"))
        return found

    def _variance(self, node: MetricExpression) -> exp.Expr | None:
        one = exp.Literal.number("1.0")
        if isinstance(node, Count):
            return exp.Coalesce(this=self._spread(one, one, node), expressions=[literal(0)])
        if isinstance(node, Sum):
            value = self._number(node.field)
            return exp.Coalesce(this=self._spread(value, value, node), expressions=[literal(0)])
        if isinstance(node, Mean):
            value = self._number(node.field)
            size = Count(node.where, node.field)
            return self._linearised((value, node), (one, size), self._metric(node), self._metric(size))
        if isinstance(node, Ratio) and isinstance(node.numerator, Count) and isinstance(node.denominator, Count):
            return self._linearised(
                (one, node.numerator), (one, node.denominator), self._metric(node), self._metric(node.denominator)
            )
        return None

    def _linearised(self, above: Any, below: Any, ratio: exp.Expr, size: exp.Expr) -> exp.Expr:
        (x, x_node), (y, y_node) = above, below
        xx, yy = self._spread(x, x, x_node), self._spread(y, y, y_node)
        return self._linear(xx, yy, self._spread(x, y, x_node, y_node), ratio, size)

    def _linear(self, xx: exp.Expr, yy: exp.Expr, xy: exp.Expr, ratio: exp.Expr, size: exp.Expr) -> exp.Expr:
        """The variance of a ratio, of the spreads of both sides and between them."""
        middle = exp.Mul(this=exp.Mul(this=literal(2), expression=ratio.copy()), expression=_zero(xy))
        square = exp.Mul(this=exp.Mul(this=ratio.copy(), expression=ratio.copy()), expression=_zero(yy))
        total = exp.Paren(this=exp.Add(this=exp.Sub(this=_zero(xx), expression=middle), expression=square))
        bottom = exp.Nullif(this=exp.Mul(this=size.copy(), expression=size.copy()), expression=literal(0))
        return exp.Div(this=total, expression=bottom, typed=False, safe=False)

    def _spread(self, x: exp.Expr, y: exp.Expr, node: Any, other: Any = None) -> exp.Expr:
        """Sum of w(w-1)xy over the rows that belong to the node, and to the other one if there is one."""
        assert self.weight is not None
        w = self.weight.copy()
        scaled = exp.Mul(this=w, expression=exp.Paren(this=exp.Sub(this=w.copy(), expression=literal(1))))
        product = exp.Mul(this=exp.Mul(this=scaled, expression=x.copy()), expression=y.copy())
        belongs: list[exp.Expr] = []
        for counted in (node, other):
            if isinstance(counted, Count) and counted.field is not None:
                belongs.append(exp.Not(this=exp.Is(this=self._identity(counted.field), expression=exp.Null())))
        condition = None if other is None else self._condition(other.where)
        if condition is not None:
            belongs.append(self.filters.condition(condition))
        return self._filtered(exp.Sum(this=product), node.where, exp.and_(*belongs) if belongs else None)

    # -- order and pages ------------------------------------------------------------------------------------------

    def sort_keys(self) -> list[tuple[str, bool]]:
        return sort_keys(self.plan)

    def _paged(self, select: exp.Select, cursor: Cursor | None, *, joined: bool = False) -> exp.Select:
        """One page in order; with `joined` the rows are already those of a relation named `answer`."""
        keys = self.sort_keys()
        if cursor is not None and cursor.values:
            if len(cursor.values) != len(keys):
                raise InvalidValue("the page cursor belongs to another question", code="bad-cursor")
            if not joined:
                select = exp.select(exp.Star()).from_("answer").with_("answer", as_=select, materialized=True)
            select.where(_behind(keys, cursor.values), copy=False)
        order = [exp.Ordered(this=column(name), desc=desc, nulls_first=False) for name, desc in keys]
        return select.order_by(*order, copy=False).limit(self.plan.page + 1, copy=False)


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


def _zero(value: exp.Expr) -> exp.Expr:
    return exp.Coalesce(this=value, expressions=[exp.Literal.number("0.0")])
