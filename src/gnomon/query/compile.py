"""A plan becomes SQL: expression trees built once, written out in the words of one store's dialect.

Nothing a caller sends is ever text of SQL: names come from the catalog, values become literals of the tree.
"""

from __future__ import annotations

from typing import Any

from sqlglot import exp

from gnomon.catalog import Dimension
from gnomon.event import FIELDS
from gnomon.metrics import Count, Mean, Min, Quantile, Ratio, Sum, Unique
from gnomon.metrics import Expression as MetricExpression
from gnomon.query import intervals
from gnomon.query.filters import FilterWords, column, literal, named, table, typed
from gnomon.query.model import Filter, Test, parse_filters
from gnomon.query.pages import Cursor, paged
from gnomon.query.percentiles import percentiles
from gnomon.query.plan import Plan
from gnomon.query.zones import TimeWords
from gnomon.store.dialect import Dialect

_WHOLE = frozenset(field.name for field in FIELDS if field.kind == "integer")


def compile_plan(plan: Plan, dialect: Dialect, cursor: Cursor | None = None, *, totals: bool = False) -> str:
    """The SQL text of a plan. Columns: `d0..` dimensions, `m0..` metrics, `e0..` half widths of their 95 % intervals,
    `l0..` and `h0..` low and high of those that lie unequally about the value."""
    if plan.sources.sums or plan.sources.people:
        from gnomon.query.state import compile_state  # deferred: it builds on this module

        return dialect.spoken(compile_state(plan, dialect, cursor, totals=totals))
    return dialect.spoken(Compiler(plan, dialect, totals).statement(cursor))


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
        if self.plan.weighted and self._quantiles():
            return self._put_together([self._sums(cursor), *self._raw_percentiles(cursor)], cursor)
        select = self._grouped({i: self._metric(m.expression) for i, m in enumerate(self.plan.query.metrics)})
        select = select.from_(table(self.plan.query.data.name), copy=False).where(self.where(cursor), copy=False)
        if self._names("d") and self.plan.buckets is None:
            select = paged(self.plan, select, cursor)
        return self._text(select)

    # -- parts --------------------------------------------------------------------------------------------------
    # What has to be aggregated in another way has a select of its own, with a column for every metric. They are put
    # together as text: a tree would be copied at every step.

    def _put_together(self, parts: list[str | None], cursor: Cursor | None) -> str:
        """The selects of parts as one answer, in order and as one page."""
        there = [part for part in parts if part is not None]
        text = there[0] if len(there) == 1 else self._joined(there)
        if not self._names("d") or self.plan.buckets is not None:
            return text
        page = paged(self.plan, exp.select(exp.Star()).from_(table("answer")), cursor, joined=True)
        kept = "" if cursor is None else "MATERIALIZED "  # a page that follows looks into it twice
        return f"WITH answer AS {kept}({text}) {self._text(page)}"

    def _joined(self, parts: list[str]) -> str:
        dims = self._names("d")
        columns = [f"{self._text(self._brought(name))} AS {name}" for name in [*self._names("m"), *self._names("e")]]
        grouped = f" GROUP BY {', '.join(dims)}" if dims else ""
        return f"SELECT {', '.join([*dims, *columns])} FROM ({' UNION ALL '.join(parts)}) AS parts{grouped}"

    def _brought(self, name: str) -> exp.Expr:
        """One column of the joined parts; what only some part has is null in the others."""
        found: exp.Expr = exp.Max(this=column(name))
        node = self.plan.query.metrics[int(name[1:])].expression if name[0] == "m" else None
        if isinstance(node, Count | Sum | Unique) or name[0] == "e":
            found = exp.Coalesce(this=found, expressions=[literal(0)])
        return found

    def _names(self, kind: str) -> list[str]:
        """The columns of the dimensions (`d`), of the metrics (`m`), or of their intervals (`e`)."""
        query = self.plan.query
        if kind == "d":
            return [] if self.totals else [f"d{i}" for i in range(len(query.dimensions))]
        if kind == "m":
            return [f"m{i}" for i in range(len(query.metrics))]
        if not self.plan.weighted:
            return []
        nodes = [metric.expression for metric in query.metrics]
        bounded = [i for i, node in enumerate(nodes) if isinstance(node, Quantile) and not self.plan.rolled]
        return [
            *(f"e{i}" for i, node in enumerate(nodes) if intervals.has_half_width(node)),
            *(f"{end}{i}" for i in bounded for end in "lh"),
        ]

    def _dims(self) -> list[exp.Expr]:
        return [named(self._dimension(self.plan.query.dimensions[int(name[1:])]), name) for name in self._names("d")]

    def _grouped(self, own: dict[int, exp.Expr], *, errors: bool = True) -> exp.Select:
        """A select of some of the metrics, with half widths; what is not its own is null."""
        dims, metrics = (
            self._dims(),
            [named(own.get(i) or self._no_number(), name) for i, name in enumerate(self._names("m"))],
        )
        words = [named(self._interval_word(name) if errors else self._no_number(), name) for name in self._names("e")]
        select = exp.select(*dims, *metrics, *words, copy=False)
        if dims:
            select.group_by(*[exp.Literal.number(i + 1) for i in range(len(dims))], copy=False)
        return select

    def _interval_word(self, name: str) -> exp.Expr:
        variance = self._variance(self.plan.query.metrics[int(name[1:])].expression) if name[0] == "e" else None
        return self._no_number() if variance is None else intervals.half_width(variance)

    def _no_number(self) -> exp.Expr:
        return exp.Var(this=self.dialect.no_number)

    def _sums(self, cursor: Cursor | None) -> str | None:
        """Everything but the percentiles; every group is there, also those that have none."""
        own = {
            i: self._metric(m.expression) for i, m in enumerate(self.plan.query.metrics)
            if not isinstance(m.expression, Quantile)
        }  # fmt: skip
        if not own and not self._names("d"):
            return None
        select = self._grouped(own).from_(table(self.plan.query.data.name), copy=False)
        return f"({self._text(select.where(self.where(cursor), copy=False))})"

    def _raw_percentiles(self, cursor: Cursor | None) -> list[str]:
        """A part for every field and condition of which percentiles are asked, from raw rows."""
        return [self._percentile_rows(asked, cursor) for asked in self._by_field()]

    def _by_field(self) -> list[list[tuple[int, Quantile]]]:
        found: dict[tuple[str, str], list[tuple[int, Quantile]]] = {}
        for i, metric in enumerate(self.plan.query.metrics):
            node = metric.expression
            if isinstance(node, Quantile):
                found.setdefault((node.field, str(node.where)), []).append((i, node))
        return list(found.values())

    def _percentile_rows(self, asked: list[tuple[int, Quantile]], cursor: Cursor | None) -> str:
        node = asked[0][1]
        value = self._number(node.field)
        parts = [self.where(cursor), exp.Not(this=exp.Is(this=value.copy(), expression=exp.Null()))]
        condition = self._condition(node.where)
        if condition is not None:
            parts.append(self.filters.condition(condition))
        select = exp.select(*self._dims(), named(value, "x"), named(column("weight"), "w"), copy=False)
        rows = select.from_(table(self.plan.query.data.name), copy=False)
        rows.where(exp.and_(*parts, copy=False), copy=False)
        return percentiles(
            self._text(rows), self._names("d"), [*self._names("m"), *self._names("e")], asked, self.dialect
        )

    def _text(self, tree: exp.Expr) -> str:
        return tree.sql(dialect=self.dialect.sqlglot, copy=False)

    # -- rows ---------------------------------------------------------------------------------------------------

    def where(self, cursor: Cursor | None) -> exp.Expr:
        """Which raw rows belong to the answer."""
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
            total = exp.Sum(this=self._addable(value) if self.weight is None else self._weighted(value))
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
            return self.dialect.average(self._filtered(exp.Avg(this=self._addable(value)), node.where))
        present = exp.Not(this=exp.Is(this=value.copy(), expression=exp.Null()))
        above = self._filtered(exp.Sum(this=self._weighted(value)), node.where)
        below = self._filtered(exp.Sum(this=self.weight.copy()), node.where, present)
        return exp.Div(this=above, expression=exp.Nullif(this=below, expression=literal(0)), typed=False, safe=False)

    def _quantile(self, node: Quantile, value: exp.Expr) -> exp.Expr:
        wanted = sorted({n.q for n in self._quantiles() if (n.field, n.where) == (node.field, node.where)})
        if len(wanted) == 1:
            return self._filtered(self.dialect.quantile(value, node.q), node.where)
        several = self._filtered(self.dialect.quantiles(value, wanted), node.where)  # one state for all of them
        return self.dialect.nth(several, wanted.index(node.q) + 1)

    def _quantiles(self) -> list[Quantile]:
        return [m.expression for m in self.plan.query.metrics if isinstance(m.expression, Quantile)]

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

    def _addable(self, value: exp.Expr) -> exp.Expr:
        """A measure such that no sum of it is too large."""
        return self.dialect.whole(value) if isinstance(value, exp.Column) and value.name in _WHOLE else value

    def _number(self, name: str) -> exp.Expr:
        return self.filters.number(self.plan.query.data, name)

    def _identity(self, name: str) -> exp.Expr:
        return self.filters.identity(self.plan.query.data, name)

    # -- intervals ----------------------------------------------------------------------------------------------

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
        return intervals.of_ratio(xx, yy, self._spread(x, y, x_node, y_node), ratio, size)

    def _spread(self, x: exp.Expr, y: exp.Expr, node: Any, other: Any = None) -> exp.Expr:
        """Sum of w(w-1)xy over the rows that belong to the node, and to the other one if there is one."""
        assert self.weight is not None
        belongs: list[exp.Expr] = []
        for counted in (node, other):
            if isinstance(counted, Count) and counted.field is not None:
                belongs.append(exp.Not(this=exp.Is(this=self._identity(counted.field), expression=exp.Null())))
        condition = None if other is None else self._condition(other.where)
        if condition is not None:
            belongs.append(self.filters.condition(condition))
        total = exp.Sum(this=intervals.scaled(self.weight, x, y))
        return self._filtered(total, node.where, exp.and_(*belongs) if belongs else None)
