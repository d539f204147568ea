"""Time buckets in any zone as integer arithmetic: the zone's offsets are found once per query, not per row.

Every bucket is one integer: for minutes and hours its start in UTC microseconds, for longer periods the period's
number in local time (see `gnomon.timerange.period_number`).
"""

from __future__ import annotations

from zoneinfo import ZoneInfo

from sqlglot import exp

from gnomon.query.filters import column, literal
from gnomon.store.dialect import Dialect
from gnomon.timerange import US_DAY, US_HOUR, US_MINUTE, DateRange, OffsetPiece, offset_pieces

_WIDTH = {"minute": US_MINUTE, "hour": US_HOUR}
#: Added before a division and taken off after it, so that no operand is negative near 1970: whole weeks.
_LIFT_DAYS = 7 * 1_000_000


class TimeWords:
    """Bucket expressions for one range and its stretches of constant offset."""

    def __init__(self, dialect: Dialect, span: DateRange, pieces: tuple[OffsetPiece, ...]) -> None:
        self.dialect = dialect
        self.pieces = pieces
        self.lift = _LIFT_DAYS if span.start_us < 8 * US_DAY else 0

    def bucket(self, grain: str) -> exp.Expr:
        """The integer that names the bucket of a row's ts."""
        if grain in _WIDTH:
            return self._clock(_WIDTH[grain])
        if grain == "hour_of_day":
            return _mod(self._div(self._local(), US_HOUR), 24)
        days = self._div(self._local(), US_DAY)
        if grain == "day_of_week":
            return exp.Add(
                this=_mod(exp.Paren(this=exp.Add(this=days, expression=literal(3))), 7), expression=literal(1)
            )
        if grain == "day":
            return self._lowered(days, self.lift)
        if grain == "week":
            return self._lowered(self._div(exp.Add(this=days, expression=literal(3)), 7), self.lift // 7)
        return self._calendar(grain)

    def _clock(self, width: int) -> exp.Expr:
        start: exp.Expr = exp.Mul(this=self._div(self._local(), width), expression=literal(width))
        if not _is_zero(offset := self._offset()):
            start = exp.Sub(this=start, expression=exp.Paren(this=offset))
        aligned = all((piece.start_us + piece.offset_us) % width == 0 for piece in self.pieces[1:])
        if aligned:
            return start
        cut = self._by_piece([piece.start_us for piece in self.pieces])
        return exp.Greatest(this=start, expressions=[cut])

    def _calendar(self, grain: str) -> exp.Expr:
        local = self.dialect.moment(exp.Add(this=self._us(), expression=exp.Paren(this=self._plain_offset())))
        year = self.dialect.year(local)
        if grain == "year":
            return year
        month = exp.Sub(this=self.dialect.month(local.copy()), expression=literal(1))
        if grain == "quarter":
            return exp.Add(this=exp.Mul(this=year, expression=literal(4)), expression=self._div(month, 3))
        return exp.Add(this=exp.Mul(this=year, expression=literal(12)), expression=month)

    def _lowered(self, number: exp.Expr, by: int) -> exp.Expr:
        return exp.Sub(this=number, expression=literal(by)) if by else number

    def _div(self, value: exp.Expr, by: int) -> exp.Expr:
        return self.dialect.divided(exp.Paren(this=value), by)

    def _us(self) -> exp.Expr:
        return self.dialect.epoch_us(column("ts"))

    def _local(self) -> exp.Expr:
        offset = self._offset()
        return self._us() if _is_zero(offset) else exp.Add(this=self._us(), expression=exp.Paren(this=offset))

    def _offset(self) -> exp.Expr:
        return self._by_piece([piece.offset_us + self.lift * US_DAY for piece in self.pieces])

    def _plain_offset(self) -> exp.Expr:
        return self._by_piece([piece.offset_us for piece in self.pieces])

    def _by_piece(self, values: list[int | None]) -> exp.Expr:
        """A value that depends on the stretch of constant offset in which ts lies."""
        found = [exp.Literal.number(0) if value is None else literal(value) for value in values]
        if len(found) == 1:
            return found[0]
        ifs = [
            exp.If(this=exp.LT(this=column("ts"), expression=self.dialect.moment(literal(piece.end_us))), true=value)
            for piece, value in zip(self.pieces[:-1], found[:-1], strict=True)
        ]
        return exp.Case(ifs=ifs, default=found[-1])


def local_day(dialect: Dialect, zone: ZoneInfo, first_us: int, last_us: int) -> str:
    """The SQL of the local day number of `ts`, for rows within the given span (UTC microseconds)."""
    pieces = offset_pieces(zone, first_us - US_DAY, last_us + US_DAY)
    words = TimeWords(dialect, DateRange(first_us - US_DAY, last_us + US_DAY, zone), pieces)
    return words.bucket("day").sql(dialect=dialect.sqlglot)


def _is_zero(value: exp.Expr) -> bool:
    return isinstance(value, exp.Literal) and value.this == "0"


def _mod(value: exp.Expr, by: int) -> exp.Expr:
    return exp.Mod(this=exp.Paren(this=value), expression=literal(by))
