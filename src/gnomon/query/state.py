"""The SQL of an answer that rests on rollups: every source as rows of mergeable state, then one aggregate over them.

Raw rows become state of a single row, so rollups and the raw rows that they do not have yet are simply put one below
the other. Counts and sums, people and percentiles are aggregated apart and joined by the dimensions' values.
"""

from __future__ import annotations

from sqlglot import exp

from gnomon.metrics import Count, Max, Mean, Min, Quantile, Ratio, Sum, Unique
from gnomon.metrics import Expression as MetricExpression
from gnomon.query import intervals
from gnomon.query.compile import Compiler
from gnomon.query.filters import column, literal, named, table, typed
from gnomon.query.pages import Cursor
from gnomon.query.plan import Plan
from gnomon.query.relations import histogram_rows, people_by_day, people_rows, state_rows
from gnomon.query.sources import leaves, needed
from gnomon.store.dialect import Dialect
from gnomon.store.rollups import MEASURES, value_of


def compile_state(plan: Plan, dialect: Dialect, cursor: Cursor | None = None, *, totals: bool = False) -> str:
    """As `compile_plan`, of a plan whose sources are rollups."""
    return _StateCompiler(plan, dialect, totals).statement(cursor)


class _StateCompiler(Compiler):
    """Metrics over rows of state: `n` and `v` of the rows, and `<measure>_<part>` (see migration 2)."""

    def __init__(self, plan: Plan, dialect: Dialect, totals: bool) -> None:
        super().__init__(plan, dialect, totals)
        self.keep = sorted(needed(plan.query, people=False))
        self.version = plan.version

    def statement(self, cursor: Cursor | None) -> str:
        """The texts of the parts, joined. They are put together as text: a tree would be copied at every step."""
        if cursor is not None:
            self.version = cursor.version
        of_rows = Cursor((), self.version)
        percentiles = self._percentiles() if self.plan.rolled else self._raw_percentiles(of_rows)
        return self._put_together([self._sums(cursor), self._people(), *percentiles], cursor)

    def _part(self, rows: str, own: dict[int, exp.Expr], *, errors: bool = False) -> str:
        """One grouped select with a column for every metric, null for those of other parts."""
        select = self._grouped(own, errors=errors).from_(table("state"), copy=False)
        if self.plan.query.filters is not None:
            select.where(self.filters.condition(self.plan.query.filters), copy=False)
        return f"(WITH state AS ({rows}) {self._text(select)})"

    def _sums(self, cursor: Cursor | None) -> str | None:
        own = {
            i: self._metric(m.expression) for i, m in enumerate(self.plan.query.metrics)
            if not isinstance(m.expression, Unique | Quantile)
        }  # fmt: skip
        if not self.plan.sources.sums or not (own or self._names("d")):
            return None
        fields = {getattr(leaf, "field", None) for leaf in leaves(self.plan.query)}
        measures = [name for name in MEASURES if name in fields]
        return self._part(state_rows(self.plan, self.version, self.keep, measures, self.dialect), own, errors=True)

    def _people(self) -> str | None:
        if not self.plan.sources.people:
            return None
        asked = {i: m.expression for i, m in enumerate(self.plan.query.metrics) if isinstance(m.expression, Unique)}
        grains = [] if self.totals else [d.grain for d in self.plan.query.dimensions if d.grain is not None]
        finest = next((grain for grain in grains if grain in ("hour", "hour_of_day")), grains[0] if grains else None)
        keep = sorted(needed(self.plan.query, people=True))
        own: dict[int, exp.Expr] = {}
        if grains == ["day"] and not keep:
            counted = people_by_day(self.plan, self.version, self.dialect)
            if counted is not None:
                own = {i: exp.Cast(this=exp.Sum(this=column("seen")), to=typed("BIGINT")) for i in asked}
                return self._part(counted, own)
        for i, node in asked.items():
            own[i] = self._filtered(exp.Count(this=exp.Distinct(expressions=[column("person")])), node.where)
        return self._part(people_rows(self.plan, self.version, keep, finest, self.dialect), own)

    def _percentiles(self) -> list[str]:
        return [self._percentile_part(asked) for asked in self._by_field()]

    def _percentile_part(self, asked: list[tuple[int, Quantile]]) -> str:
        node = asked[0][1]
        dims = self._dims()
        rows = histogram_rows(self.plan, self.version, self.keep, node.field, self.dialect)
        weight = named(exp.Sum(this=column("w")), "w")
        bins = exp.select(*dims, column("bin"), weight, copy=False).from_(table("state"), copy=False)
        for condition in (self.plan.query.filters, self._condition(node.where)):
            if condition is not None:
                bins.where(self.filters.condition(condition), copy=False)
        bins.group_by(*[exp.Literal.number(i + 1) for i in range(len(dims) + 1)], copy=False)
        names = ", ".join(self._names("d"))
        over = f"PARTITION BY {names}" if names else ""
        bins_of = {i: f"MIN(CASE WHEN reached >= {q.q * (1 - 1e-12)!r} * total THEN bin END)" for i, q in asked}
        read = {i: value_of(found, self.dialect.real) for i, found in bins_of.items()}
        columns = [f"{read.get(i, self.dialect.no_number)} AS {name}" for i, name in enumerate(self._names("m"))]
        columns += [f"{self.dialect.no_number} AS {name}" for name in self._names("e")]
        run = f"SELECT *, SUM(w) OVER ({over} ORDER BY bin) AS reached, SUM(w) OVER ({over}) AS total FROM bins"
        answer = f"SELECT {', '.join([*self._names('d'), *columns])} FROM run{' GROUP BY ' + names if names else ''}"
        return f"(WITH state AS ({rows}), bins AS ({self._text(bins)}), run AS ({run}) {answer})"

    # -- metrics over rows of state -----------------------------------------------------------------------------

    def _metric(self, node: MetricExpression) -> exp.Expr:
        if isinstance(node, Ratio | Count):
            return super()._metric(node)
        if isinstance(node, Mean):
            above = self._filtered(exp.Sum(this=column(f"{node.field}_sum")), node.where)
            below = self._filtered(exp.Sum(this=column(f"{node.field}_has")), node.where)
            real = exp.Cast(this=above, to=typed("DOUBLE"))
            return exp.Div(this=real, expression=exp.Nullif(this=below, expression=literal(0)), typed=False, safe=False)
        if isinstance(node, Sum):
            total = self._filtered(exp.Sum(this=column(f"{node.field}_sum")), node.where)
            kind = "DOUBLE" if node.field == "duration_ms" or self.plan.weighted else self.dialect.huge
            return exp.Coalesce(this=exp.Cast(this=total, to=exp.DataType.build(kind)), expressions=[literal(0)])
        part = "min" if isinstance(node, Min) else "max"
        assert isinstance(node, Min | Max)
        return self._filtered((exp.Min if part == "min" else exp.Max)(this=column(f"{node.field}_{part}")), node.where)

    def _count(self, node: Count) -> exp.Expr:
        name = "n"
        where = None
        if node.field in MEASURES:
            name = f"{node.field}_has"
        elif node.field is not None:
            where = exp.Not(this=exp.Is(this=self._identity(node.field), expression=exp.Null()))
        total = exp.Coalesce(
            this=self._filtered(exp.Sum(this=column(name)), node.where, where), expressions=[exp.Literal.number("0.0")]
        )
        return total if self.plan.weighted else exp.Cast(this=total, to=typed("BIGINT"))

    def _variance(self, node: MetricExpression) -> exp.Expr | None:
        if isinstance(node, Count):
            return exp.Coalesce(this=self._of("v", node), expressions=[literal(0)])
        if isinstance(node, Sum):
            return exp.Coalesce(this=self._of(f"{node.field}_v2", node), expressions=[literal(0)])
        if isinstance(node, Mean):
            xx, yy, xy = (self._of(f"{node.field}_v{k}", node) for k in (2, 0, 1))
            return intervals.of_ratio(xx, yy, xy, self._metric(node), self._count(Count(node.where, node.field)))
        if isinstance(node, Ratio) and isinstance(node.numerator, Count) and isinstance(node.denominator, Count):
            xy = self._of("v", node.numerator, node.denominator)
            xx, yy = self._of("v", node.numerator), self._of("v", node.denominator)
            return intervals.of_ratio(xx, yy, xy, self._metric(node), self._count(node.denominator))
        return None

    def _of(self, name: str, node: Count | Sum | Mean, other: Count | None = None) -> exp.Expr:
        if isinstance(node, Count) and node.field in MEASURES:
            name = f"{node.field}_v0"
        also = None if other is None or other.where is None else self._condition(other.where)
        return self._filtered(
            exp.Sum(this=column(name)), node.where, None if also is None else self.filters.condition(also)
        )
