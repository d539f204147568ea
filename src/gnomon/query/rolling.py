"""People over the days that end with each day: everybody once a window, from one look at who was there on which day.

Whoever is active on day d counts for the windows that end on d to d + w - 1, or until the day of the next activity,
from which it goes on. So each activity opens a count and closes it again, and a running sum is the answer: the cost is
that of sorting people's days, not that of a question for every day.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from sqlglot import exp

from gnomon.query.compile import Compiler
from gnomon.query.gaps import seconds_of
from gnomon.query.plan import Plan
from gnomon.query.relations import people_rows
from gnomon.query.result import Basis, Result, Row
from gnomon.query.sources import needed
from gnomon.store.dialect import Dialect
from gnomon.timerange import Grain, from_us, period_number


def rolling_statement(plan: Plan, dialect: Dialect, window: int) -> str:
    """`(local day, by how many the count moves)`, days without a change left out."""
    compiler = Compiler(plan, dialect, totals=False)
    day = compiler.times.bucket("day").sql(dialect=dialect.sqlglot)
    if plan.sources.people:
        keep = sorted(needed(plan.query, people=True))
        rows, where = f"({people_rows(plan, plan.version, keep, 'day', dialect)}) AS state", ""
        if plan.query.filters is not None:
            where = f" WHERE {_text(compiler.filters.condition(plan.query.filters), dialect)}"
        person = "person"
    else:
        rows, where = plan.query.data.name, f" WHERE {_text(compiler.where(None), dialect)}"
        person = "COALESCE(user_id, device_id)"
    return dialect.spoken(
        f"WITH seen AS (SELECT DISTINCT {day} AS day, {person} AS person FROM {rows}{where}), "
        # Behind the last day there is a null only where the column may hold one, or so ClickHouse has it.
        f"spans AS (SELECT day, LEAST(day + {window}, LEAD(NULLIF(day, NULL)) OVER (PARTITION BY person ORDER BY day)) "
        "AS until FROM seen WHERE person IS NOT NULL), "
        "moves AS (SELECT day, 1 AS n FROM spans UNION ALL SELECT until AS day, -1 AS n FROM spans) "
        "SELECT day, CAST(SUM(n) AS BIGINT) FROM moves GROUP BY day ORDER BY day"
    )


def _text(tree: exp.Expr, dialect: Dialect) -> str:
    return tree.sql(dialect=dialect.sqlglot)


def rolling_result(plan: Plan, window: int, moves: Sequence[tuple[int, int]], now_us: int, sql: str, *,
                   cached: bool) -> Result:  # fmt: skip
    """The series of a plan by day whose range begins `window` - 1 days before the first day that is answered."""
    assert plan.buckets is not None
    zone, metric = plan.range.zone, plan.query.metrics[0].name
    days, counts = [day for day, _ in moves], list(accumulate(n for _, n in moves))
    first = period_number(Grain.DAY, plan.range.start_us, zone) + window - 1
    numbers = [period_number(Grain.DAY, start, zone) for start in plan.buckets]
    name = plan.query.dimensions[0].name
    rows: list[Row] = []
    gaps = set()
    for place, (number, start) in enumerate(zip(numbers, plan.buckets, strict=True)):
        if number < first:
            continue
        at = bisect_right(days, number)
        count: int | None = counts[at - 1] if at else 0
        reached = plan.buckets[max(0, place - window + 1) : place + 1]
        if not count and all(each in plan.gaps for each in reached):
            gaps.add(len(rows))
        if start > now_us or len(rows) in gaps:
            count = None
        rows.append(Row.of([name, metric], [from_us(start, zone), count], len(rows)))
    basis = _basis(plan, cached, len(gaps))
    return Result([name], [metric], rows, basis, sql=(sql,), uncollected=plan.uncollected, gap_rows=frozenset(gaps))


def _basis(plan: Plan, cached: bool, gaps: int) -> Basis:
    return Basis(plan.basis, not plan.weighted, plan.version, plan.range.start, plan.range.end, str(plan.range.zone),
                 plan.steps, cached, 0.0, seconds_of(plan.uncollected), gaps)  # fmt: skip
