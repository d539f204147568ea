"""Weighted percentiles and the bounds of their 95 % intervals, as the text of one select; `query.compile` joins it.

A percentile Q is the smallest value at which the running weight reaches the level q W. Its interval is Woodruff's
(JASA 47, 1952, 635-646; Särndal, Swensson, Wretman: Model Assisted Survey Sampling, 1992, 5.11): the share of the
weight at or below Q is a ratio of two Horvitz-Thompson sums, with the linearised variance

    s^2 = sum of w(w-1) (1[x <= Q] - q)^2 / W^2,

and the values at which the running weight reaches (q -/+ 1.96 s) W bound Q with the probability with which the share
at the true Q lies that near to q. So the bounds are values of the data, and lie at unequal distances from it.
"""

from __future__ import annotations

from collections.abc import Sequence

from gnomon.metrics import Quantile
from gnomon.query import intervals
from gnomon.store.dialect import Dialect

#: Where fewer rows than this that stand for others are to be expected on one side of a percentile, the normal
#: distribution promises too much, and there are no bounds. They are counted as (sum of w(w-1))^2 / sum of (w(w-1))^2
#: (after Kish, Survey Sampling, 1965, 11.7) over all rows of the group: to count those beyond the percentile would give
#: bounds just where by chance no heavy one was kept there.
FEW = 10
#: Values are cut into bins that are 1/32 of their size wide, to look closely only where a level lies.
_BINS = 32
#: Sums of weights may end this much (relative) apart when they are added in another order. The closer look is the more
#: generous one, so that it finds in a bin what the bin was chosen for.
_NEAR, _NEARER = 1e-12, 1e-11


def percentiles(rows: str, dims: Sequence[str], columns: Sequence[str], asked: Sequence[tuple[int, Quantile]],
                dialect: Dialect) -> str:  # fmt: skip
    """A select of `dims` and `columns`: of the percentile in place i `m<i>`, and the bounds `l<i>` and `h<i>` if they
    are among the columns; the others are null.

    `rows` selects the dimensions, the values `x` and the weights `w`. They are summed by bins, from which the levels
    are told; then only the rows of the few bins in which a level lies are put in order. Against windows over all rows
    this takes less than half the time (docs/decisions/0015).
    """
    over = f"PARTITION BY {', '.join(dims)} " if dims else ""
    keys = "".join(f"{name}, " for name in dims)
    grouped = f" GROUP BY {', '.join(dims)}" if dims else ""
    levels = {end: at for i, _ in asked for end, at in _levels(i, bounded=f"l{i}" in columns)}
    wanted = " OR ".join(f"({at} * {1 - _NEAR!r} <= reached AND reached - w <= {at} * {1 + _NEAR!r})"
                         for at in levels.values())  # fmt: skip
    same = "".join(f" AND near.{name} IS NOT DISTINCT FROM marked.{name}" for name in dims)
    numbers = [f"{name}{i}" for i, _ in asked for name in ("level", "error")]
    told = ", ".join(f"marked.{name} AS {name}" for name in [*dims, *numbers])
    within = ", ".join([*(f"near.{name}" for name in dims), "near.bin"])
    steps = {
        "near": f"SELECT *, CAST(FLOOR(SIGN(x) * LN(1 + ABS(CAST(x AS {dialect.real}))) * {_BINS}) AS INT) AS bin "
                f"FROM ({rows}) AS kept",
        "bins": f"SELECT {keys}bin, SUM(w) AS w, SUM(w * (w - 1)) AS v, "
                f"SUM(POWER(w * (w - 1), 2)) AS u FROM near GROUP BY {keys}bin",
        "run": f"SELECT *, SUM(w) OVER ({over}ORDER BY bin) AS reached, SUM(v) OVER ({over}ORDER BY bin) AS doubted, "
               f"SUM(w) OVER ({over}) AS total, SUM(v) OVER ({over}) AS doubt, "
               f"POWER(SUM(v) OVER ({over}), 2) / NULLIF(SUM(u) OVER ({over}), 0) AS doubtful FROM bins",
        "told": f"SELECT *, {', '.join(_before(i, node, over) for i, node in asked)} FROM run",
        "level": f"SELECT *, {', '.join(_level(i, node) for i, node in asked)} FROM told",
        "marked": f"SELECT * FROM level WHERE {wanted}",
        "close": f"SELECT {told}, near.x AS x, reached - marked.w + SUM(near.w) OVER (PARTITION BY {within} "
                 f"ORDER BY near.x) AS so_far FROM near JOIN marked ON near.bin = marked.bin{same}",
    }  # fmt: skip
    found = {name: f"MIN(CASE WHEN {at} * {1 - _NEARER!r} <= so_far THEN x END)" for name, at in levels.items()}
    answer = ", ".join([*dims, *(f"{found.get(name, dialect.no_number)} AS {name}" for name in columns)])
    with_ = ", ".join(f"{name} AS {'MATERIALIZED ' * (name == 'near')}({text})" for name, text in steps.items())
    return f"(WITH {with_} SELECT {answer} FROM close{grouped})"


def _levels(i: int, *, bounded: bool) -> list[tuple[str, str]]:
    """The columns and the running weights that they take."""
    ends = [(f"l{i}", f"(level{i} - error{i})"), (f"h{i}", f"(level{i} + error{i})")] if bounded else []
    return [(f"m{i}", f"level{i}"), *ends]


def _before(i: int, node: Quantile, over: str) -> str:
    """The sum of w(w-1) below the level; of the bin in which the level lies, the part that its weight has below it.

    Where many rows have the same value, this part is neither none nor all of them: the share then jumps over q, and its
    variance is wanted where it would be q.
    """
    at = f"{node.q!r} * total"
    part = f"v * GREATEST({at} - reached + w, 0) / w"
    return f"MIN(CASE WHEN {at} * {1 - _NEAR!r} <= reached THEN doubted - v + {part} END) OVER ({over}) AS before{i}"


def _level(i: int, node: Quantile) -> str:
    """The level q W and 1.96 s W, null where there are too few rows to tell.

    In s, what lies below the level counts with (1-q)^2 and what lies above with q^2.
    """
    below, above = (1 - node.q) ** 2, node.q**2
    variance = f"GREATEST({below!r} * before{i} + {above!r} * (doubt - before{i}), 0)"
    error = f"{intervals.NORMAL_95!r} * SQRT({variance})"
    side = min(node.q, 1 - node.q)
    enough = f"(doubt = 0 OR {side!r} * doubtful >= {FEW}) AND {error} <= {side!r} * total"  # levels from 0 to W
    return f"{node.q!r} * total AS level{i}, CASE WHEN {enough} THEN {error} END AS error{i}"
