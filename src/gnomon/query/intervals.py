"""What is known of the error of an estimate: variances of weighted sums, and the words of their 95 % intervals.

Rows are kept by coins of their own (Poisson sampling) with probability 1/w, so the Horvitz-Thompson sum of w x has the
variance sum of w(w-1) x^2 over the kept rows; means and ratios are linearised (Särndal, Swensson, Wretman: Model
Assisted Survey Sampling, 1992, 3.5 and 5.3-5.6). Percentiles have a file of their own, `query.percentiles`.
"""

from __future__ import annotations

from sqlglot import exp

from gnomon.metrics import Count, Expression, Mean, Quantile, Ratio, Sum
from gnomon.query.filters import literal

NORMAL_95 = 1.959963984540054  #: two-sided 95 % quantile of the normal distribution

#: Why a number of an estimate has no interval, see `reason_of`.
TOO_FEW, HISTOGRAM, AS_SEEN, NO_FORMULA = "too_few", "histogram", "as_seen", "no_formula"


def has_half_width(node: Expression) -> bool:
    """Whether the variance of a metric's estimator is known, so that its interval is the value -/+ a half width."""
    if isinstance(node, Ratio):
        return isinstance(node.numerator, Count) and isinstance(node.denominator, Count)
    return isinstance(node, Count | Sum | Mean)


def reason_of(node: Expression) -> str:
    """Why a metric without half widths has no interval in an estimate either, unless it has bounds of its own."""
    if isinstance(node, Quantile):
        return HISTOGRAM
    return NO_FORMULA if isinstance(node, Ratio) else AS_SEEN


def half_width(variance: exp.Expr) -> exp.Expr:
    """Half of the 95 % interval of an estimate that is near to normal; null where there is no variance, while
    `GREATEST` would make that 0 in some stores."""
    below = exp.LT(this=variance, expression=literal(0))
    sound = exp.Case(ifs=[exp.If(this=below, true=literal(0))], default=variance.copy())
    return exp.Mul(this=literal(NORMAL_95), expression=exp.Sqrt(this=sound))


def scaled(weight: exp.Expr, x: exp.Expr, y: exp.Expr) -> exp.Expr:
    """w(w-1)xy: what one kept row adds to the covariance of the sums of w x and w y."""
    less = exp.Paren(this=exp.Sub(this=weight.copy(), expression=literal(1)))
    doubt = exp.Mul(this=weight.copy(), expression=less)
    return exp.Mul(this=exp.Mul(this=doubt, expression=x.copy()), expression=y.copy())


def of_ratio(xx: exp.Expr, yy: exp.Expr, xy: exp.Expr, ratio: exp.Expr, size: exp.Expr) -> exp.Expr:
    """The variance of a ratio X/Y: (V(X) - 2 r C(X, Y) + r^2 V(Y)) / Y^2."""
    middle = exp.Mul(this=exp.Mul(this=literal(2), expression=ratio.copy()), expression=zero(xy))
    square = exp.Mul(this=exp.Mul(this=ratio.copy(), expression=ratio.copy()), expression=zero(yy))
    total = exp.Paren(this=exp.Add(this=exp.Sub(this=zero(xx), expression=middle), expression=square))
    bottom = exp.Nullif(this=exp.Mul(this=size.copy(), expression=size.copy()), expression=literal(0))
    return exp.Div(this=total, expression=bottom, typed=False, safe=False)


def zero(value: exp.Expr) -> exp.Expr:
    """A sum, 0 where it is over nothing."""
    return exp.Coalesce(this=value, expressions=[exp.Literal.number("0.0")])
